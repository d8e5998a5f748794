"""Finds out what a data set consists of: its format, splits, classes and sizes. Writes nothing.

`parse` takes what was typed at the prompt `data`, `read` what comes of it: a path, or the name of a
built-in data set, and a format. Each format has two functions in READERS. `find_*` looks for its
files by name and by a glance at their contents; `read_*` reads one split. What is the same for all
formats is done once, by `read`.
"""

import difflib
import functools
import gc
import itertools
import json
import os
import re
import statistics
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FORMATS = ("coco", "coco_panoptic", "semantic", "voc", "yolo", "lvis", "cityscapes", "builtin")
TASKS = ("boxes", "masks", "keypoints", "panoptic", "semantic")

BUILTIN = {  # detectron2's own data sets: the tasks of their annotations
    "coco_2014": {"boxes", "masks"},
    "coco_2017": {"boxes", "masks"},
    "keypoints_coco_2014": {"boxes", "keypoints"},
    "keypoints_coco_2017": {"boxes", "keypoints"},
    "coco_2017_panoptic_separated": {"boxes", "masks", "panoptic"},
    "lvis_v0.5": {"boxes", "masks"},
    "lvis_v1": {"boxes", "masks"},
    "voc_2007": {"boxes"},
    "voc_2012": {"boxes"},
    "ade20k_sem_seg": {"semantic"},
}
BUILTIN_SPLITS = {
    name: {split: f"{name}_{split}" for split in ("train", "val")} for name in BUILTIN
}
BUILTIN_SPLITS["voc_2007"] = {"train": "voc_2007_trainval", "val": "voc_2007_test"}
BUILTIN_SPLITS["coco_2017_panoptic_separated"] = {
    split: f"coco_2017_{split}_panoptic_separated" for split in ("train", "val")
}
BUILTIN_NAMES = {  # as typed, which may be that of a split: of the data set
    typed: name for name in BUILTIN for typed in (name, *BUILTIN_SPLITS[name].values())
}
CITYSCAPES_CLASSES = "person rider car truck bus train motorcycle bicycle".split()

NEEDS = {
    "coco": "a JSON file with the keys images, annotations and categories",
    "coco_panoptic": "a JSON file whose annotations have segments_info, and a folder of PNGs",
    "semantic": "images and PNG label maps (one channel) of the same names, in images/ and masks/",
    "voc": "Pascal VOC's XML files, one per image, in Annotations/ or beside the images",
    "yolo": "data.yaml, or images/ and labels/ with one .txt per image",
    "lvis": "a JSON file whose images have neg_category_ids and coco_url",
    "cityscapes": "leftImg8bit/ and gtFine/",
    "builtin": f"one of the names {', '.join(BUILTIN)}",
}

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
CLASS_FILES = ("classes.txt", "class_names.txt", "labels.txt", "label_map.txt", "labelmap.txt")
CLASS_FILES += ("obj.names",)
SPLIT_WORDS = {  # tried in this order: test-dev is a test
    "trainval": "train[_-]?val",
    "test": "test(ing|set|data)?",
    "val": "val(id|idation|set|data)?|dev",
    "train": "train(ing|set|data)?",
}
PARTS = {"annotation", "annotations", "images", "imageset", "imagesets", "json", "labels", "main"}
LABEL_MAPS = r"(?<![a-z])(labels?|masks?|annotations?|segmentationclass|gt|groundtruth)(?![a-z])"
TAKEN = "shapes|ade20k|cityscapes_|coco_20|keypoints_coco|lvis_v|voc_20"
YOLO_LABEL = re.compile(r"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*$")

MAX_DEPTH, MAX_FOLDERS = 3, 2000  # of the search for annotations
MAX_CHECKED, MAX_MEASURED = 1000, 500  # images
MAX_PIXELS = 10_000_000  # of label maps decoded to see their values; about 3 seconds
MAX_CLASSES = 10_000  # a higher class number is a mistake
PEEK = 1 << 20  # bytes
PNG = b"\x89PNG\r\n\x1a\n"


class Unusable(Exception):
    """What was given, what is wrong with it, and what to do; in ASCII."""


@dataclass
class Split:
    """One split of a data set, as its format's reader found it."""

    places: dict[str, Path | None]  # the format's arguments
    images: list[str]  # paths
    objects: int = 0
    classes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # width, height of images, in px
    areas: list[float] = field(default_factory=list)  # of boxes, in px^2
    tasks: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


# Candidates for each split, "" where the names do not say which; what each is, is the format's.
Candidates = dict[str, list[Any]]


# ---- files and folders ----------------------------------------------------------------------


class Contents(NamedTuple):
    files: list[str]
    folders: list[str]


@functools.cache  # cleared by `read`: it is for one call, in which huge folders are listed once
def contents(folder: Path) -> Contents:
    """Sorted names of what is in a folder, without hidden files."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith((".", "__MACOSX")):
                (folders if entry.is_dir() else files).append(entry.name)
    return Contents(sorted(files), sorted(folders))


def tree(root: Path) -> dict[str, list[str]]:
    """The files in a folder and in those below: {relative folder, "" for root: names}."""
    found: dict[str, list[str]] = {}
    level = [""]
    for depth in range(MAX_DEPTH + 1):
        below = []
        for folder in level:
            found[folder] = contents(root / folder).files
            below += [f"{folder}/{name}".lstrip("/") for name in contents(root / folder).folders]
        if len(found) + len(below) > MAX_FOLDERS and depth < MAX_DEPTH:
            raise Unusable(f"{str(root)!a} has too many folders; give the data set's own folder")
        level = below
    return found


def split_of(name: str) -> str:
    """The split that the name of a file or folder stands for, "" if none."""
    for split, words in SPLIT_WORDS.items():
        if re.search(rf"(?<![a-z])({words})(?![a-z])", name.lower()):
            return split
    return ""


def data_set_folder(folder: Path) -> Path:
    """The first folder, from this one upwards, that is not a mere part such as annotations/."""
    while folder.name.lower() in PARTS or split_of(folder.name):
        folder = folder.parent
    return folder


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spaced."""
    step = max(1, -(-len(items) // count))
    return list(items[::step])


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES)


def stem(name: str) -> str:
    return os.path.splitext(name)[0]


def ascii_list(names: Iterable[Any], limit: int = 5) -> str:
    """'a', 'b' and 3 more."""
    names = [ascii(str(name)) for name in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def plain(text: Any) -> str:
    """Somebody else's text in ASCII."""
    return ascii(str(text))[1:-1]


def read_lines(file: Path) -> list[str]:
    """A text file's lines that are neither empty nor comments, stripped."""
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def class_names(folder: Path) -> list[str]:
    """Names from classes.txt or its like: `name` or `0: name` in each line."""
    files = ((name, folder / where) for where, names in tree(folder).items() for name in names)
    found = sorted((CLASS_FILES.index(name), where) for name, where in files if name in CLASS_FILES)
    if not found:
        return []
    file = found[0][1] / CLASS_FILES[found[0][0]]
    lines = read_lines(file)
    numbered = [re.fullmatch(r"(\d+)[\s:,]+(\S.*)", line) for line in lines]
    if all(numbered):
        if [int(line[1]) for line in numbered] != list(range(len(lines))):
            raise Unusable(f"{str(file)!a} does not number the classes 0, 1, 2 ...; renumber them")
        lines = [line[2] for line in numbered]
    return [re.sub(r":\d+,.*", "", line) for line in lines]  # CVAT's labelmap.txt has colors


# ---- images ---------------------------------------------------------------------------------


def missing_files(paths: list[str], what: str) -> list[str]:
    """A note if some of the files are not there; refuses if most are not."""
    sample = spread(paths, MAX_CHECKED)
    missing = [path for path in sample if not os.path.exists(path)]
    if 2 * len(missing) > len(sample):
        folder, name = os.path.split(missing[0])
        raise Unusable(
            f"{len(missing)} of {len(sample)} {what} are missing; looked in {folder!a}, for example"
            f" for {name!a}. Put them there"
        )
    note = (
        f"{len(missing)} of {len(sample)} {what} are missing, for example {ascii_list(missing, 1)}."
    )
    return [note] if missing else []


def image_size(path: str | Path) -> tuple[int, int] | None:
    """Width and height in px from the header of a JPEG or PNG; None for anything else."""
    try:
        with open(path, "rb") as file:
            start = file.read(24)
            if start.startswith(PNG):
                return struct.unpack(">II", start[16:24])
            if not start.startswith(b"\xff\xd8"):
                return None
            file.seek(2)
            while True:
                marker, length = struct.unpack(">HH", file.read(4))
                if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
                    height, width = struct.unpack(">xHH", file.read(5))
                    return width, height
                file.seek(length - 2, os.SEEK_CUR)
    except (FileNotFoundError, struct.error):  # missing images are counted elsewhere
        return None


def paeth(left: int, up: int, corner: int) -> int:
    """The neighbour nearest to left + up - corner; see the PNG specification."""
    return min(left, up, corner, key=lambda value: abs(left + up - corner - value))


def unfiltered(kind: int, line: bytes, above: bytes) -> bytes:
    """One row of a PNG of one byte per pixel, of which `line` has the differences."""
    if kind == 0:
        return line
    row, left, corner = bytearray(), 0, 0
    for difference, up in zip(line, above, strict=True):
        guess = paeth(left, up, corner) if kind == 4 else (0, left, up, (left + up) // 2)[kind]
        left, corner = (difference + guess) & 255, up
        row.append(left)
    return bytes(row)


def label_values(file: Path) -> set[int]:
    """The values in a label map; 0 may be reported although it is not there."""
    data = file.read_bytes()
    width, height, depth = struct.unpack(">IIB", data[16:25])
    position, packed = 8, []
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        if kind == b"IDAT":
            packed.append(data[position + 8 : position + 8 + length])
        position += length + 12
    rows = zlib.decompress(b"".join(packed))
    stride = (width * depth + 7) // 8
    if data[28] or len(rows) < height * (stride + 1):
        raise ValueError("interlaced, or rows are missing")
    row, seen = bytes(stride), set()
    for start in range(0, height * (stride + 1), stride + 1):
        row = unfiltered(rows[start], rows[start + 1 : start + 1 + stride], row)
        seen.update(row)
    return {byte >> shift & (1 << depth) - 1 for byte in seen for shift in range(0, 8, depth)}


# ---- COCO, its panoptic form, and LVIS --------------------------------------------------------


def json_kind(file: Path) -> str:
    """coco, coco_panoptic, lvis or "", from three glances: the keys can be in any order."""
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        glances = []
        for position in (0, max(0, size // 2), max(0, size - PEEK)):
            opened.seek(position)
            glances.append(opened.read(PEEK))
    text = b"\n".join(glances)
    if not text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return ""
    if b'"segments_info"' in text:
        return "coco_panoptic"
    if b'"coco_url"' in text and b'"neg_category_ids"' in text:
        return "lvis"
    is_coco = b'"category_id"' in text or (b'"images"' in text and b'"categories"' in text)
    return "coco" if is_coco else ""


def other_splits(file: Path, kind: str) -> Candidates:
    """The JSON files named as this one for training, with another split in its or its folder's."""

    def renamed(name: str, word: str) -> str:
        return re.sub(rf"(?<![a-z])({SPLIT_WORDS['train']})(?![a-z])", word, name, flags=re.I)

    found: Candidates = {}
    for word in ("val", "valid", "validation", "dev", "test"):
        folder = file.parent.parent / renamed(file.parent.name, word)
        for other in (
            file.with_name(renamed(file.name, word)),
            folder / renamed(file.name, word),
            folder / file.name,
        ):
            if other != file and other.is_file() and json_kind(other) == kind:
                found.setdefault(split_of(word), [other])
    return found


def find_json(path: Path, notes: list[str], kind: str) -> Candidates:
    """The JSON files of a kind, preferably instances_*.json, then person_keypoints_*.json."""
    if path.is_file():
        if path.suffix.lower() != ".json" or (json_kind(path) or "coco") != kind:
            return {}
        split = split_of(path.stem) or split_of(path.parent.name)
        return {split: [path]} | (other_splits(path, kind) if split == "train" else {})

    def rank(file: Path) -> int:
        families = ("instances", "person_keypoints", "")
        return [file.name.startswith(family) for family in families].index(True)

    folders = [path, *(path / name for name in contents(path).folders[:100])]
    files = [
        folder / name
        for folder in folders
        for name in [name for name in contents(folder).files if name.endswith(".json")][:100]
    ]
    ranked: dict[str, dict[int, list[Path]]] = {}
    for file in files:
        if json_kind(file) == kind:
            inside = file.relative_to(path)
            split = split_of(inside.stem) or split_of(inside.parent.as_posix())
            ranked.setdefault(split, {}).setdefault(rank(file), []).append(file)
    found = {split: ranks[min(ranks)] for split, ranks in ranked.items()}
    if len(found.get("train", [])) == 1:
        found |= other_splits(found["train"][0], kind)
    used = set(itertools.chain(*found.values()))
    if ignored := [file.relative_to(path).as_posix() for file in files if file not in used]:
        notes.append(f"Other JSON files were ignored: {ascii_list(ignored)}.")
    return found


def load_json(file: Path) -> dict[str, Any]:
    """A JSON object with images, categories and annotations, which may be none."""
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Unusable(
            f"{str(file)!a} is not JSON, or not all of it is there ({plain(error)}); download or"
            " export it again"
        ) from None
    lacks = [
        key for key in ("images", "categories") if not isinstance(data, dict) or key not in data
    ]
    if lacks:
        raise Unusable(
            f"{str(file)!a} lacks the key {lacks[0]!r}; COCO's JSON has images, annotations and"
            " categories"
        )
    return {"annotations": []} | data


def category_names(file: Path, categories: list[dict[str, Any]]) -> dict[int, str]:
    """{category id: name}, by id."""
    names = {category["id"]: str(category["name"]) for category in categories}
    if len(names) < len(categories):
        ids = Counter(category["id"] for category in categories)
        raise Unusable(f"{str(file)!a}: two categories have the id {ids.most_common(1)[0][0]!a}")
    return dict(sorted(names.items()))


def folder_of(names: list[str], file: Path, root: Path, likely: Callable[[str], bool]) -> Path:
    """The folder near a JSON file under which most of the named files are, likely ones first."""
    folders = []
    for base in [base for base in file.parents if base.is_relative_to(root)]:
        below = [base / name for name in contents(base).folders[:200]]
        images = [folder for folder in below if folder.name.lower() == "images"]
        folders += below + [inner / name for inner in images for name in contents(inner).folders]
        folders += [base, *(folder / "images" for folder in below)]
    folders.sort(key=lambda folder: not likely(folder.relative_to(root).as_posix().lower()))
    sample = spread(names, 20)
    return max(folders, key=lambda folder: sum(os.path.exists(folder / name) for name in sample))


def count_objects(split: Split, objects: Iterable[dict[str, Any]], has_names: bool) -> Counter[int]:
    """Fills in what annotations tell, in one pass; returns their number for each category id.

    has_names: whether a category names its keypoints, without which they cannot be trained
    """
    counts: Counter[int] = Counter()
    crowds = masks = 0
    visible = False
    for thing in objects:
        counts[thing["category_id"]] += 1
        if thing.get("iscrowd"):
            crowds += 1
            continue
        if box := thing.get("bbox"):
            split.areas.append(float(box[2]) * float(box[3]))
        masks += bool(thing.get("segmentation"))
        visible = visible or any((thing.get("keypoints") or [])[2::3])
    split.objects = counts.total()
    if split.areas:
        split.tasks.add("boxes")
    if masks and 2 * masks >= split.objects - crowds:
        split.tasks.add("masks")
    if visible and has_names:
        split.tasks.add("keypoints")
    return counts


def read_json(file: Path, name: str, root: Path, kind: str) -> Split:
    """One split of COCO, of LVIS or of COCO's panoptic form."""
    data = load_json(file)
    try:
        return split_of_json(file, name, root, kind, data)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {plain(error)}"
        raise Unusable(f"{str(file)!a}: an entry is not as in COCO's JSON ({reason})") from None


def split_of_json(file: Path, name: str, root: Path, kind: str, data: dict[str, Any]) -> Split:
    """See read_json. Entries that are not as in the format raise KeyError, TypeError etc."""
    images, annotations = data["images"], data["annotations"]
    if kind == "lvis":
        names = ["/".join(image["coco_url"].split("/")[-2:]) for image in images]
    else:
        names = [image["file_name"] for image in images]
    own = split_of(file.stem) or split_of(file.parent.name) or name
    folder = folder_of(names, file, root, lambda n: split_of(n) == own and "panoptic" not in n)
    split = Split({"annotations": file, "folder": folder}, [os.path.join(folder, n) for n in names])
    sizes = [(image.get("width"), image.get("height")) for image in images]
    split.sizes = [(int(width), int(height)) for width, height in sizes if width and height]
    objects = annotations
    if kind == "coco_panoptic":
        objects = [segment for annotation in annotations for segment in annotation["segments_info"]]
    categories = category_names(file, data["categories"])
    has_names = any(category.get("keypoints") for category in data["categories"])
    counts = count_objects(split, objects, has_names)
    if unknown := [number for number in counts if number not in categories]:
        raise Unusable(
            f"{str(file)!a}: annotations have the category_id {ascii_list(unknown)}, which"
            " categories does not list"
        )
    split.classes = list(categories.values())
    for number, count in counts.items():  # two categories may have one name
        split.counts[categories[number]] += count
    if kind == "coco_panoptic":
        add_panoptic(split, [annotation["file_name"] for annotation in annotations], own, root)
    return split


def add_panoptic(split: Split, names: list[str], split_name: str, root: Path) -> None:
    """The folder of PNGs named in a panoptic JSON, and the JSON of the instances in them."""
    file = split.places["annotations"]
    masks = folder_of(
        names, file, root, lambda n: split_of(n) == split_name and re.search("panoptic|mask", n)
    )
    paths = [os.path.join(masks, name) for name in names]
    split.notes += missing_files(paths, f"masks of {split_name}")
    instances = file.with_name(file.name.replace("panoptic", "instances"))
    has_instances = instances != file and instances.is_file()
    split.places |= {"masks": masks, "instances": instances if has_instances else None}
    split.tasks = {"boxes", "masks", "panoptic", "semantic"}  # the project makes one of another


# ---- Pascal VOC -----------------------------------------------------------------------------


def image_folder(found: dict[str, list[str]], stems: set[str], split: str) -> str:
    """The folder of a tree with the most images of these stems, of the same split if equal."""

    def likeness(folder: str) -> tuple[int, bool]:
        images = {stem(name) for name in found[folder] if is_image(name)}
        return len(images & stems), split_of(folder) == split

    return max(found, key=likeness)


def find_voc(path: Path, notes: list[str]) -> Candidates:
    """(list of image ids or None, folder of XML, folder of images) of each split."""
    candidates: Candidates = {}
    found = tree(path) if path.is_dir() else {}
    for folder, names in found.items():
        stems = {stem(name) for name in names if name.endswith(".xml")}
        if not stems or b"<annotation" not in (path / folder / f"{min(stems)}.xml").read_bytes():
            continue
        images = path / image_folder(found, stems, split_of(folder))
        lists = Path(folder).parent / "ImageSets/Main"
        # Not aeroplane_train.txt, which lists the images with aeroplanes.
        splits = [n for n in found.get(lists.as_posix(), []) if re.fullmatch(r"[a-z]+\d*\.txt", n)]
        splits = [name for name in splits if split_of(stem(name))]
        for name in splits:
            candidate = (path / lists / name, path / folder, images)
            candidates.setdefault(split_of(stem(name)), []).append(candidate)
        if not splits:
            candidates.setdefault(split_of(folder), []).append((None, path / folder, images))
    return candidates


def read_voc(candidate: tuple[Path | None, Path, Path], name: str, root: Path) -> Split:
    """One split of XML files. Files that are missing or broken are left out."""
    listed, annotations, folder = candidate
    xml = {stem(name) for name in contents(annotations).files if name.endswith(".xml")}
    files = {stem(name): name for name in contents(folder).files if is_image(name)}
    ids = [line.split()[0] for line in read_lines(listed)] if listed else sorted(xml)
    split = Split({"list": listed, "annotations": annotations, "folder": folder}, [])
    annotated = [image for image in ids if image in xml]
    split.images = [os.path.join(folder, files.get(i, f"{i}.jpg")) for i in annotated]
    split.tasks = {"boxes"}
    broken = []
    for image in annotated:
        try:
            add_voc_objects(split, annotations / f"{image}.xml")
        except (ElementTree.ParseError, AttributeError, TypeError, ValueError):
            broken.append(f"{image}.xml")
    if broken and len(broken) == len(split.images):
        raise Unusable(
            f"{str(annotations / broken[0])!a} and all others there are not Pascal VOC's XML"
        )
    if broken:
        split.notes.append(f"{len(broken)} XML files of {name} are broken: {ascii_list(broken)}.")
    if without := [i for i in (ids if listed else sorted(files)) if i not in xml]:
        split.notes.append(f"{len(without)} images of {name} have no XML: {ascii_list(without)}.")
    split.objects = split.counts.total()
    split.classes = sorted(split.counts)
    return split


def add_voc_objects(split: Split, file: Path) -> None:
    """Counts the objects of one XML file. What is not as in Pascal VOC raises TypeError etc."""
    annotation = ElementTree.parse(file).getroot()
    names, areas = [], []
    for thing in annotation.findall("object"):
        sides = ("xmin", "ymin", "xmax", "ymax")
        left, top, right, bottom = (float(thing.find("bndbox").findtext(side)) for side in sides)
        names.append(thing.findtext("name").strip())
        areas.append((right - left) * (bottom - top))
    split.counts.update(names)
    split.areas += areas
    width, height = (
        float(annotation.findtext(f"size/{side}") or 0) for side in ("width", "height")
    )
    if width and height:
        split.sizes.append((int(width), int(height)))


# ---- YOLO -----------------------------------------------------------------------------------


class YoloSplit(NamedTuple):
    source: Path  # folder of images, or a .txt that lists them
    classes: list[str]  # none where only their numbers are known
    is_pose: bool


def label_of(image: str) -> str:
    """The path of an image's label file: in labels/ instead of images/, or beside the image."""
    head, images, tail = image.rpartition(f"{os.sep}images{os.sep}")
    return stem(os.path.join(head, "labels", tail) if images else tail) + ".txt"


def yolo_images(source: Path) -> list[str]:
    """Paths of the images in a folder or in a list, whose paths are relative to its folder."""
    if source.suffix == ".txt":
        return [os.path.normpath(source.parent / line) for line in read_lines(source)]
    return [os.path.join(source, name) for name in contents(source).files if is_image(name)]


def yaml_of(path: Path) -> Path | None:
    """The YAML file that describes a YOLO data set: the path itself, or one in the folder."""
    names = contents(path).files if path.is_dir() else [path.name]
    folder = path if path.is_dir() else path.parent
    for name in sorted(names, key=lambda name: name not in ("data.yaml", "dataset.yaml")):
        if name.endswith((".yaml", ".yml")):
            text = (folder / name).read_text(encoding="utf-8-sig", errors="replace")
            if re.search("^train *:", text, re.M) and re.search("^(names|nc) *:", text, re.M):
                return folder / name
    return None


def load_yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise Unusable(f"{str(file)!a} cannot be read without PyYAML: pip install pyyaml") from None
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError) as error:
        reason = plain(" ".join(str(error).split()))
        raise Unusable(f"{str(file)!a} is not YAML: {reason}") from None
    if not isinstance(data, dict):
        raise Unusable(f"{str(file)!a} has no keys; YOLO's data.yaml has train, val and names")
    return data


def yaml_classes(file: Path, data: dict[str, Any]) -> list[str]:
    names, count = data.get("names"), data.get("nc")
    if names is None and isinstance(count, int):
        return [f"class_{number}" for number in range(count)]
    if not isinstance(names, list | dict):
        raise Unusable(f"{str(file)!a}: names is not a list or mapping of class names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise Unusable(f"{str(file)!a} does not number the names 0, 1, 2 ...; renumber them")
        names = [names[number] for number in range(len(names))]
    return [str(name) for name in names]


def yaml_place(file: Path, base: str, key: str, entry: Any) -> Path:
    """Where the images of a split are: Roboflow writes ../train/images for train/images."""
    entries = entry if isinstance(entry, list) else [entry]
    if len(entries) != 1:
        raise Unusable(
            f"{str(file)!a}: {key} has {len(entries)} folders; put their images into one folder, or"
            " list them in one .txt file"
        )
    inside = re.sub(r"^(\.\.?/)+", "", str(entries[0]))
    places = [file.parent / base / str(entries[0]), file.parent / str(entries[0])]
    places += [file.parent / base / inside, file.parent / inside]
    for place in map(Path, map(os.path.abspath, places)):
        if place.is_dir() and not yolo_images(place) and (place / "images").is_dir():
            return place / "images"
        if place.exists():
            return place
    looked = ascii_list(dict.fromkeys(os.path.abspath(place) for place in places))
    raise Unusable(f"{str(file)!a}: {key} is not there; looked for {looked}")


def find_yaml_splits(file: Path, notes: list[str]) -> Candidates:
    data = load_yaml(file)
    classes = yaml_classes(file, data)
    candidates: Candidates = {}
    for key in ("train", "val", "valid", "validation", "test"):
        if data.get(key):
            try:
                place = yaml_place(file, str(data.get("path") or ""), key, data[key])
            except Unusable as error:
                if key != "test":
                    raise
                notes.append(f"The split test is left out: {error}.")
                continue
            yolo = YoloSplit(place, classes, bool(data.get("kpt_shape")))
            candidates.setdefault(split_of(key), []).append(yolo)
    if candidates and data.get("kpt_shape"):
        notes.append("YOLO's keypoints are not read, only the boxes.")
    return candidates


def find_yolo(path: Path, notes: list[str]) -> Candidates:
    """The splits named in data.yaml; without it, the folders of images that have label files."""
    if file := yaml_of(path):
        return find_yaml_splits(file, notes)
    candidates: Candidates = {}
    found = tree(path) if path.is_dir() else {}
    for folder in found:
        images = yolo_images(path / folder)
        labels = [Path(label_of(image)) for image in spread(images, 100)]
        texts = [read_lines(label) for label in labels if label.is_file()]
        if any(YOLO_LABEL.match(lines[0]) for lines in texts if lines):
            yolo = YoloSplit(path / folder, class_names(path), False)
            candidates.setdefault(split_of(folder), []).append(yolo)
    return candidates


def yolo_object(line: str, is_pose: bool) -> tuple[int, float, float, bool]:
    """Class, width and height as shares of the image's, and whether it is a polygon."""
    number, *values = (float(word) for word in line.split())
    if not (0 <= number < MAX_CLASSES and number.is_integer()):
        raise ValueError(f"not a class: {number}")
    if len(values) == 4 or (is_pose and len(values) > 4):
        return int(number), values[2], values[3], False
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"neither a box nor a polygon: {line}")
    x, y = values[::2], values[1::2]
    return int(number), max(x) - min(x), max(y) - min(y), True


def read_yolo(candidate: YoloSplit, name: str, root: Path) -> Split:
    """One split. Images without a label file are images without objects, as for YOLO itself."""
    split = Split({"folder": candidate.source}, yolo_images(candidate.source))
    measured = set(spread(split.images, MAX_MEASURED))
    counts: Counter[int] = Counter()
    polygons = wrong = without = 0
    for image in split.images:
        label = Path(label_of(image))
        try:
            lines = read_lines(label)
        except FileNotFoundError:
            without += 1
            continue
        size = image_size(image) if image in measured else None
        for line in lines:
            try:
                number, width, height, is_polygon = yolo_object(line, candidate.is_pose)
            except ValueError:
                wrong += 1
                continue
            counts[number] += 1
            polygons += is_polygon
            split.areas += [width * height * size[0] * size[1]] if size else []
            if candidate.classes and not 0 <= number < len(candidate.classes):
                raise Unusable(
                    f"{str(label)!a} has the class {number}, but only {len(candidate.classes)} have"
                    f" names, from 0: {ascii_list(candidate.classes)}"
                )
    split.objects = counts.total()
    numbers = range(max(counts, default=-1) + 1)
    split.classes = candidate.classes or [f"class_{number}" for number in numbers]
    for number, count in counts.items():
        split.counts[split.classes[number]] += count
    split.tasks = {"boxes"} | ({"masks"} if polygons and 2 * polygons >= split.objects else set())
    if without:
        split.notes.append(f"{without} images of {name} have no label file: they have no objects.")
    if wrong:
        split.notes.append(f"{wrong} lines in labels of {name} are neither boxes nor polygons.")
    return split


# ---- label maps, and Cityscapes ---------------------------------------------------------------


def find_semantic(path: Path, notes: list[str]) -> Candidates:
    """(folder of label maps, folder of images) of each split."""
    found = tree(path) if path.is_dir() else {}
    maps = {
        folder
        for folder in found
        if re.search(LABEL_MAPS, folder.lower()) and "panoptic" not in folder
    }
    others = {folder: names for folder, names in found.items() if folder not in maps}
    candidates: Candidates = {}
    for folder in [folder for folder in found if folder in maps]:
        stems = {stem(name) for name in found[folder] if name.lower().endswith(".png")}
        images = image_folder(others, stems, split_of(folder))
        if any(is_image(name) and stem(name) in stems for name in others[images]):
            pair = (path / folder, path / images)
            candidates.setdefault(split_of(folder), []).append(pair)
    return candidates


def check_label_map(file: Path) -> None:
    with file.open("rb") as opened:
        start = opened.read(29)
    if not start.startswith(PNG) or len(start) < 29:
        raise Unusable(f"{str(file)!a} is not a PNG")
    depth, color = start[24], start[25]
    if not (color == 3 or (color == 0 and depth == 8)):
        kind = {0: "gray", 2: "RGB", 4: "gray with alpha", 6: "RGBA"}.get(color, f"kind {color}")
        raise Unusable(
            f"{str(file)!a} is a PNG of {depth}-bit {kind}; label maps have one channel of 8 bits,"
            " whose values are class ids (0, 1, 2 ...; 255: not labelled). Convert colors to ids"
        )


def classes_in(maps: list[Path], split: Split) -> list[str]:
    """class_0 ... up to the highest value in a sample of label maps; 255 means not labelled."""
    sample = spread(maps, 200)
    pixels = statistics.mean(width * height for width, height in split.sizes)
    sample = spread(sample, max(1, int(MAX_PIXELS / max(1, pixels))))
    values: set[int] = set()
    for file in sample:
        try:
            values |= label_values(file)
        except (IndexError, ValueError, struct.error, zlib.error):
            raise Unusable(f"{str(file)!a} cannot be read as a PNG label map") from None
    classes = [f"class_{number}" for number in range(max(values - {255}, default=0) + 1)]
    if len(classes) == 1:
        raise Unusable(
            f"{str(maps[0].parent)!a}: label maps have only the values {sorted(values)}. Classes"
            " are 0, 1, 2 ..., and 255 means not labelled: write 1 instead of 255"
        )
    split.notes.append(
        f"No classes.txt, so the {len(classes)} classes are those in {len(sample)} label maps."
    )
    return classes


def read_semantic(candidate: tuple[Path, Path], name: str, root: Path) -> Split:
    """One split of images and label maps: what has no counterpart is left out."""
    labels, folder = candidate
    files = {stem(file): file for file in contents(folder).files if is_image(file)}
    names = [file for file in contents(labels).files if file.lower().endswith(".png")]
    maps = [labels / file for file in names if stem(file) in files]
    split = Split({"labels": labels, "folder": folder}, [])
    split.images = [os.path.join(folder, files[file.stem]) for file in maps]
    split.objects = len(maps)
    split.tasks = {"semantic"}
    for file in spread(maps, MAX_MEASURED):
        check_label_map(file)
        split.sizes.append(image_size(file))
    split.classes = class_names(root) or classes_in(maps, split)
    if without := len(files) - len(maps):
        split.notes.append(f"{without} images of {name} have no label map and are left out.")
    return split


def find_cityscapes(path: Path, notes: list[str]) -> Candidates:
    """(folder in leftImg8bit, folder in gtFine) of each split."""
    candidates: Candidates = {}
    if path.is_dir() and {"leftImg8bit", "gtFine"} <= set(contents(path).folders):
        for name in contents(path / "gtFine").folders:
            if split_of(name) and (path / "leftImg8bit" / name).is_dir():
                pair = (path / "leftImg8bit" / name, path / "gtFine" / name)
                candidates.setdefault(split_of(name), []).append(pair)
    return candidates


def read_cityscapes(candidate: tuple[Path, Path], name: str, root: Path) -> Split:
    """One split, from gtFine_polygons.json; those of test have none of the classes."""
    folder, labels = candidate
    split = Split({"folder": folder, "labels": labels}, [], classes=CITYSCAPES_CLASSES)
    split.tasks = {"boxes", "masks", "semantic"}
    for city in contents(labels).folders:
        for file in contents(labels / city).files:
            if not file.endswith("_gtFine_polygons.json"):
                continue
            image = file.replace("_gtFine_polygons.json", "_leftImg8bit.png")
            split.images.append(os.path.join(folder, city, image))
            add_cityscapes_objects(split, labels / city / file)
    split.objects = split.counts.total()
    return split


def add_cityscapes_objects(split: Split, file: Path) -> None:
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
        split.sizes.append((int(data["imgWidth"]), int(data["imgHeight"])))
        for thing in data["objects"]:
            if thing["label"] in CITYSCAPES_CLASSES:
                x, y = zip(*thing["polygon"], strict=True)
                split.counts[thing["label"]] += 1
                split.areas.append((max(x) - min(x)) * (max(y) - min(y)))
    except (KeyError, OverflowError, TypeError, ValueError):
        raise Unusable(f"{str(file)!a} is not one of Cityscapes' polygon files") from None


# ---- all formats ------------------------------------------------------------------------------

READERS: dict[str, tuple[Callable[..., Candidates], Callable[..., Split]]] = {  # by preference
    "cityscapes": (find_cityscapes, read_cityscapes),
    **{
        kind: (functools.partial(find_json, kind=kind), functools.partial(read_json, kind=kind))
        for kind in ("coco", "lvis", "coco_panoptic")
    },
    "yolo": (find_yolo, read_yolo),
    "voc": (find_voc, read_voc),
    "semantic": (find_semantic, read_semantic),
}


def possible(data: str, folders: Sequence[Path]) -> list[str]:
    """The absolute paths that may be meant: it may be relative to one of the folders."""
    return [os.path.abspath(Path(folder, os.path.expanduser(data))) for folder in folders or ["."]]


def parse(data: str, folders: Sequence[Path]) -> tuple[str, str]:
    """The format, which is "auto" if none is named, and the path or name in what was typed.

    The path is "" if the format stands alone, as in `voc:`, because its data come later. What has
    a colon is a path if it is there, or begins with a drive of Windows.
    """
    format, colon, path = data.partition(":")
    if colon and format in READERS:
        return format, path
    if any(map(os.path.exists, possible(data, folders))):
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


def locate(data: str, folders: Sequence[Path]) -> Path:
    """The absolute path that was typed."""
    places = possible(data, folders)
    for place in places:
        if os.path.exists(place):
            return Path(place)
    message = f"{data!a} is not there; looked for {ascii_list(dict.fromkeys(places))}"
    near = [] if "/" in data else difflib.get_close_matches(data, BUILTIN_NAMES)
    for missing in map(Path, places):
        while not missing.parent.is_dir():
            missing = missing.parent
        there = [name for names in contents(missing.parent) for name in names]
        names = difflib.get_close_matches(missing.name, there)
        near += [str(missing.parent / name) for name in names]
    if near:
        raise Unusable(f"{message}. Near are {ascii_list(dict.fromkeys(near))}")
    raise Unusable(f"{message}. Type the path of a file or folder, or {NEEDS['builtin']}")


def read_builtin(name: str) -> dict[str, Any]:
    """What is known of one of detectron2's own data sets; no file is read."""
    splits = {
        split: {"name": split_name, "images": None, "objects": None}
        for split, split_name in BUILTIN_SPLITS[name].items()
    }
    found = summary("builtin", Split({}, [], tasks=BUILTIN[name]), [])
    return found | {"root": "", "name": name, "splits": splits}


def find(path: Path, format: str) -> tuple[str, Candidates, list[str]]:
    """The format of the files, the candidates for each split, and notes.

    `auto` prefers formats in which something is for training, then those that come first in
    READERS.
    """
    found: dict[str, Candidates] = {}
    notes: dict[str, list[str]] = {name: [] for name in READERS}
    refusals: dict[str, Unusable] = {}
    for name, (find_splits, _) in READERS.items():
        try:
            if candidates := find_splits(path, notes[name]):
                found[name] = candidates
        except Unusable as error:
            refusals[name] = error
    if refusals and (format in refusals or not found):
        raise refusals.get(format) or next(iter(refusals.values()))
    if not found:
        raise Unusable(nothing_found(path))
    if format == "auto":
        format = min(found, key=lambda name: not {"train", "trainval", ""} & set(found[name]))
        if others := [name for name in found if name != format]:
            notes[format].append(
                f"Read as {format}; the files are also {' and '.join(others)}: type"
                f" data={others[0]}:... to have them read so."
            )
    elif format not in found:
        raise Unusable(
            f"{str(path)!a} is not {format}, which needs {NEEDS[format]}; it looks like"
            f" {' and '.join(found)}"
        )
    return format, found[format], notes[format]


def nothing_found(path: Path) -> str:
    """Why a path is not a data set."""
    formats = "; ".join(f"{name}: {need}" for name, need in NEEDS.items() if name != "builtin")
    if path.is_file():
        return f"{str(path)!a} is a file of none of the formats. Formats are {formats}"
    images = sum(is_image(name) for names in tree(path).values() for name in names)
    return (
        f"{str(path)!a} has {images} images, but no annotations were found (at most {MAX_DEPTH}"
        f" folders deep). Formats are {formats}"
    )


def name_splits(candidates: Candidates, notes: list[str]) -> dict[str, Any]:
    """One candidate for each of train, val and test, some of which may not be there."""
    named = dict(candidates)
    whole = named.pop("trainval", None)
    if whole and not {"train", "val"} <= set(named):
        parts = [name for name in ("train", "val") if named.pop(name, None)]
        notes += [f"The split {name} is left out: it is part of trainval." for name in parts]
        named["train"] = whole
    unnamed = named.pop("", None)
    if unnamed and "train" in named:
        notes.append(f"Annotations outside of splits are left out: {ascii_list(unnamed)}.")
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
                f" {ascii_list(map(candidate_path, choices))}"
            )
    return {name: named[name][0] for name in ("train", "val", "test") if name in named}


def candidate_path(candidate: Any) -> Path:
    """The path of a candidate's annotations, or the first of several."""
    paths = candidate if isinstance(candidate, tuple) else (candidate,)
    return next(path for path in paths if path is not None)


def usable_splits(splits: dict[str, Split], notes: list[str]) -> dict[str, Split]:
    """Those with annotations whose images are there; a test is used as val if there is none."""
    train = splits["train"]
    if not train.objects:
        places = ascii_list(place for place in train.places.values() if place)
        reasons = " ".join(["", *train.notes])
        raise Unusable(f"there are no annotations for training in {places}.{reasons}")
    for name in [name for name in splits if not splits[name].objects]:
        notes.append(f"The split {name} is left out: it has no annotations.")
        del splits[name]
    for name, split in splits.items():
        notes += split.notes + missing_files(split.images, f"images of {name}")
    if "test" in splits and "val" not in splits:
        notes.append("There is no split val, so test is used for it.")
        splits["val"] = splits.pop("test")
    if "val" not in splits:
        notes.append("There is one set of annotations: a share will be held out for validation.")
    elif splits["val"].places == train.places:
        notes.append("The splits train and val are the same files.")
    return splits


def all_classes(format: str, splits: dict[str, Split], notes: list[str]) -> list[str]:
    """Class names by id. Formats without a list of them have those of all splits together."""
    train = splits["train"].classes
    if format == "voc":
        return sorted(set().union(*(split.classes for split in splits.values())))
    if format in ("yolo", "semantic"):
        return max((split.classes for split in splits.values()), key=len)
    others = [name for name, split in splits.items() if split.classes != train]
    notes += [f"The classes of {name} are not those of train." for name in others]
    return train


def size_in_pixels(split: Split) -> dict[str, float | None]:
    """Median short and long side of the images; of box areas the 10th percentile's root."""
    areas = sorted(split.areas)
    return {
        "short": round(statistics.median(map(min, split.sizes))) if split.sizes else None,
        "long": round(statistics.median(map(max, split.sizes))) if split.sizes else None,
        "object": round(max(0, areas[len(areas) // 10]) ** 0.5, 1) if areas else None,
    }


def suggested_name(root: Path) -> str:
    """A name for the data set that none of detectron2's own has."""
    name = re.sub("[^a-z0-9]+", "_", data_set_folder(root).name.lower()).strip("_")
    if not re.match("[a-z]", name) or re.match(TAKEN, name):
        name = f"my_{name or 'dataset'}"
    return name[:40].rstrip("_")


def summary(format: str, train: Split, classes: list[str]) -> dict[str, Any]:
    """The part of the result that comes from the training split."""
    is_counted = format not in ("semantic", "builtin")
    return {
        "format": format,
        "classes": classes,
        "counts": {name: train.counts[name] for name in classes} if is_counted else {},
        "tasks": [task for task in TASKS if task in train.tasks],
        "size": size_in_pixels(train),
        "extension": Path(train.images[0]).suffix[1:] if train.images else "",
        "notes": [],
    }


def read_files(path: Path, format: str) -> dict[str, Any]:
    """`read` for what is not built in."""
    format, candidates, notes = find(path, format)
    folder = path if path.is_dir() else data_set_folder(path.parent)
    read_split = READERS[format][1]
    splits = {
        name: read_split(candidate, name, folder)
        for name, candidate in name_splits(candidates, notes).items()
    }
    splits = usable_splits(splits, notes)
    classes = all_classes(format, splits, notes)
    train = splits["train"]
    if not train.sizes:
        train.sizes = list(filter(None, map(image_size, spread(train.images, MAX_MEASURED))))
    result = summary(format, train, classes)
    if without := [name for name, count in result["counts"].items() if not count]:
        notes.append(f"{len(without)} classes have no objects in train: {ascii_list(without)}.")
    places = [place for split in splits.values() for place in split.places.values() if place]
    folders = [place if place.is_dir() else place.parent for place in [path, *places]]
    root = Path(os.path.commonpath(folders))

    def arguments(split: Split) -> dict[str, Any]:
        relative = {
            key: Path(os.path.relpath(place, root)).as_posix() if place else ""
            for key, place in split.places.items()
        }
        return relative | {"images": len(split.images), "objects": split.objects}

    return result | {
        "root": str(root),
        "name": suggested_name(root),
        "splits": {name: arguments(split) for name, split in splits.items()},
        "notes": list(dict.fromkeys(notes)),
    }


def read(data: str, format: str, folders: Sequence[Path]) -> dict[str, Any]:
    """What a data set consists of, as a dict for JSON.

    data: a path, absolute or relative to the first of `folders` under which it exists, or the
        name of one of detectron2's own data sets, which wins over a path without a slash
    format: one of FORMATS, or "auto"

    Returns the keys
        format, root (absolute; "" if built in), name (a suggestion)
        splits: {"train" and maybe "val" and "test": the format's arguments, which are relative to
            root, and the numbers `images` and `objects`, which are None if built in}
        classes: names by id; counts: {class: objects in train}
        tasks: those of TASKS that the annotations can train
        extension: of the first image's name
        size: short and long side of an image, and side of a small object, in px; None if unknown
        notes: sentences for the user
    Raises Unusable if there is no such data set, or it cannot be trained on.
    """
    if format not in ("auto", *FORMATS):
        raise Unusable(f"format {format!a} is none of auto, {', '.join(FORMATS)}")
    if data.startswith("cityscapes_") and not any(map(os.path.exists, possible(data, folders))):
        raise Unusable(
            f"{data!a}: detectron2's own loader of Cityscapes does not work outside of Meta at the"
            " commit used here; type the path of the folder with leftImg8bit/ and gtFine/ instead"
        )
    is_builtin = data in BUILTIN_NAMES
    if is_builtin and format in ("auto", "builtin"):
        return read_builtin(BUILTIN_NAMES[data])
    if is_builtin:
        raise Unusable(
            f"{data!a} is a data set of detectron2, whose format is known; type {data!r} alone, or"
            f" '{format}:./{data}' for a folder of that name"
        )
    if format == "builtin" or not data.strip():
        raise Unusable(f"{data!a} is not {format}: {NEEDS['builtin']}")
    contents.cache_clear()
    was_enabled = gc.isenabled()
    gc.disable()  # it would look through millions of new objects, of which none is garbage
    try:
        return read_files(locate(data, folders), format)
    except OSError as error:
        raise Unusable(f"{str(error.filename)!a} cannot be read: {plain(error.strerror)}") from None
    finally:
        contents.cache_clear()
        if was_enabled:
            gc.enable()
