"""COCO's panoptic format: instances and label maps, made of its PNGs of segments.

Panoptic FPN, and the models of things or stuff alone, take these. detectron2 leaves that to scripts
outside of its package.
"""

from multiprocessing import Pool

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic
from PIL import Image

from ..formats import coco
from ..formats.base import Split, number
from .label_maps import IGNORED, derived_label_maps, segments_to_annotations

VOID = 0  # the id of pixels without a segment


def load(name: str, kind: str, found: Split) -> list[dict]:
    """Returns the dataset dicts of a split and kind; sets its classes in the metadata.

    Args:
        name: of the registered dataset.
        kind: "instances", "panoptic" or "semantic".
        found: what the format's reader has read.
    """
    metadata, things = MetadataCatalog.get(name), found.metadata["things"]
    if kind == "semantic":
        metadata.set(stuff_classes=[*found.classes, *found.stuff])
        labels = dict(things) | {
            key: len(things) - 1 + i for key, i in found.metadata["stuff"].items()
        }
        return _with_label_maps(name, found, labels)
    instances = _instances(found)
    if kind == "instances":
        return instances
    # Class 0 of the semantic head is all things.
    metadata.set(
        stuff_classes=["things", *found.stuff],
        thing_dataset_id_to_contiguous_id=things,
        stuff_dataset_id_to_contiguous_id={0: 0} | found.metadata["stuff"],
        panoptic_json=found.metadata["panoptic_json"],
        panoptic_root=found.metadata["panoptic_root"],
    )
    labels = dict.fromkeys(things, 0) | found.metadata["stuff"]
    return merge_to_panoptic(instances, _with_label_maps(name, found, labels))


def _instances(found):
    """Returns the things: of COCO's file of instances, which has polygons, or else of the PNGs."""
    if found.source.get("instances"):
        source = {"annotations": found.source["instances"], "images": found.source["images"]}
        split = Split(found.tree, source)
        coco.read(split)
        split.finish()
        number(split, found.classes, split.keypoints)
        return split.records
    things = found.metadata["things"]
    jobs = [
        (
            _plain(record),
            record["pan_seg_file_name"],
            {
                info["id"]: things[info["category_id"]]
                for info in record["segments_info"]
                if info["category_id"] in things and not info["iscrowd"]
            },
        )
        for record in found.records
    ]
    with Pool() as pool:
        return pool.starmap(_with_annotations, jobs, chunksize=16)


def _plain(record):
    return {key: record[key] for key in ("file_name", "image_id", "height", "width")}


def _with_annotations(record, png, segments):
    return record | {"annotations": segments_to_annotations(_read_segments(png), segments)}


def _with_label_maps(name, found, labels):
    jobs = [
        (
            record["pan_seg_file_name"],
            {info["id"]: labels[info["category_id"]] for info in record["segments_info"]},
        )
        for record in found.records
    ]
    maps = derived_label_maps(name, jobs, _label_map)
    return [
        _plain(record) | {"sem_seg_file_name": file}
        for record, file in zip(found.records, maps, strict=True)
    ]


def _label_map(png, labels):
    segments = _read_segments(png)
    ids, inverse = np.unique(segments, return_inverse=True)
    values = [IGNORED if i == VOID else labels.get(i, IGNORED) for i in ids.tolist()]
    return np.array(values, dtype=np.uint8)[inverse].reshape(segments.shape)


def _read_segments(png) -> np.ndarray:
    """(H, W) int: the PNG's colors hold id = R + 256 G + 256^2 B."""
    return np.asarray(Image.open(png).convert("RGB")).astype(np.int64) @ [1, 256, 256**2]
