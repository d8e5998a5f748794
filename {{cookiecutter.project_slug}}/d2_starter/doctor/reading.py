"""Data sets as their files have them, mistakes and all."""

import gc
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from ..catalog import load_uncleaned
from .findings import Findings

# What values in files must be; ids and others: numbers or texts.
TYPES = {"file_name": (str, os.PathLike), "coco_url": str, "name": str}
TYPES |= dict.fromkeys(("height", "width"), (int, float))
MODES = {mode: int(mode) for mode in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)}


class Model(NamedTuple):
    """What a config file says about a model."""

    anchors: list[float]  # sizes in pixels, sorted; empty if there are none
    short_side: int  # of its images, in pixels; 0: they are not resized
    long_side: int  # at most
    masks: bool
    keypoints: bool


@dataclass
class Dataset:
    name: str
    records: list[dict] = field(default_factory=list)  # dataset dicts
    classes: dict = field(default_factory=dict)  # of objects, by category_id as records have it
    stuff: list[str] = field(default_factory=list)  # classes of label maps
    ignore_label: int = 255
    keypoints: list[str] | None = None  # names
    is_readable: bool = False
    error: str = ""  # what loading it raised
    found: Findings = field(default_factory=Findings)
    contents: dict = field(default_factory=dict)  # pixels of an image: the files that have them

    @property
    def things(self) -> list[str]:
        """Classes of objects, in order."""
        return list(self.classes.values())


def read_model(experiment) -> Model:
    """Returns the anchors, the size of images and the heads of an experiment's model."""
    short, long = experiment.test_size
    return Model(
        sorted(experiment.anchor_sizes),
        short,
        long,
        experiment.uses_masks,
        experiment.uses_keypoints,
    )


def read(name: str) -> Dataset:
    """A data set as its files have it. What cannot be read is a finding, not an exception."""
    dataset, loaded = Dataset(name), None
    gc.disable()  # else it looks through millions of annotations again and again
    try:
        loaded = load_uncleaned(name)
    except Exception as error:  # of a function that anybody may have written
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        dataset.error = f"{name}: {type(error).__name__}: {text}"
    gc.disable()  # loading from the cache enables it
    metadata = MetadataCatalog.get(name)
    dataset.stuff = list(metadata.get("stuff_classes") or ())
    dataset.ignore_label = metadata.get("ignore_label", 255)
    dataset.keypoints = metadata.get("keypoint_names")
    json_file = metadata.get("json_file")
    if metadata.get("evaluator_type") in ("coco", "lvis") and os.path.isfile(json_file or ""):
        # detectron2 stops at the first mistake in these files, and leaves out others silently. What
        # is loaded may be one split of the file's images.
        files = {record["image_id"]: record["file_name"] for record in loaded or ()}
        loaded = None  # memory
        _read_coco(dataset, json_file, metadata, files)
    elif not dataset.error and not isinstance(loaded, list):
        dataset.error = f"{name}: its function returned {type(loaded).__name__}, not a list"
    elif not dataset.error:
        records = _complete(loaded, ["file_name"], "image", name, dataset.found)
        dataset.records = [{**r, "file_name": os.fspath(r["file_name"])} for r in records]
        dataset.is_readable = True
        dataset.classes = dict(enumerate(metadata.get("thing_classes") or ()))
    return dataset


def _read_coco(dataset, file, metadata, image_files):
    found = dataset.found
    try:
        with open(file, "rb") as stream:
            content = json.load(stream)
    except (OSError, ValueError) as error:
        return found.add("annotations-invalid", f"{file}: {error}")
    keys = ("images", "annotations", "categories")
    lists = [content.get(key) if isinstance(content, dict) else None for key in keys]
    missing = [key for key, those in zip(keys, lists) if not isinstance(those, list)]
    if missing:
        return found.add_all(
            "annotations-invalid", missing, lambda key: f"{file} has no list of {key}"
        )
    name = "coco_url" if metadata.evaluator_type == "lvis" else "file_name"
    needed = (("id", name, "height", "width"), ("id", "image_id", "category_id"), ("id", "name"))
    images, annotations, categories = (
        _complete(entries, keys, kind, file, found)
        for entries, keys, kind in zip(lists, needed, ("image", "annotation", "category"))
    )
    categories.sort(key=lambda category: (isinstance(category["id"], str), category["id"]))
    dataset.classes = {category["id"]: category["name"] for category in categories}
    _read_keypoint_names(dataset, categories)
    by_id = {image["id"]: image for image in images}
    found.add_all(
        "image-id-duplicate",
        _repeated(images),
        lambda pair: f"{file}: id {pair[0]['id']} of {pair[0][name]} and of {pair[1][name]}",
    )
    found.add_all(
        "annotation-id-duplicate",
        _repeated(annotations),
        lambda pair: (
            f"{file}: id {pair[0]['id']}, in images {pair[0]['image_id']} and {pair[1]['image_id']}"
        ),
    )

    objects = defaultdict(list)
    for annotation in annotations:
        annotation["bbox_mode"] = BoxMode.XYWH_ABS
        objects[annotation["image_id"]].append(annotation)
    found.add_all(
        "annotation-without-image",
        [annotation for annotation in annotations if annotation["image_id"] not in by_id],
        lambda a: f"{file}, annotation {a['id']}: image_id {a['image_id']}",
    )
    dataset.records = [
        {
            "file_name": image_files.get(image_id) or _image_file(metadata, image[name]),
            "image_id": image_id,
            "height": image["height"],
            "width": image["width"],
            "annotations": objects.get(image_id, []),
        }
        for image_id, image in by_id.items()
        if not image_files or image_id in image_files
    ]
    dataset.is_readable = True


def _complete(entries, keys, kind, file, found):
    """The entries that have all keys, of the right types. The others are findings."""
    types = [(key, TYPES.get(key, (int, str))) for key in keys]
    is_complete = [
        isinstance(entry, dict) and all(isinstance(entry.get(key), type_) for key, type_ in types)
        for entry in entries
    ]

    def describe(i):
        entry = entries[i] if isinstance(entries[i], dict) else {}
        key = next(key for key, type_ in types if not isinstance(entry.get(key), type_))
        text = f"the {key} {str(entry[key])[:40]!r}" if key in entry else f"no {key}"
        return f"{file}: {kind} number {i + 1} has {text}"

    incomplete = np.flatnonzero(~np.array(is_complete, dtype=bool))
    found.add_all("annotations-invalid", incomplete, describe)
    return [entry for entry, complete in zip(entries, is_complete) if complete]


def _repeated(entries):
    """Pairs of the first entry with an id and another one."""
    first = {}
    return [(first[e["id"]], e) for e in entries if first.setdefault(e["id"], e) is not e]


def _image_file(metadata, name):
    # LVIS has addresses, whose last two parts are the folder of the split and the file.
    parts = name.split("/")[-2:] if metadata.evaluator_type == "lvis" else [name]
    return os.path.join(metadata.get("image_root", ""), *parts)


def _read_keypoint_names(dataset, categories):
    for category in categories:
        names = category.get("keypoints")
        names = names if isinstance(names, list) else None
        if names and dataset.keypoints is None:
            dataset.keypoints = names
        if names and list(names) != list(dataset.keypoints):
            text = f"'{category['name']}' has {names}, the metadata {dataset.keypoints}"
            dataset.found.add("keypoints-names", f"{dataset.name}: {text}")


class Objects:
    """The annotations of a data set as arrays; there are N.

    Attributes:
        annotations: list of N dicts
        owners: (N,) int, indices into the records
        starts: (number of records,) int, the first annotation of each
        categories: (N,) int, indices into the classes; -1 is none of them
        is_crowd, is_rotated, is_xywh: (N,) bool
        given: (N, 4) float64, pixels, as in the files; NaN if rotated or not four numbers
        boxes: (N, 4) float64, the same as XYXY
        limits: (N, 4) float64, the images' width, height, width, height; infinite if unknown
    """

    def __init__(self, dataset: Dataset):
        self.records = dataset.records
        lists = [record.get("annotations") or () for record in self.records]
        self.annotations = [annotation for those in lists for annotation in those]
        lengths = np.array([len(those) for those in lists], dtype=int)
        self.owners = np.repeat(np.arange(len(lists)), lengths)
        self.starts = np.cumsum(lengths) - lengths
        index = {category: i for i, category in enumerate(dataset.classes)}
        self.categories = self.each(lambda a: index.get(hashable(a.get("category_id")), -1), int)
        self.is_crowd = self.each(lambda a: a.get("iscrowd", 0) != 0, bool)
        modes = self.each(lambda a: MODES.get(hashable(a.get("bbox_mode")), -1), int)
        self.is_rotated, self.is_xywh = modes == BoxMode.XYWHA_ABS, modes == BoxMode.XYWH_ABS
        self.given = self._given()
        self.given[~self.is_xywh & (modes != BoxMode.XYXY_ABS)] = math.nan
        self.boxes = as_xyxy(self.given, self.is_xywh)
        sizes = [(r.get("width", math.inf), r.get("height", math.inf)) * 2 for r in self.records]
        self.limits = np.array(sizes, dtype=np.float64).reshape(-1, 4)[self.owners]

    def each(self, value: Callable, kind: type) -> np.ndarray:
        """(N,) array of a value of each annotation."""
        return np.fromiter(map(value, self.annotations), kind, len(self.annotations))

    def _given(self):
        try:
            boxes = [annotation["bbox"] for annotation in self.annotations]
            return np.array(boxes, dtype=np.float64).reshape(len(boxes), 4)
        except (KeyError, TypeError, ValueError):  # some are wrong, or rotated
            return np.array([_four(a.get("bbox")) for a in self.annotations])

    def number(self, i: int) -> str:
        """Which annotation of its image it is: its id or its place, from 1."""
        place = i - self.starts[self.owners[i]] + 1
        return f"annotation {self.annotations[i].get('id', f'number {place}')}"

    def name(self, i: int) -> str:
        return f"{self.records[self.owners[i]]['file_name']}, {self.number(i)}"

    def box(self, i: int) -> str:
        """Which annotation it is, its box as the file has it, and the size of its image."""
        size = ""
        if np.isfinite(self.limits[i]).all():
            size = " in {:g} x {:g} pixels".format(*self.limits[i, :2])
        return f"{self.name(i)}: box {self.annotations[i].get('bbox')}{size}"


def as_xyxy(boxes: np.ndarray, is_xywh: np.ndarray) -> np.ndarray:
    """(N, 4) boxes, of which some (N,) are XYWH, as XYXY."""
    corners = boxes.copy()
    corners[is_xywh, 2:] += boxes[is_xywh, :2]
    return corners


def hashable(value):
    return value if isinstance(value, Hashable) else None


def listed(value):
    """An empty list for None, a list of one for what is none."""
    is_list = isinstance(value, (list, tuple, np.ndarray))
    return value if is_list else [] if value is None else [value]


def floats(numbers, length):
    """(length,) float64, or an empty one if it is not so many finite numbers."""
    try:
        array = np.array(numbers, dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)
    return array if array.shape == (length,) and np.isfinite(array).all() else np.empty(0)


def _four(box):
    array = floats(listed(box), 4)
    return array if len(array) else np.full(4, math.nan)
