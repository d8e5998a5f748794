"""Completes dataset dicts that somebody's own function made: one place for all fields."""

import os
from numbers import Integral, Real

import numpy as np
from detectron2.structures import BoxMode

from ..formats.files import image_size

MODES = {int(mode): mode for mode in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS, BoxMode.XYWHA_ABS)}


def complete(name: str, records: list[dict], classes: int):
    """Fills in what has one right value, in place: sizes from image files, ids from their names.

    Numbers of numpy become Python's, which evaluations can write to JSON.

    Args:
        name: of the dataset, for messages.
        classes: their number; 0 if it is not known.

    Raises:
        ValueError: something is missing or wrong that has no one right value; the message has the
            record and the field.
    """
    if not isinstance(records, list):
        raise ValueError(f"the function of dataset '{name}' returned {type(records).__name__}, not "
                         "a list of dicts")  # fmt: skip
    for index, record in enumerate(records):
        for where, field, text in problems_of(record, index, classes):
            raise ValueError(
                f"dataset '{name}', {where}: {field} {text}. Set it where the dataset is loaded, "
                "in data/dataset.py; https://detectron2.readthedocs.io/tutorials/datasets.html has "
                "all fields."
            )


def problems_of(record: dict, index: int, classes: int):
    """Completes a record; yields (which record or annotation, field, what is wrong with it)."""
    where = f"record {index}"
    if not isinstance(record, dict):
        yield where, "it", f"is {type(record).__name__}, not a dict"
        return
    file = record.get("file_name")
    if not isinstance(file, (str, os.PathLike)):
        yield where, "'file_name'", "is missing" if file is None else f"is {file!r}"
        return
    where = f"{where} ({file})"
    record["file_name"] = os.fspath(file)
    record.setdefault("image_id", os.fspath(file))
    record["image_id"] = _plain(record["image_id"])
    if "annotations" in record and not {"width", "height"} <= record.keys():
        size = image_size(os.fspath(file))
        if size is None:
            yield where, "'width' and 'height'", "are missing, and the image cannot be read"
            return
        record["width"], record["height"] = size
    for side in ("width", "height"):
        value = _plain(record.get(side, 1))
        if side in record:
            record[side] = value
        if not isinstance(value, Real) or not value > 0:
            yield where, f"'{side}'", f"is {value!r}"
    for number, annotation in enumerate(record.get("annotations") or ()):
        yield from _annotation_problems(annotation, f"{where}, annotation {number}", classes)


def _annotation_problems(annotation, where, classes):
    for field in ("bbox", "bbox_mode", "category_id"):
        if annotation.get(field) is None:
            yield where, f"'{field}'", "is missing"
            return
    annotation["iscrowd"] = int(annotation.get("iscrowd") or 0)
    mode = annotation["bbox_mode"] = MODES.get(_plain(annotation["bbox_mode"]), None)
    if mode is None:
        yield where, "'bbox_mode'", "is none of BoxMode.XYXY_ABS, XYWH_ABS and XYWHA_ABS"
        return
    box = annotation["bbox"] = _plain(annotation["bbox"])
    length = 5 if mode == BoxMode.XYWHA_ABS else 4
    if not isinstance(box, (list, tuple)) or len(box) != length:
        yield where, "'bbox'", f"is {box!r}, not {length} numbers"
    elif not all(isinstance(v, Real) and np.isfinite(v) for v in box):
        yield where, "'bbox'", f"is {box!r}, not {length} finite numbers"
    category = annotation["category_id"] = _plain(annotation["category_id"])
    if not isinstance(category, Integral) or not 0 <= category < (classes or 1 << 31):
        yield where, "'category_id'", f"is {category!r}, not the index of one of {classes} classes"
    if annotation.get("keypoints") is not None:
        annotation["keypoints"] = _plain(annotation["keypoints"])


def _plain(value):
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)) and any(isinstance(v, np.generic) for v in value):
        return [_plain(v) for v in value]
    return value
