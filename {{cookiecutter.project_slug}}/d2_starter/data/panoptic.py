"""COCO's panoptic format: a PNG of segments for each image, their classes in a JSON file.

Panoptic FPN, and the models of things or stuff alone, take instances and label maps instead, which
are made here. detectron2 leaves that to scripts outside of its package.
"""

import json
from functools import cache
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from detectron2.data.datasets import load_coco_json
from PIL import Image

from ..formats.coco import read_categories
from .catalog import existing
from .label_maps import IGNORED, derived_label_maps, segments_to_annotations

VOID = 0  # the id of pixels without a segment


def panoptic_classes(json_file: Path) -> dict:
    """The metadata of a panoptic data set: class 0 of the semantic head is all things."""
    things, stuff = _things_and_stuff(json_file)
    return {
        "thing_classes": [category["name"] for category in things],
        "stuff_classes": ["things", *(category["name"] for category in stuff)],
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(things)},
        "stuff_dataset_id_to_contiguous_id": {0: 0}
        | {category["id"]: i for i, category in enumerate(stuff, start=1)},
    }


def semantic_classes(json_file: Path) -> dict:
    """The metadata of the same as a semantic data set: things, then stuff."""
    return {"stuff_classes": [c["name"] for c in sum(_things_and_stuff(json_file), [])]}


def load_instances(
    name: str, json_file: Path, masks: Path, images: Path, instances: Path | None
) -> list[dict]:
    """The dataset dicts of the things.

    Args:
        name: of the data set, which must be registered.
        masks, images: folders of the PNGs and of the images.
        instances: the same in COCO's format for instances, if there is that: with polygons.
    """
    if instances:
        return load_coco_json(str(existing(instances, name)), str(images), name)
    ids = panoptic_classes(json_file)["thing_dataset_id_to_contiguous_id"]
    jobs = []
    for image, annotation in _images(name, json_file):
        record = {
            "file_name": str(images / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
        }
        segments = {
            info["id"]: ids[info["category_id"]]
            for info in annotation["segments_info"]
            if info["category_id"] in ids and not info.get("iscrowd")
        }
        jobs.append((record, masks / annotation["file_name"], segments))
    with Pool() as pool:
        return pool.starmap(_with_annotations, jobs, chunksize=16)


def _with_annotations(record, png, segments):
    return record | {"annotations": segments_to_annotations(_read_segments(png), segments)}


def load_stuff(name: str, json_file: Path, masks: Path, images: Path, kind: str) -> list[dict]:
    """The dataset dicts with label maps.

    Args:
        name: of the data set, which the folder of the derived maps gets too.
        kind: "stuff", for Panoptic FPN, where 0 is all things; or "semantic", of all classes.
    """
    things, stuff = _things_and_stuff(json_file)
    if kind == "stuff":
        labels = {c["id"]: 0 for c in things} | {c["id"]: i for i, c in enumerate(stuff, start=1)}
    else:
        labels = {c["id"]: i for i, c in enumerate([*things, *stuff])}
    found = _images(name, json_file)
    jobs = [
        (
            str(existing(masks, name) / annotation["file_name"]),
            {info["id"]: labels[info["category_id"]] for info in annotation["segments_info"]},
        )
        for _, annotation in found
    ]
    folder = derived_label_maps(name, jobs, _label_map)
    return [
        {
            "file_name": str(images / image["file_name"]),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "sem_seg_file_name": str(folder / Path(annotation["file_name"]).name),
        }
        for image, annotation in found
    ]


def _label_map(png, labels):
    segments = _read_segments(png)
    ids, inverse = np.unique(segments, return_inverse=True)
    values = [IGNORED if i == VOID else labels.get(i, IGNORED) for i in ids.tolist()]
    return np.array(values, dtype=np.uint8)[inverse].reshape(segments.shape)


def _read_segments(png) -> np.ndarray:
    """(H, W) int: the PNG's colors hold id = R + 256 G + 256^2 B."""
    return np.asarray(Image.open(png).convert("RGB")).astype(np.int64) @ [1, 256, 256**2]


def _images(name, json_file):
    """Pairs of an image and its annotation, by the ids of the images."""
    content = json.loads(existing(json_file, name).read_text(encoding="utf-8"))
    images = {image["id"]: image for image in content["images"]}
    annotations = sorted(content["annotations"], key=lambda annotation: annotation["image_id"])
    return [(images[annotation["image_id"]], annotation) for annotation in annotations]


@cache
def _things_and_stuff(json_file):
    categories = read_categories(json_file)
    return tuple([c for c in categories if bool(c["isthing"]) == thing] for thing in (True, False))
