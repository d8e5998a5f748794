"""The COCO evaluation gives pycocotools' numbers, also above its 100 detections an image."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluators
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_starter.data.catalog import register
from d2_starter.evaluation.evaluate import build_evaluator

SIZE = 200  # of the images, pixels
CATEGORIES = (3, 7, 9, 90)  # of 90 there is nothing in the ground truth
KEYPOINTS = 17


def mask_of(x, y, width, height):
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    center_x, center_y = x + width / 2, y + height / 2
    inside = ((columns - center_x) / width) ** 2 + ((rows - center_y) / height) ** 2 <= 0.25
    return inside.astype(np.uint8)


def truth(random):
    """40 images: some empty, with crowds, and objects of just the areas that are limits."""
    images = [
        {"id": 11 * i + 5, "height": SIZE, "width": SIZE, "file_name": f"{i}.jpg"}
        for i in range(40)
    ]
    annotations = []
    for image in images[::2] + images[1::4]:
        for _ in range(random.integers(1, 6)):
            width, height = random.choice([[32, 32], [96, 96], random.integers(8, 120, 2)])
            x, y = random.integers(0, SIZE - width + 1), random.integers(0, SIZE - height + 1)
            box = [int(v) for v in (x, y, width, height)]
            is_crowd = random.random() < 0.15
            rle = mask_util.encode(np.asfortranarray(mask_of(*box)))
            rle["counts"] = rle["counts"].decode()
            visible = random.integers(0, 3, KEYPOINTS) if random.random() < 0.9 else 0
            points = random.uniform(box[:2], [x + width, y + height], (KEYPOINTS, 2))
            keypoints = np.column_stack([points, np.broadcast_to(visible, KEYPOINTS)])
            annotations.append({
                "id": len(annotations) + 1, "image_id": image["id"], "bbox": box,
                "category_id": int(random.choice(CATEGORIES[:-1])), "iscrowd": int(is_crowd),
                "area": int(width * height), "segmentation": rle,
                "keypoints": keypoints.ravel().tolist(),
                "num_keypoints": int((keypoints[:, 2] > 0).sum()),
            })  # fmt: skip
    categories = [{"id": i, "name": f"class {i}"} for i in CATEGORIES]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}


def found(random, image, annotations):
    """Near the ground truth and beside it, twice the same, with scores of which many are tied."""
    boxes, classes = [], []
    for annotation in annotations:
        for _ in range(random.integers(0, 4)):
            x, y, width, height = np.array(annotation["bbox"]) + random.integers(-6, 7, 4)
            boxes.append([x, y, x + max(width, 2), y + max(height, 2)])
            classes.append(CATEGORIES.index(annotation["category_id"]))
    for _ in range(random.integers(0, 4)):
        x, y = random.integers(0, 150, 2)
        boxes.append([x, y, x + 40, y + 30])
        classes.append(random.integers(len(CATEGORIES)))
    boxes, classes = boxes + boxes[:1], classes + classes[:1]
    boxes = np.clip(np.array(boxes, dtype=float).reshape(-1, 4), 0, SIZE)
    number = len(boxes)
    masks = [mask_of(x, y, x2 - x + 1e-9, y2 - y + 1e-9) for x, y, x2, y2 in boxes]
    instances = Instances((SIZE, SIZE))
    instances.pred_boxes = Boxes(torch.tensor(boxes))
    instances.pred_classes = torch.tensor(classes, dtype=torch.long)
    instances.scores = torch.tensor(random.integers(1, 6, number) / 5)
    instances.pred_masks = torch.tensor(np.array(masks).reshape(-1, SIZE, SIZE) > 0)
    points = [
        np.array(annotations[random.integers(len(annotations))]["keypoints"]).reshape(-1, 3)
        + random.normal(0, 3, (KEYPOINTS, 3))
        if annotations
        else random.uniform(0, SIZE, (KEYPOINTS, 3))
        for _ in range(number)
    ]
    instances.pred_keypoints = torch.tensor(np.array(points).reshape(-1, KEYPOINTS, 3))
    return instances


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("subset", [slice(None), slice(3, 30)], ids=["all", "subset"])
def test_same_numbers_as_pycocotools(tmp_path, seed, subset):
    random = np.random.default_rng(seed)
    content = truth(random)
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    name = f"parity_{tmp_path.name}"
    MetadataCatalog.get(name).set(
        evaluator_type="coco", json_file=str(file),
        thing_classes=[category["name"] for category in content["categories"]],
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(CATEGORIES)},
    )  # fmt: skip
    sigmas = np.linspace(0.03, 0.1, KEYPOINTS).tolist()
    images = content["images"][subset]
    dataset = [
        {
            "image_id": image["id"],
            "file_name": image["file_name"],
            "annotations": [a for a in content["annotations"] if a["image_id"] == image["id"]],
        }
        for image in images
    ]
    evaluator = build_evaluator(
        name, dataset, str(tmp_path), masks=True, keypoints=True, keypoint_sigmas=sigmas
    )
    assert isinstance(evaluator, DatasetEvaluators)
    assert evaluator._evaluators[0]._use_fast_impl and COCOeval_opt is not COCOeval
    evaluator.reset()
    for number, record in enumerate(dataset):
        instances = found(random, record, record["annotations"])
        instances = instances[: 0 if number % 9 == 4 else None]
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()

    detections = json.loads((tmp_path / "coco_instances_results.json").read_text())
    for task, keys in (
        ("bbox", ["AP", "AP50", "AP75", "APs", "APm", "APl"]),
        ("segm", ["AP", "AP50", "AP75", "APs", "APm", "APl"]),
        ("keypoints", ["AP", "AP50", "AP75", "APm", "APl"]),
    ):
        coco = COCO(str(file))
        drop = {"bbox"} if task == "segm" else set()  # else its area would be taken for the mask's
        given = [{k: v for k, v in d.items() if k not in drop} for d in detections]
        official = COCOeval(coco, coco.loadRes(given), task)
        official.params.imgIds = [record["image_id"] for record in dataset]
        if task == "keypoints":
            official.params.kpt_oks_sigmas = np.array(sigmas)
        official.evaluate()
        official.accumulate()
        official.summarize()
        expected = {
            key: 100 * v if v >= 0 else np.nan
            for key, v in zip(keys, official.stats[: len(keys)], strict=True)
        }
        precisions = official.eval["precision"]
        for index, category in enumerate(content["categories"]):
            precision = precisions[:, :, index, 0, -1]
            precision = precision[precision > -1]
            ap = 100 * precision.mean() if precision.size else np.nan
            expected[f"AP-{category['name']}"] = ap
        assert 0 < expected["AP"] < 100
        assert results[task] == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("limit, counted", [(100, 100), (150, 120)])
def test_more_detections_than_100_are_counted(tmp_path, limit, counted):
    """120 objects in an image, all found."""
    boxes = [[10 * (i % 15), 20 * (i // 15), 8, 8] for i in range(120)]
    annotations = [
        {"id": i + 1, "image_id": 1, "bbox": box, "category_id": 1, "iscrowd": 0, "area": 64}
        for i, box in enumerate(boxes)
    ]
    image = {"id": 1, "height": SIZE, "width": SIZE, "file_name": "a.jpg"}
    content = {"images": [image], "annotations": annotations, "info": {}}
    content["categories"] = [{"id": 1, "name": "screw"}]
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    name = f"many_{limit}"
    MetadataCatalog.get(name).set(
        evaluator_type="coco", json_file=str(file), thing_classes=["screw"],
        thing_dataset_id_to_contiguous_id={1: 0},
    )  # fmt: skip
    dataset = [{"image_id": 1, "file_name": "a.jpg", "annotations": annotations}]
    evaluator = build_evaluator(name, dataset, str(tmp_path), max_detections=limit)
    evaluator.reset()
    instances = Instances((SIZE, SIZE))
    instances.pred_boxes = Boxes(torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]))
    instances.pred_classes = torch.zeros(120, dtype=torch.long)
    instances.scores = torch.linspace(1, 0.5, 120)
    evaluator.process(dataset, [{"instances": instances}])
    # Of 101 points of recall, those that were reached.
    reached = sum(i / 100 <= counted / 120 for i in range(101))
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100 * reached / 101)


def test_a_dataset_without_a_file_is_evaluated_as_it_is_now(load, tmp_path):
    """detectron2 writes a file for it, and would read that again."""
    records = DatasetCatalog.get("shapes_val")
    names = MetadataCatalog.get("shapes_val").thing_classes
    register("from_code", lambda: records, thing_classes=names, evaluator_type="coco")
    experiment = load("DATASETS.TRAIN", ("from_code",), "DATASETS.TEST", ("from_code",))
    model = experiment.build_model()
    experiment.evaluate(model, str(tmp_path), quick=True)
    assert experiment.evaluate(model, str(tmp_path))["bbox/AP"] >= 0
    records[0]["annotations"] = []
    experiment.evaluate(model, str(tmp_path))
    truth = json.loads((tmp_path / "from_code/ground_truth.json").read_text())
    assert len(truth["annotations"]) == sum(len(r["annotations"]) for r in records)
