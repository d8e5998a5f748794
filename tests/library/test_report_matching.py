"""Matches, AP and intervals of reports against pycocotools, by hand, and in a simulation."""

import contextlib
import copy
import dataclasses
import io

import numpy as np
import pytest
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from d2_starter.evaluation import matcher
from d2_starter.report import statistics
from d2_starter.report.matching import match

SIZE = 100
SIGMAS = [0.05] * 3


def _polygon(box):
    x, y, width, height = box
    return [[x, y, x + width, y, x + width * 0.8, y + height, x, y + height * 0.9]]


def _rle(polygons):
    rle = mask_util.merge(mask_util.frPyObjects(polygons, SIZE, SIZE))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def random_case(seed: int) -> tuple[dict, list[dict], list[int]]:
    """Ground truth, results, ids of a subset; with crowds, ties, and images without anything."""
    rng = np.random.default_rng(seed)
    classes, number = int(rng.integers(1, 5)), int(rng.integers(1, 12))
    images = [{"id": i + 1, "width": SIZE, "height": SIZE} for i in range(number)]
    annotations, results = [], []

    def random_box():
        size = rng.uniform(3, 70, 2)
        return [float(value) for value in (*rng.uniform(0, SIZE - size), *size)]

    for image in images:
        mine = []
        for _ in range(int(rng.integers(0, 6)) if rng.random() < 0.8 else 0):
            box, crowd = random_box(), int(rng.random() < 0.15)
            points = rng.uniform(box[:2], np.add(box[:2], box[2:]), (3, 2))
            seen = rng.integers(0, 3, (3, 1))
            mine.append(
                {
                    "id": len(annotations) + len(mine) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.integers(classes)) + 1,
                    "bbox": box,
                    "area": box[2] * box[3] * 0.7,
                    "iscrowd": crowd,
                    "segmentation": _rle(_polygon(box)) if crowd else _polygon(box),
                    "keypoints": np.hstack([points, seen]).ravel().tolist(),
                    "num_keypoints": int((seen > 0).sum()),
                }
            )
        annotations += mine
        for _ in range(int(rng.integers(0, 9)) if rng.random() < 0.85 else 0):
            box, category = random_box(), int(rng.integers(classes)) + 1
            keypoints = rng.uniform(0, SIZE, 9)
            if mine and rng.random() < 0.7:
                near = mine[int(rng.integers(len(mine)))]
                box = np.maximum(near["bbox"] + rng.normal(0, 4, 4), [0, 0, 1, 1]).tolist()
                category = near["category_id"] if rng.random() < 0.8 else category
                keypoints = near["keypoints"] + rng.normal(0, 3, 9)
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box,
                    "score": round(float(rng.random()), 1),
                    "segmentation": _rle(_polygon(box)),
                    "keypoints": keypoints.tolist(),
                }
            )
    subset = sorted((rng.choice(number, int(rng.integers(1, number + 1)), False) + 1).tolist())
    if rng.random() < 0.6:
        subset = [image["id"] for image in images]
    categories = [{"id": i + 1, "name": f"class{i}"} for i in range(classes)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    return truth, results, subset


def only(results: list[dict], task: str) -> list[dict]:
    """The results as detectron2 gives them to the evaluation of one task."""
    key = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[task]
    return [{k: r[k] for k in ("image_id", "category_id", "score", key)} for r in results]


def pycocotools_evaluation(truth, results, subset, task, limits=None):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        found = coco.loadRes(copy.deepcopy(only(results, task)))
        evaluation = COCOevalMaxDets(coco, found, task)
        evaluation.params.maxDets = limits or evaluation.params.maxDets
        evaluation.params.imgIds = subset
        evaluation.params.kpt_oks_sigmas = np.array(SIGMAS)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def ap_by_pycocotools(evaluation) -> np.ndarray:
    """(10, classes) in percent, NaN where there are no objects."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return np.where(precision[:, 0] < 0, np.nan, 100 * precision.mean(axis=1))


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
def test_equals_pycocotools_on_200_random_cases(task):
    for seed in range(200):
        truth, results, subset = random_case(seed)
        if not results:
            continue
        expected = ap_by_pycocotools(pycocotools_evaluation(truth, results, subset, task))
        chosen = truth | {
            "images": [i for i in truth["images"] if i["id"] in subset],
            "annotations": [a for a in truth["annotations"] if a["image_id"] in subset],
            "oks_sigmas": SIGMAS,
        }
        found = statistics.average_precision(match(chosen, results, task))[0]
        np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=f"{task}, seed {seed}")


@pytest.mark.parametrize("limits", [[1, 10, 100], [1, 2, 3]])
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_evaluation_equals_pycocotools_on_200_random_cases(task, limits):
    for seed in range(200):
        truth, results, subset = random_case(seed)
        if not results:
            continue
        expected = pycocotools_evaluation(truth, results, subset, task, limits)
        chosen = truth | {"images": [i for i in truth["images"] if i["id"] in subset]}
        with contextlib.redirect_stdout(io.StringIO()):
            found = matcher.coco_evaluation(chosen, results, task, limits)
        for key in ("precision", "recall"):
            np.testing.assert_allclose(
                found.eval[key], expected.eval[key], atol=1e-12, err_msg=f"{task}, seed {seed}"
            )
        np.testing.assert_allclose(found.stats, expected.stats, atol=1e-12)


def test_keypoints_by_hotcoco_equal_pycocotools_on_200_random_cases():
    """As reports take them."""
    for seed in range(200):
        truth, results, subset = random_case(seed)
        if not results:
            continue
        expected = pycocotools_evaluation(truth, results, subset, "keypoints")
        chosen = truth | {"images": [i for i in truth["images"] if i["id"] in subset]}
        found = matcher.match(chosen, results, "keypoints")
        found.params.kpt_oks_sigmas = SIGMAS
        with contextlib.redirect_stdout(io.StringIO()):
            found.run()
        for key in ("precision", "recall"):
            np.testing.assert_allclose(
                found.eval[key], expected.eval[key], atol=1e-12, err_msg=f"seed {seed}"
            )
        np.testing.assert_allclose(found.stats, expected.stats, atol=1e-12)


def test_a_draw_equals_the_metric_of_the_drawn_images():
    for seed in range(20):
        truth, results, _ = random_case(seed)
        if not results:
            continue
        for number, result in enumerate(results):
            result["score"] += number * 1e-6  # in a tie, the order of copies would count
        weights = statistics.resample(len(truth["images"]), draws=5, seed=seed)
        drawn = statistics.average_precision(match(truth, results, "bbox"), weights)
        for values, counts in zip(drawn, weights.astype(int)):
            images, annotations, repeated = [], [], []
            for image, count in zip(truth["images"], counts):
                for copy_number in range(count):
                    new = {"image_id": 1000 * image["id"] + copy_number}
                    images.append(image | {"id": new["image_id"]})
                    for source, target in (
                        (truth["annotations"], annotations),
                        (results, repeated),
                    ):
                        target += [x | new for x in source if x["image_id"] == image["id"]]
            again = truth | {"images": images, "annotations": annotations}
            once = np.ones((1, len(images)), np.float32)
            expected = statistics.average_precision(match(again, repeated, "bbox"), once)[0]
            np.testing.assert_allclose(values, expected, atol=1e-3)


def population(images: int) -> tuple[dict, list[dict]]:
    """Images of two classes, in which a model is right more or less often."""
    rng = np.random.default_rng(3)
    truth = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": str(i)} for i in (1, 2)],
    }
    results = []
    for image_id in range(images):
        truth["images"].append({"id": image_id})
        difficulty = rng.uniform(0, 0.15)
        for number in range(int(rng.integers(1, 6))):
            place = {"image_id": image_id, "category_id": int(rng.integers(1, 3))}
            box = np.array([number * 100, 0, 50, 50], dtype=float)
            truth["annotations"].append(place | {"bbox": box.tolist(), "area": 2500})
            moved = (box + rng.normal(0, difficulty, 4) * 50).tolist()
            if rng.random() < 0.85:
                results.append(place | {"bbox": moved, "score": rng.beta(4, 2)})
            if rng.random() < 0.3:
                away = [number * 100, 200, 50, 50]
                results.append(place | {"bbox": away, "score": rng.beta(2, 3)})
    return truth, results


def sample(matches, chosen: np.ndarray):
    """The matches in some of the images."""
    new = np.full(len(matches.images), -1)
    new[chosen] = np.arange(len(chosen))
    d, g = new[matches.image] >= 0, new[matches.truth_image] >= 0
    return dataclasses.replace(
        matches,
        images=[matches.images[i] for i in chosen],
        image=new[matches.image[d]],
        category=matches.category[d],
        score=matches.score[d],
        hit=matches.hit[d],
        ignored=matches.ignored[d],
        truth_image=new[matches.truth_image[g]],
        truth_category=matches.truth_category[g],
        crowd=matches.crowd[g],
    )


def test_95_percent_intervals_hold_the_true_value_in_93_to_97_percent_of_1000_test_sets():
    matches, size, rng = match(*population(3000), "bbox"), 80, np.random.default_rng(0)

    def metric(matches, weights=None):
        ap = statistics.average_precision(matches, weights, ious=(0.5, 0.75)).mean(axis=1)
        return statistics.mean_over_classes(ap)

    values, ends = [], []
    for number in range(1000):
        test_set = sample(matches, np.sort(rng.choice(len(matches.images), size, replace=False)))
        values.append(float(metric(test_set)[0]))
        draws = metric(test_set, statistics.resample(size, draws=150, seed=number))
        ends.append(statistics.interval(values[-1], draws, size))
    true = np.mean(values)  # of test sets of this size
    low, high = np.array(ends).T
    assert 0.93 <= np.mean((low <= true) & (true <= high)) <= 0.97
