"""Formats of datasets: finds out what is there, and reads it. Each is parsed in one place.

`scan` is what the template's prompt and tools/set_dataset.py know of a dataset, from the standard
library alone; `read_split` is what training and the doctor read. Both call the same readers. A new
format is one module, see base.py, and a line in READERS.
"""

import difflib
import gc
import os
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import (
    builtin,
    cityscapes,
    coco,
    coco_panoptic,
    csv,
    cvat,
    label_studio,
    labelme,
    lvis,
    semantic,
    via,
    voc,
    yolo,
)
from .base import TASKS, XYWH, Sources, Split, number, split_of
from .files import ARCHIVES, Tree, plain, spread
from .problems import Problems, Unusable

READERS = {  # by preference
    "cityscapes": cityscapes,
    "coco": coco,
    "lvis": lvis,
    "coco_panoptic": coco_panoptic,
    "label_studio": label_studio,
    "via": via,
    "cvat": cvat,
    "labelme": labelme,
    "yolo": yolo,
    "voc": voc,
    "csv": csv,
    "semantic": semantic,
}
MAX_CHECKED = 1000  # images
PARTS = {"annotation", "annotations", "images", "imageset", "imagesets", "json", "labels", "main"}
TAKEN = "shapes|ade20k|cityscapes_|coco_20|keypoints_coco|lvis_v|voc_20"
VAL_SHARE = 0.2  # of the images, where there is one split
CONVERTER = (
    "Anything else (KITTI, DOTA, Supervisely ...) is turned into COCO by datumaro: pip install"
    " datumaro, then: datum convert -i PATH -f coco -o NEW -- --save-media"
)


@dataclass
class Scan:
    """Describes what a dataset consists of.

    Attributes:
        entry: what datasets.json says of it.
        images, objects: numbers for each split; empty for one of detectron2's own.
        counts: {class: objects in train}.
        short, long: median sides of the images, in pixels; 0 if unknown.
        small: the side of a small object, in pixels: a tenth are smaller.
        notes: sentences in ASCII for the user.
    """

    entry: dict
    images: dict[str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    short: int = 0
    long: int = 0
    small: float = 0.0
    notes: list[str] = field(default_factory=list)


def listed(names, limit: int = 5) -> str:
    """'a', 'b' and 3 more"""
    names = [ascii(str(name)) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def scan(data: str, folders: Sequence[Path | str] = (".",)) -> Scan:
    """Finds out what a dataset consists of.

    Args:
        data: a path, absolute or relative to the first of `folders` under which it is; or
            FORMAT:path; or the name of one of detectron2's own datasets.

    Raises:
        Unusable: there is no such dataset, or it cannot be trained on.
    """
    format, path = parse(data, folders)
    if path in builtin.NAMES and format in ("auto", "builtin"):
        return Scan(builtin.entry(builtin.NAMES[path]))
    if path in builtin.NAMES:
        raise Unusable(
            f"{path!a} is a dataset of detectron2, whose format is known; type {path!r} alone, or"
            f" '{format}:./{path}' for a folder of that name"
        )
    if path.startswith("cityscapes_") and not any(map(os.path.exists, _possible(path, folders))):
        raise Unusable(
            f"{path!a}: detectron2's own loader of Cityscapes does not work outside of Meta at the"
            " commit used here; type the path of the folder with leftImg8bit/ and gtFine/ instead"
        )
    was_enabled = gc.isenabled()
    gc.disable()  # it would look through millions of new objects, of which none is garbage
    try:
        return _scan_files(_locate(path, folders), format)
    except OSError as error:
        where = error.filename if error.filename is not None else path
        raise Unusable(f"{str(where)!a} cannot be read: {plain(error.strerror)}") from None
    finally:
        if was_enabled:
            gc.enable()


def read_split(
    entry: dict, split: str, classes: list[str], keypoints: list[str], is_light: bool = False
) -> Split:
    """Reads a split of a dataset as datasets.json describes it.

    Args:
        classes, keypoints: names in the order in which records number them.

    Raises:
        Unusable: it is not as it was when it was scanned.
    """
    tree = Tree(entry["root"])
    found = _read(tree, entry["format"], entry["splits"][split], is_light)
    if entry["format"] != "semantic":
        number(found, classes, keypoints)
    return found


def _read(tree, format, source, is_light):
    split = Split(tree, source, is_light)
    READERS[format].read(split)
    split.finish()
    return split


def parse(data: str, folders: Sequence[Path | str]) -> tuple[str, str]:
    """Returns the format, "auto" if none is named, and the path or name in what was typed.

    What has a colon is a path if it is there, or begins with a drive of Windows. The path is "" if
    the format stands alone, as in `voc:`, because its data come later.
    """
    format, colon, path = data.partition(":")
    if colon and format in READERS:
        return format, path
    if any(map(os.path.exists, _possible(data, folders))):
        return "auto", data
    if (bare := data.lower()) in READERS:
        raise Unusable(
            f"this is a format, and no path that is there; type '{bare}:path/to/it', or '{bare}:'"
            " for data that come later"
        )
    if not colon or not re.fullmatch(r"[\w. -]{2,}", format):
        return "auto", data
    if format in ("custom", "shapes"):
        raise Unusable(f"{format} reads no files; type {format!r} alone")
    near = difflib.get_close_matches(format.lower(), READERS, n=1)
    better = f"{near[0]}:{path}" if near else "FORMAT:path/to/it"
    raise Unusable(
        f"{format!a} is none of the formats {', '.join(READERS)}, and {data!a} is not there; type"
        f" {better!a}"
    )


def _possible(data, folders):
    """Returns the absolute paths that may be meant: it may be relative to one of the folders."""
    return [os.path.abspath(Path(folder, os.path.expanduser(data))) for folder in folders or ["."]]


def _locate(data, folders):
    places = _possible(data, folders)
    for place in places:
        if os.path.exists(place):
            return Path(place)
    message = f"{data!a} is not there; looked for {listed(dict.fromkeys(places))}"
    near = [] if "/" in data else difflib.get_close_matches(data, builtin.NAMES)
    for missing in map(Path, places):
        while not missing.parent.is_dir():
            missing = missing.parent
        names = difflib.get_close_matches(missing.name, sum(Tree(missing.parent).listed(""), []))
        near += [str(missing.parent / name) for name in names]
    if near:
        raise Unusable(f"{message}. Near are {listed(dict.fromkeys(near))}")
    raise Unusable(f"{message}. Type the path of a file or folder, or {builtin.NEEDS}")


def _tree_of(path):
    """Returns the tree of a folder, or of the first that is not a mere part above a file."""
    if path.is_dir():
        return Tree(path)
    if path.name.lower().endswith(ARCHIVES):
        inside = path.name.partition(".")[0]
        raise Unusable(f"{str(path)!a} is an archive; unpack it and type the folder {inside!a}")
    if not path.is_file():
        raise Unusable(f"{str(path)!a} is neither a file nor a folder")
    folder = _dataset_folder(path.parent)
    return Tree(folder, path.relative_to(folder).as_posix())


def _dataset_folder(folder):
    """Returns the first folder, upwards, that is not a mere part such as annotations/."""
    while folder.name.lower() in PARTS or split_of(folder.name):
        folder = folder.parent
    return folder


def _find(tree, path, format):
    """Returns the format of the files, the sources of each split, and notes.

    `auto` prefers formats in which something is for training, then those that come first.
    """
    found: dict[str, Sources] = {}
    refusals: dict[str, Unusable] = {}
    for name, reader in READERS.items():
        try:
            if sources := reader.find(tree):
                found[name] = sources
        except Unusable as error:
            refusals[name] = error
    if refusals and (format in refusals or not found):
        raise refusals.get(format) or next(iter(refusals.values()))
    if not found:
        raise Unusable(_nothing_found(tree, path))
    notes = []
    if format == "auto":
        format = min(found, key=lambda name: not {"train", "trainval", ""} & set(found[name]))
        if others := [name for name in found if name != format]:
            notes.append(
                f"Read as {format}; the files are also {' and '.join(others)}: type"
                f" {others[0]}:... to have them read so."
            )
    elif format not in found:
        raise Unusable(
            f"{str(path)!a} is not {format}, which needs {READERS[format].NEEDS}; it looks like"
            f" {' and '.join(found)}"
        )
    return format, found[format], notes


def _nothing_found(tree, path):
    formats = "; ".join(f"{name}: {reader.NEEDS}" for name, reader in READERS.items())
    if tree.given:
        return f"{str(path)!a} is a file of none of the formats. Formats are {formats}. {CONVERTER}"
    images = len(tree.images(""))
    archives = [name for name in tree.names("") if name.lower().endswith(ARCHIVES)]
    hint = f" Unpack {listed(archives)} first." if archives else ""
    return (
        f"{str(path)!a} has {images} images, but no annotations were found.{hint} Formats are"
        f" {formats}. {CONVERTER}"
    )


def _name_splits(sources, notes):
    """Returns one source for each of train, val and test, some of which may not be there."""
    named = dict(sources)
    whole = named.pop("trainval", None)
    if whole and not {"train", "val"} <= set(named):
        parts = [name for name in ("train", "val") if named.pop(name, None)]
        notes += [f"The split {name} is left out: it is part of trainval." for name in parts]
        named["train"] = whole
    unnamed = named.pop("", None)
    if unnamed and "train" in named:
        notes.append(f"Annotations outside of splits are left out: {listed(map(_where, unnamed))}.")
    elif unnamed:
        named["train"] = unnamed
    if "train" not in named:
        if len(named) > 1:
            raise Unusable(f"there are the splits {' and '.join(named)}, but none for training")
        only = next(iter(named))
        notes.append(f"The split {only} is used for training: there is no other.")
        named = {"train": named[only]}
    for name, choices in named.items():
        if len(choices) > 1:
            raise Unusable(
                f"there are {len(choices)} sets of annotations for {name}; type the path of one:"
                f" {listed(map(_where, choices))}"
            )
    return {name: named[name][0] for name in ("train", "val", "test") if name in named}


def _where(source):
    """Returns the path of a source's annotations."""
    place = source.get("list") or source.get("annotations") or source.get("labels")
    place = place if place is not None else source["images"]
    return place[0] if isinstance(place, list) else place


def _objects(split):
    return split.metadata.get("objects", sum(len(r.get("annotations", ())) for r in split.records))


def _scan_files(path, format):
    tree = _tree_of(path)
    format, sources, notes = _find(tree, path, format)
    tree.given = ""
    named = _name_splits(sources, notes)
    result = Scan({"name": suggested_name(tree.root), "format": format, "root": str(tree.root)})
    problems, classes, stuff = Problems(), [], []
    for name, source in list(named.items()):
        split = _read(tree, format, source, is_light=True)
        if name == "train":
            _check_train(split, tree)
        elif not _objects(split):
            notes.append(f"The split {name} is left out: it has no annotations.")
            del named[name]
            continue
        problems.update(split.problems)
        notes += _missing_files(split, name)
        result.images[name], result.objects[name] = len(split.records), _objects(split)
        new = [one for one in split.classes if one not in classes]
        if classes and split.is_ordered and split.classes != classes[: len(split.classes)]:
            notes.append(f"The classes of {name} are not those of train.")
        classes = classes + new if split.is_ordered else sorted(classes + new)
        stuff = max(stuff, split.stuff, key=len)
        if name == "train":
            _describe(result, split)
        if split.metadata.get("others"):
            _note_ignored(result, split, notes)
        del split
    result.entry |= {"classes": classes or stuff, "splits": named}
    _check_classes(problems, classes)
    if "test" in named and "val" not in named:
        notes.append("There is no split val, so test is used for it.")
        named["val"] = named.pop("test")
        for numbers in (result.images, result.objects):
            numbers["val"] = numbers.pop("test")
    if "val" not in named:
        notes.append("There is one set of annotations: a share will be held out for validation.")
        result.entry["val_share"] = VAL_SHARE
    elif named["val"] == named["train"]:
        notes.append("The splits train and val are the same files.")
    result.counts = {name: result.counts.get(name, 0) for name in classes}
    if without := [name for name, count in result.counts.items() if not count]:
        notes.append(f"{len(without)} classes have no objects in train: {listed(without)}.")
    result.notes = list(dict.fromkeys([*result.notes, *notes, *problems.notes()]))
    return result


def _check_train(split, tree):
    """Refuses what nothing can be learned from."""
    annotations = [a for record in split.records for a in record.get("annotations", ())]
    reasons = " ".join(["", *split.problems.notes()])
    where = ascii(tree.path(_where(split.source)))
    if not _objects(split):
        raise Unusable(f"there are no annotations for training in {where}.{reasons}")
    if annotations and all(annotation["iscrowd"] for annotation in annotations):
        raise Unusable(
            f"all {len(annotations)} objects in {where} are crowds (iscrowd 1), which are left out"
            f" of training: nothing is left.{reasons}"
        )


def _missing_files(split, name):
    """Returns a note if some of the images are not there; refuses if most are not."""
    keys = ["file_name", *["pan_seg_file_name"] * ("panoptic_json" in split.metadata)]
    notes = []
    for key, what in zip(keys, ("images", "masks"), strict=False):
        paths = spread([record[key] for record in split.records], MAX_CHECKED)
        missing = [path for path in paths if not os.path.exists(path)]
        if 2 * len(missing) > len(paths):
            folder, first = os.path.split(missing[0])
            raise Unusable(
                f"{len(missing)} of {len(paths)} {what} of {name} are missing; looked in"
                f" {folder!a}, for example for {first!a}. Put them there"
            )
        if missing:
            notes.append(
                f"{len(missing)} of {len(paths)} {what} of {name} are missing, for example"
                f" {missing[0]!a}."
            )
    return notes


def _describe(result, split):
    """Fills in what is said of the training split."""
    counts, areas, objects, masks, is_visible = Counter(), [], 0, 0, False
    for record in split.records:
        for annotation in record.get("annotations", ()):
            counts[annotation["category_id"]] += 1
            if annotation["iscrowd"]:
                continue
            a, b, c, d = annotation["bbox"]
            is_xywh = annotation["bbox_mode"] == XYWH
            area = c * d if is_xywh else (c - a) * (d - b)
            objects += 1
            areas += [area] if area > 0 else []
            masks += "segmentation" in annotation
            points = annotation.get("keypoints")
            if points and not is_visible:
                points = points.values() if isinstance(points, dict) else [points]
                is_visible = any(any(those[2::3]) for those in points)
    tasks = set(split.tasks) | ({"boxes"} if objects else set())
    tasks |= {"masks"} if masks and 2 * masks >= objects else set()
    tasks |= {"keypoints"} if is_visible and split.keypoints else set()
    result.entry["tasks"] = [task for task in TASKS if task in tasks]
    if "keypoints" in tasks:
        pairs = {"flips": split.flips, "skeleton": split.skeleton}
        pairs = {key: [list(pair) for pair in those] for key, those in pairs.items()}
        result.entry["keypoints"] = {"names": split.keypoints} | pairs
    if "ignore_label" in split.metadata:
        result.entry["ignore_label"] = split.metadata["ignore_label"]
    result.counts = dict(counts)
    sizes = [(r["width"], r["height"]) for r in split.records if "width" in r]
    sizes = sizes or split.metadata.get("sizes", [])
    if sizes:
        result.short = round(statistics.median(map(min, sizes)))
        result.long = round(statistics.median(map(max, sizes)))
    if areas:
        result.small = round(max(0, sorted(areas)[len(areas) // 10]) ** 0.5, 1)
    if "sample" in split.metadata:
        number, sample = len(split.stuff), split.metadata["sample"]
        result.notes.append(f"No classes.txt, so the {number} classes are those in {sample} maps.")


def _note_ignored(result, split, notes):
    others = split.metadata["others"]
    ignored = split.metadata.get("ignore_label")
    does = "it is ignored" if ignored is not None else "training will refuse them"
    which = f"value {others[0]}" if len(others) == 1 else f"values {others[:5]}"
    notes.append(f"Label maps have the {which} beside {len(split.stuff)} classes: {does}.")


def _check_classes(problems, classes):
    lower = {}
    for name in classes:
        if lower.setdefault(name.lower(), name) != name:
            problems.add("class-case", f"{lower[name.lower()]} and {name}")


def suggested_name(root: Path) -> str:
    """Returns a name for the dataset that none of detectron2's own has."""
    name = re.sub("[^a-z0-9]+", "_", _dataset_folder(Path(root)).name.lower()).strip("_")
    if not re.match("[a-z]", name) or re.match(TAKEN, name):
        name = f"my_{name or 'dataset'}"
    return name[:40].rstrip("_")
