"""Holds what all formats share: names of splits and classes, and the records that a reader makes.

A format is a module with three names. `NEEDS` says what must be there. `find(tree)` returns the
sources of each split, `{"train": [source, ...], ...}`, "" where names do not say which; a source is
a dict for JSON, whose paths are relative to the tree. `read(split)` fills a `Split` from it.
"""

import math
import re
from typing import Any

from .files import Tree, image_size, read_lines
from .problems import Problems, Unusable

TASKS = ("boxes", "masks", "keypoints", "panoptic", "semantic")
XYXY, XYWH = 0, 1  # as in detectron2's BoxMode
MAX_CLASSES = 10_000  # a higher class number is a mistake
SPLIT_WORDS = {  # tried in this order: test-dev is a test
    "trainval": "train[_-]?val",
    "test": "test(ing|set|data)?",
    "val": "val(id|idation|set|data)?|dev",
    "train": "train(ing|set|data)?",
}
CLASS_FILES = ("classes.txt", "class_names.txt", "labels.txt", "label_map.txt", "labelmap.txt")
CLASS_FILES += ("obj.names",)
# Of the names of keypoints: what becomes of one side in the mirror.
SIDES = [("left", "right"), ("Left", "Right"), ("^l_", "r_"), ("_l$", "_r")]

Sources = dict[str, list[dict]]


def split_of(name: str) -> str:
    """Returns the split that the name of a file or folder stands for, "" if none."""
    for split, words in SPLIT_WORDS.items():
        if re.search(rf"(?<![a-z])({words})(?![a-z])", name.lower()):
            return split
    return ""


def folders_by_split(folders) -> dict[str, list[str]]:
    """Returns folders grouped by the split in the last part of their path that names one."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        parts = folder.split("/")[::-1]
        found.setdefault(next(filter(None, map(split_of, parts)), ""), []).append(folder)
    return found


def class_file(tree: Tree) -> str:
    """Returns the path of classes.txt or its like, or ""."""
    found = [
        (CLASS_FILES.index(name), f"{folder}/{name}".lstrip("/"))
        for folder in tree.folders()
        for name in tree.names(folder)
        if name in CLASS_FILES
    ]
    return min(found)[1] if found else ""


def class_names(path: str) -> list[str]:
    """Returns the names in a file with `name` or `0: name` in each line."""
    lines = read_lines(path)
    numbered = [re.fullmatch(r"(\d+)[\s:,]+(\S.*)", line) for line in lines]
    if lines and all(numbered):
        if [int(line[1]) for line in numbered] != list(range(len(lines))):
            raise Unusable(f"{str(path)!a} does not number the classes 0, 1, 2 ...; renumber them")
        lines = [line[2] for line in numbered]
    return check_names([re.sub(r":\d+,.*", "", line) for line in lines], path)  # CVAT's has colors


def check_names(names: list, path) -> list[str]:
    """Returns names as text; refuses too many, and what is neither text nor number."""
    if len(names) > MAX_CLASSES:
        raise Unusable(f"{str(path)!a} has {len(names)} classes, more than {MAX_CLASSES}")
    if not all(isinstance(name, str | int | float) for name in names):
        raise Unusable(f"{str(path)!a}: names are not all text")
    return [str(name).strip() for name in names]


class Split:
    """One split of a dataset: its reader fills it.

    Attributes:
        tree, source: where it is read from.
        is_light: whether the outlines of masks may be left out, as they are many.
        records: detectron2's dataset dicts; annotations have names in `category_id`, and
            keypoints as {name: (x, y, visible)}, until `number` is called.
        classes: names in the order of the format; alphabetical where it has none.
        keypoints: names; flips: pairs of them that mirroring swaps; skeleton: pairs.
        stuff: names of the classes of label maps.
        tasks: what can be trained beside what the annotations show.
        metadata: what evaluation needs.
        keeps_ids: whether annotations keep the ids that COCO's files give them, for messages.
    """

    keeps_ids = False

    def __init__(self, tree: Tree, source: dict, is_light: bool = False):
        self.tree = tree
        self.source = source
        self.is_light = is_light
        self.problems = Problems()
        self.records: list[dict] = []
        self.classes: list[str] = []
        self.is_ordered = True  # whether the order of the classes says something
        self.keypoints: list[str] = []
        self.flips: list[tuple[str, str]] = []
        self.skeleton: list[tuple[str, str]] = []
        self.stuff: list[str] = []
        self.tasks: set[str] = set()
        self.metadata: dict[str, Any] = {}

    def path(self, key: str) -> str:
        return self.tree.path(self.source[key])

    def image_file(self, name: str, folder: str) -> str:
        """Returns the path of an image, see `Tree.find_image`."""
        found, is_searched = self.tree.find_image(name, folder)
        if is_searched:
            self.problems.add("image-name-found", f"{name} is {found}")
        return self.tree.path(found)

    def add_image(self, path: str, image_id=None, width=0, height=0) -> dict:
        """Adds a record; its size, in pixels, is read from the file where it is not given."""
        if not (width and height):
            width, height = image_size(path) or (0, 0)
        record = {"file_name": path, "image_id": image_id, "annotations": []}
        if width and height:
            record |= {"height": int(height), "width": int(width)}
        self.records.append(record)
        return record

    def add_object(
        self, record: dict, name: str, box=None, polygons=(), keypoints=None, where: str = ""
    ):
        """Adds an annotation to a record, unless something is wrong with it.

        Args:
            name: of the class.
            box: XYXY in pixels; None: that around the polygons.
            polygons: flat lists of coordinates.
            keypoints: {name: (x, y, visible)}.
            where: which object it is, for messages.
        """
        where = where or f"{record['file_name']}, object {len(record['annotations']) + 1}"
        if not (name := str(name or "").strip()):
            return self.problems.add("class-empty-name", where)
        whole = [polygon for polygon in polygons if is_polygon(polygon)]
        self.problems.add_all("mask-polygon", range(len(polygons) - len(whole)), lambda _: where)
        polygons = whole
        if box is None and polygons:
            box = bounds(polygons)
        if box is None:
            return self.problems.add("box-missing", where)
        try:
            x0, y0, x1, y1 = map(float, box)
        except (TypeError, ValueError, OverflowError):
            return self.problems.add("box-invalid", where)
        if not math.isfinite(x0 + y0 + x1 + y1):
            return self.problems.add("box-invalid", where)
        if x0 > x1 or y0 > y1:
            self.problems.add("box-reversed", f"{where}: {x0:g} {y0:g} {x1:g} {y1:g}")
            x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
        box = [x0, y0, x1, y1]
        annotation = {"bbox": box, "bbox_mode": XYXY, "category_id": name, "iscrowd": 0}
        if polygons:
            annotation["segmentation"] = True if self.is_light else polygons
        if keypoints:
            annotation["keypoints"] = keypoints
        record["annotations"].append(annotation)

    def finish(self):
        """Sorts the classes and keypoints that have no order, and completes what is the same."""
        if not self.classes:
            self.is_ordered = False
            self.classes = sorted(
                {a["category_id"] for r in self.records for a in r.get("annotations", ())}
            )
        if not self.keypoints:
            points = (
                a.get("keypoints", ()) for r in self.records for a in r.get("annotations", ())
            )
            self.keypoints = sorted({name for those in points for name in those})
        if self.keypoints and not self.flips:
            self.flips = flips(self.keypoints)
        for index, record in enumerate(self.records):
            if record["image_id"] is None:
                record["image_id"] = index + 1


def number(split: Split, classes: list[str], keypoints: list[str]):
    """Replaces the names of classes and keypoints in annotations by their numbers.

    Raises:
        Unusable: a class that is not in `classes`.
    """
    index = {name: i for i, name in enumerate(classes)}
    for record in split.records:
        for annotation in record["annotations"]:
            name = annotation["category_id"]
            if name not in index:
                raise Unusable(
                    f"{record['file_name']!a} has an object of class {name!a}, which is none of the"
                    f" project's {len(classes)}; run tools/set_dataset.py again if it is new"
                )
            annotation["category_id"] = index[name]
            points = annotation.get("keypoints")
            if isinstance(points, dict):
                flat = [value for name in keypoints for value in points.get(name, (0, 0, 0))]
                annotation["keypoints"] = flat


def flips(names: list[str]) -> list[tuple[str, str]]:
    """Returns the pairs of keypoints, left and right by their names, that mirroring swaps."""
    return [
        (name, mirrored)
        for name in names
        for mirrored in {re.sub(*side, name) for side in SIDES}
        if mirrored != name and mirrored in names
    ]


def is_polygon(polygon) -> bool:
    """Whether it is a flat list of at least three points."""
    return isinstance(polygon, list) and len(polygon) > 5 and is_numbers(polygon, len(polygon) & ~1)


def is_numbers(values, length: int) -> bool:
    """Whether it is a list of so many finite numbers."""
    try:
        return isinstance(values, list) and len(values) == length and math.isfinite(sum(values))
    except (OverflowError, TypeError):
        return False


def bounds(polygons: list[list[float]]) -> list[float]:
    """Returns the box, XYXY, around flat lists of coordinates."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs), max(ys)]


def ellipse(x: float, y: float, rx: float, ry: float) -> list[float]:
    """Returns a polygon of 32 points for an ellipse around (x, y)."""
    angles = [2 * math.pi * k / 32 for k in range(32)]
    return [v for a in angles for v in (x + rx * math.cos(a), y + ry * math.sin(a))]
