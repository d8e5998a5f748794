"""Compares the COCO evaluation of a project with detectron2's own: seconds, ratio, and every metric.

    cd my-detector && uv run python path/to/template/benchmarks/coco_evaluation.py

The predictions are made: of boxes, near the ground truth and beside it. Both evaluate them by turns, from the
call of `evaluate()` to its metrics, with the files that are written.
"""

import argparse
import contextlib
import io
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path.cwd()))

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from d2_starter.evaluation.evaluate import SubsetCOCOEvaluator


def made_data(images: int, classes: int, detections: int):
    """Returns ground truth in COCO's format, and the predictions of each image."""
    rng = np.random.default_rng(0)

    def boxes(number):
        sizes = np.exp(rng.uniform(2.5, 5.5, (number, 2)))
        return np.hstack([rng.uniform(0, 640 - sizes), sizes])

    annotations, predictions = [], []
    for image in range(1, images + 1):
        true = boxes(rng.poisson(7))
        true_classes = rng.integers(1, classes + 1, len(true))
        for box, category in zip(true.tolist(), true_classes.tolist(), strict=True):
            new = {"id": len(annotations) + 1, "image_id": image, "category_id": category}
            annotations.append(new | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        near = rng.integers(len(true), size=detections // 3) if len(true) else np.zeros(0, int)
        others = detections - len(near)
        found = np.vstack([true[near] + rng.normal(0, 5, (len(near), 4)), boxes(others)])
        found[:, 2:] = found[:, 2:].clip(1)
        found_classes = np.hstack([true_classes[near], rng.integers(1, classes + 1, others)])
        scores = np.hstack([rng.beta(4, 2, len(near)), rng.beta(1, 6, others)])
        instances = [
            {"image_id": image, "category_id": int(c) - 1, "bbox": box, "score": float(s)}
            for box, c, s in zip(found.tolist(), found_classes, scores, strict=True)
        ]
        predictions.append({"image_id": image, "instances": instances})
    truth = {
        "images": [{"id": i + 1, "width": 640, "height": 640} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": f"class {i}"} for i in range(classes)],
    }
    return truth, predictions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=30, help="of each image")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.disable()
    truth, predictions = made_data(args.images, args.classes, args.detections)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder, "truth.json")
        file.write_text(json.dumps(truth | {"info": {}}))
        MetadataCatalog.get("made").set(
            json_file=str(file),
            thing_classes=[category["name"] for category in truth["categories"]],
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(args.classes)},
        )
        ids = [image["id"] for image in truth["images"]]
        evaluators = {
            "detectron2": COCOEvaluator("made", ["bbox"], False, output_dir=folder),
            "d2_starter": SubsetCOCOEvaluator(
                "made", ["bbox"], False, output_dir=folder, image_ids=ids
            ),
        }
        seconds = {name: [] for name in evaluators}
        results = {}
        for _ in range(args.rounds):
            for name, evaluator in evaluators.items():
                evaluator.reset()
                evaluator._predictions = [
                    p | {"instances": [i.copy() for i in p["instances"]]} for p in predictions
                ]
                start = time.perf_counter()
                results[name] = evaluator.evaluate()["bbox"]
                seconds[name].append(time.perf_counter() - start)
    difference = max(abs(v - results["detectron2"][k]) for k, v in results["d2_starter"].items())
    print(
        f"{args.images} images, {args.classes} classes, {args.images * args.detections} predictions"
    )
    for name, values in seconds.items():
        print(
            f"{name:11}{statistics.median(values):8.2f} s  ({min(values):.2f} to {max(values):.2f})"
        )
    ratios = [a / b for a, b in zip(seconds["detectron2"], seconds["d2_starter"], strict=True)]
    print(f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    print(f"{len(results['detectron2'])} metrics, which differ by {difference:.1g} at most")


if __name__ == "__main__":
    main()
