"""Cityscapes: instances and label maps, made of its PNGs without cityscapesscripts."""

from multiprocessing import Pool

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from PIL import Image

from .label_maps import IGNORED, derived_label_maps, segments_to_annotations

CLASSES = [c for c in CITYSCAPES_CATEGORIES if c["trainId"] != IGNORED]
THINGS = [c for c in CLASSES if c["isthing"]]
# The id of an instance is its class * 1000 + a number; that of a group of them, just the class.
FACTOR = 1000


def metadata(kind: str) -> dict:
    """Returns the names and colors of the classes of a kind, "instances" or "semantic"."""
    what, classes = ("thing", THINGS) if kind == "instances" else ("stuff", CLASSES)
    colors = {f"{what}_colors": [category["color"] for category in classes]}
    names = [category["name"] for category in classes]
    return colors if kind == "instances" else colors | {"stuff_classes": names}


def load(name: str, kind: str, records: list[dict]) -> list[dict]:
    """Returns the dataset dicts of a kind; groups that nobody can tell apart are left out.

    Args:
        name: of the registered dataset.
        records: of the format's reader, with the beginning of the names of their `labels`.
    """
    if kind == "semantic":
        jobs = [(f"{record['labels']}_labelIds.png",) for record in records]
        maps = derived_label_maps(name, jobs, _label_map)
        return [
            {"file_name": record["file_name"], "sem_seg_file_name": file}
            for record, file in zip(records, maps, strict=True)
        ]
    with Pool() as pool:
        return pool.map(_read_instances, records, chunksize=8)


def _read_instances(record):
    segments = np.asarray(Image.open(f"{record['labels']}_instanceIds.png")).astype(np.int64)
    classes = {category["id"]: index for index, category in enumerate(THINGS)}
    instances = {
        segment: classes[segment // FACTOR]
        for segment in np.unique(segments).tolist()
        if segment // FACTOR in classes
    }
    height, width = segments.shape
    return {
        "file_name": record["file_name"],
        "image_id": record["image_id"],
        "height": height,
        "width": width,
        "annotations": segments_to_annotations(segments, instances),
    }


def _label_map(file):
    table = np.full(256, IGNORED, dtype=np.uint8)
    for category in CLASSES:
        table[category["id"]] = category["trainId"]
    return table[np.asarray(Image.open(file))]
