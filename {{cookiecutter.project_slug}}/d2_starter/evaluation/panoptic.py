"""Panoptic quality, as defined by Kirillov et al., "Panoptic Segmentation", CVPR 2019.

detectron2's `COCOPanopticEvaluator` needs `panopticapi`, which is not on the package index. This
one counts as that does: segments match at an IoU above 0.5 and equal category; void pixels count
in no union; a prediction that lies mostly in void or in a crowd of its category is no error.
"""

import json
import logging
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image
from tabulate import tabulate

from .ground_truth import write_panoptic_counts

logger = logging.getLogger(__name__)

VOID = 0  # the segment id of pixels without a segment, in COCO's panoptic PNGs and detectron2


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ in percent, over all categories, things (`_th`) and stuff (`_st`).

    The metadata needs `panoptic_json` and `panoptic_root` in COCO's format, and the maps from
    dataset ids to contiguous ids of things and stuff.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        self._output_dir = output_dir
        self._metadata = MetadataCatalog.get(dataset_name)
        self._category_ids = {
            is_thing: {contiguous: dataset for dataset, contiguous in ids.items()}
            for is_thing, ids in (
                (True, self._metadata.thing_dataset_id_to_contiguous_id),
                (False, self._metadata.stuff_dataset_id_to_contiguous_id),
            )
        }
        content = json.loads(Path(self._metadata.panoptic_json).read_text(encoding="utf-8"))
        self._truth = {annotation["image_id"]: annotation for annotation in content["annotations"]}
        self._is_thing = {c["id"]: bool(c["isthing"]) for c in content["categories"]}
        self._names = {c["id"]: c["name"] for c in content["categories"]}

    def reset(self):
        # image id: {category id: [true positives, false positives, false negatives, sum of IoUs]}
        self._images = {}

    def process(self, inputs, outputs):
        for image, output in zip(inputs, outputs):
            predicted, infos = output["panoptic_seg"]
            categories = {
                info["id"]: self._category_ids[info["isthing"]][info["category_id"]]
                for info in infos
            }
            truth = self._truth[image["image_id"]]
            png = np.array(Image.open(Path(self._metadata.panoptic_root, truth["file_name"])))
            true = png[..., :3].astype(np.int64) @ [1, 256, 256**2]
            self._counts = self._images[image["image_id"]] = defaultdict(lambda: np.zeros(4))
            self._count(true, truth["segments_info"], predicted.cpu().numpy(), categories)

    def _count(self, true, segments, predicted, categories):
        """Adds one image: (H, W) segment ids, the true segments, {predicted id: category id}."""
        true_area = dict(zip(*np.unique(true, return_counts=True)))
        predicted_area = dict(zip(*np.unique(predicted, return_counts=True)))
        pairs = np.stack([true.ravel(), predicted.ravel()], axis=1)
        pairs, pixels = np.unique(pairs, axis=0, return_counts=True)
        overlap = dict(zip(map(tuple, pairs.tolist()), pixels))
        crowds = {s["category_id"]: s["id"] for s in segments if s.get("iscrowd")}
        matched = set()
        for segment in segments:
            if segment.get("iscrowd"):
                continue
            counts = self._counts[segment["category_id"]]
            for prediction, category in categories.items():
                shared = overlap.get((segment["id"], prediction), 0)
                if not shared or category != segment["category_id"]:
                    continue
                union = true_area[segment["id"]] + predicted_area[prediction] - shared
                iou = shared / (union - overlap.get((VOID, prediction), 0))
                if iou > 0.5:  # so that at most one prediction matches
                    counts += [1, 0, 0, iou]
                    matched.add(prediction)
                    break
            else:
                counts += [0, 0, 1, 0]
        for prediction, category in categories.items():
            if prediction in matched or prediction not in predicted_area:
                continue
            ignored = overlap.get((VOID, prediction), 0)
            ignored += overlap.get((crowds.get(category), prediction), 0)
            if ignored <= 0.5 * predicted_area[prediction]:
                self._counts[category] += [0, 1, 0, 0]

    def evaluate(self):
        """
        Returns:
            {"panoptic_seg": {"PQ": ..., "SQ": ..., "RQ": ..., "PQ_th": ..., "PQ-<class>": ...}} on
            rank 0; what was counted in each image goes to panoptic_per_image.json.
        """
        gathered = comm.gather({image: dict(counts) for image, counts in self._images.items()})
        if not comm.is_main_process():
            return None
        images = {image: counts for part in gathered for image, counts in part.items()}
        if self._output_dir:
            write_panoptic_counts(self._output_dir, images, self._names)
        totals = defaultdict(lambda: np.zeros(4))
        for counts in images.values():
            for category, numbers in counts.items():
                totals[category] += numbers
        results = {}
        for suffix, kinds in (("", (True, False)), ("_th", (True,)), ("_st", (False,))):
            rows = [totals[c] for c, is_thing in self._is_thing.items() if is_thing in kinds]
            # A category that is neither there nor predicted does not count.
            tp, fp, fn, iou = np.array([row for row in rows if row[:3].any()]).reshape(-1, 4).T
            quality = {
                "PQ": iou / (tp + fp / 2 + fn / 2),
                "SQ": iou / np.maximum(tp, 1),
                "RQ": tp / (tp + fp / 2 + fn / 2),
            }
            for key, values in quality.items():
                results[key + suffix] = 100 * float(values.mean()) if len(values) else float("nan")
        logger.info(
            "Panoptic quality:\n%s",
            tabulate([results.values()], headers=results.keys(), floatfmt=".3f", tablefmt="pipe"),
        )
        for category, name in self._names.items():
            tp, fp, fn, iou = totals[category]
            results[f"PQ-{name}"] = 100 * iou / (tp + fp / 2 + fn / 2) if tp + fp + fn else math.nan
        return {"panoptic_seg": results}
