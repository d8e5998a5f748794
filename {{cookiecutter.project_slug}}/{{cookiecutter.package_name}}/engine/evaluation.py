"""Evaluation of a model on the config's test sets, by detectron2's evaluators."""

import contextlib
import io
import logging
import math
import os

from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
    inference_on_dataset,
)
from detectron2.evaluation.testing import flatten_results_dict

from ..data.loader import build_test_loader
from .panoptic_evaluation import PanopticEvaluator

logger = logging.getLogger(__name__)


class _COCOEvaluator(COCOEvaluator):
    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        # Where nothing was predicted at all, as early in training, detectron2 answers NaN.
        return dict.fromkeys(results, 0.0) if coco_eval is None else results


def _coco(cfg, name, folder):
    # Named here, because detectron2 guesses them from the predictions, of which there may be none.
    tasks = ["bbox", *["segm"] * cfg.MODEL.MASK_ON, *["keypoints"] * cfg.MODEL.KEYPOINT_ON]
    return _COCOEvaluator(
        name,
        tasks=tasks,
        output_dir=folder,
        allow_cached_coco=False,  # would read the data set as it was some time ago (#3859)
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
    )


def _semantic(cfg, name, folder):
    return SemSegEvaluator(name, output_dir=folder)


def _panoptic(cfg, name, folder):
    return PanopticEvaluator(name)


# `evaluator_type` of a data set's metadata: its evaluators. Add your own here.
EVALUATORS = {
    "coco": (_coco,),
    "sem_seg": (_semantic,),
    "coco_panoptic_seg": (_coco, _semantic, _panoptic),
}


def build_evaluator(cfg, dataset_name: str) -> DatasetEvaluators:
    """The evaluators that the data set's metadata ask for; their files go to OUTPUT_DIR/inference.

    Raises:
        ValueError: no evaluator is known for the data set's `evaluator_type`.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        raise ValueError(
            f"data set '{dataset_name}' has evaluator_type {kind!r}; known are {list(EVALUATORS)}. "
            "Set it in data/dataset.py, or add an evaluator to EVALUATORS."
        )
    folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    return DatasetEvaluators([build(cfg, dataset_name, folder) for build in EVALUATORS[kind]])


def evaluate(cfg, model) -> dict[str, float]:
    """Evaluates the model on every data set of `DATASETS.TEST`. All ranks must call it.

    Returns:
        metrics by name, in percent: {"bbox/AP": 41.2, "segm/AP50": ...} on rank 0, else {}. With
        several test sets the names start with that of the set. Metrics without a value, such as
        the AP of a size that no object has, are left out.
    """
    results = {}
    for name in cfg.DATASETS.TEST:
        loader = build_test_loader(cfg, name)
        # pycocotools prints the table that COCOEvaluator then logs in shorter form.
        with contextlib.redirect_stdout(io.StringIO()):
            results[name] = inference_on_dataset(model, loader, build_evaluator(cfg, name))
    if len(results) == 1:
        (results,) = results.values()
    return {k: v for k, v in flatten_results_dict(results).items() if math.isfinite(v)}
