"""A test of a trained model, for CI: the AP on some images, and objects that must be found."""

import contextlib
import io
import json
from collections.abc import Callable, Sequence

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

IMAGES = 50
MARGIN = 1.0  # AP that another machine's rounding may cost
SURE, SAME = 0.8, 0.5  # score of an object that must be found again; IoU at which it is

TEMPLATE = '''"""Tests a trained model: it is as good as it was. Made by tools/pack.py --test.

MODEL=elsewhere.pth uv run pytest {file}   # the same of another run or packed file
"""

import os

import pytest
from {module} import load_experiment

from d2_starter.export.model_test import average_precision, not_found
from d2_starter.predict import Predictor

RUN = {run}
DATASET = {dataset}
LEAST_AP = {least}  # of boxes, on these images; it was {ap:.2f}
IMAGES = {images}
OBJECTS = {objects}


@pytest.fixture(scope="module")
def predictor():
    run = os.environ.get("MODEL", RUN)
    if not os.path.exists(run):
        pytest.skip("there is no " + run)
    return Predictor(run, load_experiment, threshold=0)


def test_average_precision(predictor):
    assert average_precision(predictor, DATASET, IMAGES) >= LEAST_AP


@pytest.mark.parametrize("image", OBJECTS)
def test_objects_are_found(predictor, image):
    assert not not_found(predictor, image, OBJECTS[image])
'''


def make_test(
    predictor, run: str, load_experiment: Callable, file: str, number: int = IMAGES
) -> str:
    """Returns the text of a test of a model on `number` images, spread over its test set.

    Raises:
        ValueError: the model finds no objects, or there is no test set.
    """
    if not predictor.names or not predictor.run.experiment.test_names:
        raise ValueError("a test needs a model that finds objects, and a test set.")
    dataset = predictor.run.experiment.test_names[0]
    records = DatasetCatalog.get(dataset)
    chosen = np.linspace(0, len(records) - 1, min(number, len(records))).round().astype(int)
    images = [records[i]["file_name"] for i in chosen.tolist()]
    ap = average_precision(predictor, dataset, images)
    objects = {}
    for image in images[:10]:
        found = predictor(image)
        found = found[found.scores >= SURE]
        boxes = found.pred_boxes.tensor.round().int().tolist()
        if boxes:
            objects[image] = [(name, *box) for name, box in zip(found.names, boxes)]
    return TEMPLATE.format(
        file=file,
        module=load_experiment.__module__,
        run=json.dumps(run),
        dataset=json.dumps(dataset),
        least=round(max(0.0, ap - MARGIN), 2),
        ap=ap,
        images=_lines(images),
        objects=_lines(objects),
    )


def average_precision(predictor, dataset: str, images: Sequence[str]) -> float:
    """Returns COCO's AP of boxes, in percent, on images of a registered dataset."""
    records = {record["file_name"]: record for record in DatasetCatalog.get(dataset)}
    gone = [image for image in images if image not in records]
    if gone:
        raise ValueError(f"'{dataset}' has no image {gone[0]}, and {len(gone) - 1} others.")
    truth = {"images": [], "annotations": [], "info": {}}
    truth["categories"] = [{"id": i, "name": name} for i, name in enumerate(predictor.names)]
    found = []
    for number, image in enumerate(images, 1):
        truth["images"].append({"id": number})
        for a in records[image].get("annotations", ()):
            box = BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYWH_ABS)
            entry = {"id": len(truth["annotations"]) + 1, "image_id": number, "bbox": box}
            entry |= {"category_id": a["category_id"], "iscrowd": a.get("iscrowd", 0)}
            truth["annotations"].append({**entry, "area": a.get("area", box[2] * box[3])})
    for number, result in enumerate(predictor.batch(images), 1):
        boxes = result.pred_boxes.tensor.clone()
        boxes[:, 2:] -= boxes[:, :2]
        for box, score, index in zip(boxes.tolist(), result.scores, result.pred_classes):
            one = {"image_id": number, "category_id": int(index), "bbox": box}
            found.append({**one, "score": float(score)})
    if not found:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools says what it does
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return 100 * float(precision[precision > -1].mean())


def not_found(predictor, image: str, objects: Sequence[tuple]) -> list[tuple]:
    """Returns those of (class, left, top, right, bottom) that are not found in an image."""
    result = predictor(image)
    result = result[result.scores >= SAME]
    missing = []
    for name, *box in objects:
        same = result[[n == name for n in result.names]]
        iou = pairwise_iou(Boxes([box]), same.pred_boxes)
        if not (iou > SAME).any():
            missing.append((name, *box))
    return missing


def _lines(value):
    """A list or dict as Python, a line for each item."""
    if isinstance(value, dict):
        items = [f"    {json.dumps(k)}: {json.dumps(v)}," for k, v in value.items()]
        return "\n".join(["{", *items, "}"])
    return "\n".join(["[", *(f"    {json.dumps(v)}," for v in value), "]"])
