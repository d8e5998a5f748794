"""Corrections of annotations in a file of their own; the dataset's files stay as they are.

A fixes file is JSON. A report writes it from what was ticked in it; it can be written by hand too:

    {"dataset": "cells_train",
     "classes": ["Platelets", "RBC", "WBC"],
     "fixes": [
       {"action": "drop", "file_name": "a.jpg", "class": "RBC", "bbox": [10, 20, 30, 40]},
       {"action": "relabel", "file_name": "a.jpg", "class": "RBC", "bbox": [...], "to": "WBC"},
       {"action": "add", "file_name": "b.jpg", "class": "WBC", "bbox": [...]}]}

A box is [x, y, width, height] in pixels. An annotation is found by its image, class and box,
because few formats give it a number. An image is found by its file name; if several have the same,
"image_id" chooses. "add" may have a "segmentation" of polygons, as COCO has it.
"""

import copy
import json
import logging
from collections import Counter
from pathlib import Path

from detectron2.structures import BoxMode

SAME = 0.8  # IoU of a box in the file and the annotation that it means; boxes may have been clipped

logger = logging.getLogger(__name__)


def read_fixes(path: str | Path) -> dict:
    """Reads a fixes file.

    Raises:
        FileNotFoundError, ValueError: it is not there, or is no fixes file.
    """
    try:
        fixes = json.loads(Path(path).read_text(encoding="utf-8"))
        fixes["dataset"], fixes["classes"], fixes["fixes"]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"the fixes file {path} is not there. A report writes one: tick suspects, then press "
            '"Download fixes".'
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is no fixes file: {error!r}. It is JSON with dataset, classes and fixes; "
            "d2_starter/data/label_fixes.py shows one."
        ) from None
    return fixes


def apply_fixes(dataset_dicts: list[dict], fixes: dict) -> list[dict]:
    """Returns dataset dicts with corrected annotations; those given are not changed.

    Args:
        fixes: the content of a fixes file, see `read_fixes`.

    Raises:
        ValueError: a fix whose image, annotation, class or action is not there. Nothing is guessed:
            the dataset may have changed since, or have been fixed already.
    """
    classes = {name: index for index, name in enumerate(fixes["classes"])}
    result = list(dataset_dicts)
    by_name = {}
    for index, record in enumerate(result):
        by_name.setdefault(Path(record["file_name"]).name, []).append(index)
    examples = [a for record in result for a in record.get("annotations", ())][:1]
    changed = set()
    for number, fix in enumerate(fixes["fixes"]):
        where = f"fix {number + 1} of {len(fixes['fixes'])}, {json.dumps(fix)[:200]}"
        index = _find_image(result, by_name, fix, where)
        for key in ("class", "to"):
            if key in fix and fix[key] not in classes:
                raise ValueError(f"{where}: the classes are {list(classes)}.")
        if index not in changed:
            result[index] = copy.deepcopy(result[index])
            changed.add(index)
        annotations = result[index].setdefault("annotations", [])
        if fix["action"] == "add":
            annotations.append(_new(fix, classes, examples))
        elif fix["action"] == "drop":
            del annotations[_find(annotations, fix, classes, where)]
        elif fix["action"] == "relabel":
            annotations[_find(annotations, fix, classes, where)]["category_id"] = classes[fix["to"]]
        else:
            raise ValueError(f"{where}: the action is not one of drop, relabel and add.")
    counts = Counter(fix["action"] for fix in fixes["fixes"])
    logger.info(
        "%s: %d fixes of annotations applied to %d images: %s",
        fixes["dataset"],
        counts.total(),
        len(changed),
        ", ".join(f"{action} {number}" for action, number in counts.items()),
    )
    return result


def _find_image(records, by_name, fix, where):
    found = by_name.get(Path(fix["file_name"]).name, [])
    if len(found) > 1:
        found = [i for i in found if str(records[i].get("image_id")) == str(fix.get("image_id"))]
    if len(found) != 1:
        raise ValueError(
            f"{where}: {len(found)} images of the dataset have this file name (and image_id). Is "
            "this the dataset that the fixes were made for?"
        )
    return found[0]


def _find(annotations, fix, classes, where):
    """Returns the index of the annotation of the class with the most similar box."""
    ious = [
        _iou(BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYWH_ABS), fix["bbox"])
        if a["category_id"] == classes[fix["class"]]
        else 0
        for a in annotations
    ]
    if max(ious, default=0) < SAME:
        raise ValueError(
            f"{where}: the image has no {fix['class']} with this box. The annotations may have "
            "been corrected since the report was made; remove the fix, or make a new report."
        )
    return ious.index(max(ious))


def _iou(a, b):
    sides = [min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    return shared / max(a[2] * a[3] + b[2] * b[3] - shared, 1e-9)


def _new(fix, classes, examples):
    x, y, width, height = fix["bbox"]
    annotation = {
        "bbox": [x, y, x + width, y + height],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": classes[fix["class"]],
        "iscrowd": 0,
    }
    for example in examples:
        if "segmentation" in example:  # without a mask in the file, that of the box
            box = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotation["segmentation"] = fix.get("segmentation") or [box]
        if "keypoints" in example:  # present, but none of its points is annotated
            annotation["keypoints"] = [0.0] * len(example["keypoints"])
    return annotation
