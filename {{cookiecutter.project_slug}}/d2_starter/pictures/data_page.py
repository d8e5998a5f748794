"""An HTML page of a dataset's images: as annotated, and augmented as in training."""

from collections import Counter
from collections.abc import Collection
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.env import seed_all_rng
from PIL import Image

from ..data.image import read_image, read_label_map
from .predictions import WIDTH, draw_annotations, draw_inputs, keypoint_colors, thing_names

GENERATOR = '<meta name="generator" content="tools/visualize_data.py">'
PICTURES = "pictures"  # the folder beside index.html

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
$generator
<title>$title</title>
<style>
  :root { color-scheme: light dark; --text: #1c1e21; --soft: #5c636b; --line: #d9dde2;
    --page: #fff; --box: #f3f5f7; --error: #a3140f; }
  @media (prefers-color-scheme: dark) { :root { --text: #e8eaed; --soft: #a3abb4;
    --line: #3a3f45; --page: #16181b; --box: #22262a; --error: #ff9a91; } }
  body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: ${width}rem; color: var(--text);
    background: var(--page); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
  h1 { margin: 0 0 .5rem; font-size: 1.75rem; line-height: 1.2; }
  h2 { margin: 0; font-size: 1.0625rem; }
  p { margin: 0 0 .75rem; max-width: 44rem; }
  a { color: inherit; }
  code, pre { font: .875rem/1.5 ui-monospace, monospace; }
  pre { margin: 0 0 .75rem; padding: .5rem .75rem; background: var(--box); white-space: pre-wrap;
    border-radius: .375rem; }
  details { margin: 0 0 .75rem; }
  summary { cursor: pointer; font-weight: 600; }
  table { margin: .25rem 0; border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--line); }
  th { text-align: left; font-weight: 600; overflow-wrap: normal; }
  td, th + th { text-align: right; }
  tbody th { min-width: 6rem; font-weight: 400; overflow-wrap: anywhere; }
  i { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border-radius: 50%;
    border: 1px solid var(--soft); vertical-align: -.06em; }
  .points span { margin-right: 1rem; white-space: nowrap; }
  article { margin-top: 1.5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
  article p { margin: 0 0 .5rem; max-width: none; }
  article p, figcaption { color: var(--soft); font-size: .9375rem; }
  .figures { display: grid; gap: .75rem 1rem; --widest: calc(100% / $columns - 1rem);
    grid-template-columns: repeat(auto-fill, minmax(min(100%, max(18rem, var(--widest))), 1fr)); }
  figure { margin: 0; max-width: 30rem; }
  img { display: block; max-width: 100%; height: auto; border-radius: .25rem;
    background: var(--box); }
  figcaption { margin-top: .25rem; }
  .error { color: var(--error); }
  figure .error { margin: 0; padding: .75rem; background: var(--box); border-radius: .25rem; }
</style>
</head>
<body>
<header>
<h1>$name</h1>
$header
</header>
<main>
$entries
</main>
</body>
</html>
""")


class DataPage:
    """Entries of images, with their pictures in a folder, and a page that shows them.

    `errors` has the file names of the images with which something was wrong, by their index.
    """

    def __init__(
        self,
        records: list[dict],
        metadata: Metadata,
        mapper,
        folder: Path,
        *,
        classes: Collection[str] | None = None,
        augmented: int = 2,
        seed: int = 0,
    ):
        """
        Args:
            records: all dataset dicts of the dataset.
            mapper: the one for training.
            folder: where it all goes; it is there, and empty.
            classes: those whose objects are drawn; None is all of them.
            augmented: how often an image is shown augmented.
        """
        self.records, self.metadata, self.mapper, self.folder = records, metadata, mapper, folder
        if hasattr(augment := getattr(mapper, "augment", None), "set_images"):
            augment.set_images(records)  # which it may put together
        self.classes, self.augmented, self.seed = classes, augmented, seed
        self.errors = {}
        self._entries, self._found = [], Counter()
        (folder / PICTURES).mkdir()

    def add(self, index: int):
        """Draws an image. If it cannot be read or mapped, the entry says why not."""
        record, figures, errors = self.records[index], [], []
        name = escape(Path(record["file_name"]).name)
        try:
            found = contents(record, self.metadata)
        except OSError:
            found = {}  # the error comes again where it is drawn
        self._found.update(found.keys())
        about = escape(", ".join(f"{name} {n}" for name, n in found.items()) or "nothing annotated")
        for number in range(1 + self.augmented):
            what = f"augmented {number}" if number else "as annotated"
            try:
                picture, size = self._draw(index, number)
            except Exception as error:  # whatever it is, the other images are shown
                message = f"{type(error).__name__}: {error}"
                if message in errors:
                    continue  # a file that cannot be read fails alike each time
                errors.append(message)
                content = f'<p class="error">{escape(message)}</p>'
            else:
                what = f"{what}, {size}"
                alt = f"{name}, {what}" if number else f"{name}, {what}: {about}"
                file = f"{PICTURES}/{index:06d}-{number}.jpg"
                Image.fromarray(picture).save(self.folder / file, quality=90, subsampling=0)
                height, width = picture.shape[:2]
                content = (
                    f'<img src="{file}" width="{width}" height="{height}" loading="lazy" '
                    f'style="width: {100 * width / WIDTH:.4g}%" '
                    f'alt="{alt}">'
                )
            figures.append(f"<figure>{content}<figcaption>{what}</figcaption></figure>")
        if errors:
            self.errors[index] = name
        image_id = f"image id {escape(str(record['image_id']))}: " if "image_id" in record else ""
        self._entries.append(
            f'<article id="image-{index}">\n<h2>{name}</h2>\n<p>{image_id}{about}</p>\n'
            f'<div class="figures">{"".join(figures)}</div>\n</article>'
        )

    def write(self, name: str, config: str, command: str):
        """Writes index.html.

        Args:
            name: the dataset's.
            command: how the page can be made again.
        """
        page = PAGE.substitute(
            generator=GENERATOR,
            title=escape(f"{name}: {len(self._entries)} images"),
            columns=1 + self.augmented,
            width=31 * (1 + self.augmented) + 1,
            name=escape(name),
            header=self._header(config, command),
            entries="\n".join(self._entries),
        )
        (self.folder / "index.html").write_text(page, encoding="utf-8")

    def _draw(self, index, number):
        """The picture, and the size of what it shows, in words; number 0 is not augmented.

        Its seed is (seed, index, number), so that what else is drawn does not change it.
        """
        record = self.records[index]
        seed_all_rng(int(np.random.SeedSequence([self.seed, index, number]).generate_state(1)[0]))
        if number == 0:
            image = read_image(record["file_name"], "RGB")
            height, width = image.shape[:2]
            picture = draw_annotations(image, record, self.metadata, self.classes)
            return picture, f"{width} × {height} pixels"
        inputs = self.mapper(record)
        height, width = inputs["image"].shape[1:]
        picture = draw_inputs(inputs, self.mapper.image_format, self.metadata, self.classes)
        left = f", objects: {len(inputs['instances'])}" if "instances" in inputs else ""
        return picture, f"{width} × {height} pixels{left}"

    def _header(self, config, command):
        counts = [objects(record, self.metadata) for record in self.records]
        parts = [f"{len(self._entries)} of {len(self.records)} images"]
        if any(counts):
            number = sum(count.total() for count in counts)
            empty = counts.count(Counter())
            parts[0] += f". In all of them {number} objects; images without any: {empty}"
        if self.classes:
            only = escape(" or ".join(self.classes))
            parts.append(f"Only images with {only}; no other classes are drawn")
        parts.append(
            "Each one as it is annotated"
            + ", then as a model gets it in training, augmented at random" * bool(self.augmented)
        )
        if self.errors:
            links = [f'<a href="#image-{i}">{name}</a>' for i, name in self.errors.items()]
            parts.append(f'<span class="error">Images with an error: {", ".join(links)}</span>')
        paragraphs = "\n".join(f"<p>{part}.</p>" for part in parts)
        return f"""{paragraphs}
{self._class_table(counts)}
{self._keypoints()}
<details open><summary>How it was made</summary>
<p>Config <code>{escape(config)}</code>, seed {self.seed}, augmentations
<code>{escape(str(self.mapper.augmentations))}</code></p>
<pre>{escape(command)}</pre>
<p>Another <code>--seed</code> chooses other images and augments them differently;
<code>--number</code> says how many, <code>--augmented</code> how often each;
<code>--classes</code> shows only some.</p>
</details>"""

    def _class_table(self, counts):
        number, images = sum(counts, Counter()), Counter(c for count in counts for c in count)
        rows = []
        for kind in ("thing", "stuff"):
            names = self.metadata.get(f"{kind}_classes") or (sorted(number) * (kind == "thing"))
            colors = self.metadata.get(f"{kind}_colors") or [(128, 128, 128)] * len(names)
            for name, color in zip(names, colors):
                whole = (number[name], images[name]) if kind == "thing" else ("–", "–")
                cells = "".join(f"<td>{value}</td>" for value in (*whole, self._found[name]))
                rows.append(f'<tr><th scope="row">{_dot(color)}{escape(name)}</th>{cells}</tr>')
        heads = "".join(
            f'<th scope="col">{h}</th>' for h in ("Class", "Objects", "Images", "Shown")
        )
        return (
            f"<details{' open' * (len(rows) <= 20)}><summary>{len(rows)} classes</summary>\n"
            f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n"
            + "\n".join(rows)
            + "\n</tbody>\n</table>\n</details>"
        )

    def _keypoints(self):
        names = self.metadata.get("keypoint_names") or ()
        dots = zip(names, keypoint_colors(len(names)))
        listed = " ".join(f"<span>{_dot(color)}{escape(name)}</span>" for name, color in dots)
        return f'<p class="points">Keypoints: {listed}</p>' if names else ""


def objects(record: dict, metadata: Metadata) -> Counter:
    """Counts the objects of each class in a dataset dict."""
    return Counter(thing_names(metadata, [a["category_id"] for a in record.get("annotations", ())]))


def contents(record: dict, metadata: Metadata) -> dict[str, str]:
    """Returns the number of objects, or the percentage of pixels, of each class in a dataset dict.

    Raises:
        OSError: the file of `sem_seg_file_name` cannot be read.
    """
    found = {name: str(number) for name, number in objects(record, metadata).most_common()}
    if "sem_seg_file_name" in record:
        sem_seg = read_label_map(record["sem_seg_file_name"])
        areas = Counter(dict(zip(*np.unique(sem_seg, return_counts=True))))
        names = dict(enumerate(metadata.stuff_classes))
        for label, area in areas.most_common():
            if label in names:
                found[names[label]] = f"{round(100 * area / sem_seg.size)} %"
    return found


def is_free(folder: Path) -> bool:
    """Returns whether a page can be put there: nothing is there, or an earlier page alone."""
    if not folder.is_dir():
        return not folder.exists()
    names = {path.name for path in folder.iterdir()}
    page = folder / "index.html"
    return not names or (
        names <= {page.name, PICTURES}
        and page.is_file()
        and GENERATOR in page.read_text(encoding="utf-8", errors="replace")
    )


def _dot(color):
    return f'<i style="background: rgb({", ".join(str(int(v)) for v in color)})"></i>'
