"""Datasets as their files have them, mistakes and all."""

import gc
import math
import os
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from torch import nn

from ..data.catalog import load_uncleaned, readable_problems
from ..data.records import problems_of
from ..formats import coco, lvis
from ..formats.base import Split, number
from ..formats.files import Tree
from .findings import Findings

MODES = {mode: int(mode) for mode in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)}


class Model(NamedTuple):
    """Holds what a config file says about a model."""

    anchors: list[float]  # sizes in pixels, sorted; empty if there are none
    short_side: int  # of its images, in pixels; 0: they are not resized
    long_side: int  # at most
    masks: bool
    keypoints: bool
    detections: int = 100  # of an image, at most
    tile: tuple[int, int] | None = None  # height and width, if images are predicted in tiles


@dataclass
class Dataset:
    """Holds the dataset dicts of a dataset, and what was found while they were read."""

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
    files: list[str] = field(default_factory=list)  # names of all images
    thumbnails: dict = field(default_factory=dict)  # file: small gray pixels
    counts: dict = field(default_factory=dict)  # class: objects

    @property
    def things(self) -> list[str]:
        """Classes of objects, in order."""
        return list(self.classes.values())


def read_model(experiment) -> Model:
    """Reads the anchors, the size of images and the heads off the model of an experiment."""
    model = experiment.build_model()
    generators = [m for m in model.modules() if hasattr(m, "cell_anchors")]
    anchors = {
        round(math.sqrt(max(0, (x1 - x0) * (y1 - y0))), 1)
        for generator in generators
        for level in generator.cell_anchors
        for x0, y0, x1, y1 in (row[:4] for row in level.tolist())
    }
    heads = getattr(model, "roi_heads", nn.Identity())
    predictor = getattr(heads, "box_predictor", None)
    if isinstance(predictor, nn.ModuleList):
        predictor = predictor[-1]
    detections = getattr(predictor, "test_topk_per_image", 0) or getattr(
        model, "max_detections_per_image", 100
    )
    short, long = 0, sys.maxsize
    for augmentation in getattr(experiment.build_mapper(False).augmentations, "augs", ()):
        if isinstance(augmentation, T.ResizeShortestEdge):
            short, long = max(augmentation.short_edge_length), augmentation.max_size
    masks, keypoints = (bool(getattr(heads, f"{w}_on", False)) for w in ("mask", "keypoint"))
    tiles = experiment.tiles
    tile = tuple(tiles["size"]) if tiles["enabled"] else None
    return Model(sorted(anchors), short, long, masks, keypoints, detections, tile)


def read(name: str) -> Dataset:
    """Reads a dataset as its files have it. What cannot be read is a finding, not an exception."""
    dataset, loaded = Dataset(name), None
    metadata = MetadataCatalog.get(name)
    readable_problems.pop(name, None)
    gc.disable()  # else it looks through millions of annotations again and again
    Split.keeps_ids = True
    try:
        loaded = load_uncleaned(name)
    except Exception as error:  # of a function that anybody may have written
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        dataset.error = f"{name}: {type(error).__name__}: {text}"
    finally:
        Split.keeps_ids = False
    gc.disable()  # loading from the cache enables it
    dataset.stuff = list(metadata.get("stuff_classes") or ())
    dataset.ignore_label = metadata.get("ignore_label", 255)
    dataset.keypoints = metadata.get("keypoint_names")
    classes = list(metadata.get("thing_classes") or ())
    is_own = name in readable_problems  # read by the readers of formats/
    if is_own:
        dataset.found.update(readable_problems[name])
    elif metadata.get("evaluator_type") in ("coco", "lvis") and _file(metadata):
        # detectron2 stops at the first mistake in these files, and leaves out others silently.
        try:
            loaded, classes = _read_file(dataset, metadata), None
        except ValueError as error:
            return dataset.found.add("annotations-invalid", str(error)) or dataset
    if loaded is None and dataset.error:
        return dataset
    if not isinstance(loaded, list):
        dataset.error = f"{name}: its function returned {type(loaded).__name__}, not a list"
        return dataset
    dataset.records = loaded if is_own else _complete(loaded, dataset.found)
    dataset.is_readable = True
    if classes is not None:
        dataset.classes = dict(enumerate(classes))
    return dataset


def _file(metadata):
    return os.path.isfile(metadata.get("json_file") or "")


def _read_file(dataset, metadata):
    """Reads the records of a COCO or LVIS file that detectron2 would read."""
    file, root = (
        metadata.json_file,
        metadata.get("image_root") or os.path.dirname(metadata.json_file),
    )
    tree = Tree(root)
    split = Split(tree, {"annotations": tree.relative(file), "images": ""})
    split.keeps_ids = True
    (lvis if metadata.evaluator_type == "lvis" else coco).read(split)
    split.finish()
    number(split, split.classes, split.keypoints)
    dataset.classes = dict(enumerate(split.classes))
    dataset.keypoints = dataset.keypoints or split.keypoints or None
    dataset.found.update(split.problems)
    return split.records


def _complete(records, found):
    """Returns the records that have all that is needed; the others are findings."""
    whole = []
    for index, record in enumerate(records):
        problems = [p for p in problems_of(record, index, 0) if ", annotation " not in p[0]]
        for where, what, text in problems:
            found.add("annotations-invalid", f"{where}: {what} {text}")
        usable = isinstance(record, dict) and isinstance(record.get("file_name"), str)
        whole += [record] * (usable and all("'width'" in what for _, what, _ in problems))
    return whole


class Objects:
    """The annotations of a dataset as arrays; there are N.

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
        """Returns the id of an annotation, or its place in its image, from 1."""
        place = i - self.starts[self.owners[i]] + 1
        return f"annotation {self.annotations[i].get('id', f'number {place}')}"

    def name(self, i: int) -> str:
        return f"{self.records[self.owners[i]]['file_name']}, {self.number(i)}"

    def box(self, i: int) -> str:
        """Returns an annotation in words: its number, its box as the file has it, its image's size."""
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
    """Returns the value if it can be a key, else None."""
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
