"""Evaluation of a model on the config's test sets, by detectron2's evaluators."""

import contextlib
import io
import json
import logging
import math
import os

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
    inference_on_dataset,
)
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ..data.loader import build_test_loader, check_annotations, get_test_dataset, image_ids
from .panoptic_evaluation import PanopticEvaluator
from .run_folder import write_json
from .validation_pass import PredictionsAndLosses, untouched

logger = logging.getLogger(__name__)

SUMMARY = ("AP", "AP50", "mIoU", "PQ", "total_loss")


class _COCOEvaluator(COCOEvaluator):
    def __init__(self, *args, image_ids, **kwargs):
        super().__init__(*args, **kwargs)
        self._image_ids = image_ids

    def evaluate(self, img_ids=None):
        # Else what is in images outside of a subset counts as not found.
        return super().evaluate(img_ids or self._image_ids)

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if coco_eval is None:
            # Where nothing was predicted at all, as early in training, detectron2 answers NaN, and
            # leaves out the classes.
            names = class_names if class_names and len(class_names) > 1 else ()
            results = dict.fromkeys([*results, *(f"AP-{name}" for name in names)], 0.0)
        return results


def _coco(cfg, name, folder, dataset):
    # Named here, because detectron2 guesses them from the predictions, of which there may be none.
    tasks = ["bbox", *["segm"] * cfg.MODEL.MASK_ON, *["keypoints"] * cfg.MODEL.KEYPOINT_ON]
    return _COCOEvaluator(
        name,
        image_ids=image_ids(dataset),
        tasks=tasks,
        output_dir=folder,
        allow_cached_coco=False,  # would read the data set as it was some time ago (#3859)
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
    )


class _LVISEvaluator(LVISEvaluator):
    def __init__(self, *args, image_ids, **kwargs):
        super().__init__(*args, **kwargs)
        # Else what is in images outside of a subset counts as not found.
        truth, ids = self._lvis_api.dataset, set(image_ids)
        truth["images"] = [i for i in truth["images"] if i["id"] in ids]
        truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in ids]
        self._lvis_api._create_index()

    def evaluate(self):
        if not hasattr(np, "float"):
            np.float = float  # lvis 0.5.3 asks for it, numpy 2 has it no more
        return super().evaluate()


def _lvis(cfg, name, folder, dataset):
    tasks = ["bbox", *["segm"] * cfg.MODEL.MASK_ON]
    return _LVISEvaluator(name, tasks, output_dir=folder, image_ids=image_ids(dataset))


def _pascal_voc(cfg, name, folder, dataset):
    if cfg.TEST.RANDOM_SUBSET_RATIO < 1:
        raise ValueError(
            f"TEST.RANDOM_SUBSET_RATIO is {cfg.TEST.RANDOM_SUBSET_RATIO}, but '{name}' is "
            "evaluated by detectron2's evaluator for Pascal VOC, on all of its images."
        )
    return PascalVOCDetectionEvaluator(name)


def _semantic(cfg, name, folder, dataset):
    return SemSegEvaluator(name, output_dir=folder)


def _panoptic(cfg, name, folder, dataset):
    return PanopticEvaluator(name)


# `evaluator_type` of a data set's metadata: what the model must predict, what the dataset dicts
# must have, and the evaluators that compare them. Add your own here.
EVALUATORS = {
    "coco": ("instances", "annotations", (_coco,)),
    "lvis": ("instances", "annotations", (_lvis,)),
    "pascal_voc": ("instances", "annotations", (_pascal_voc,)),
    "sem_seg": ("sem_seg", "sem_seg_file_name", (_semantic,)),
    "coco_panoptic_seg": ("panoptic_seg", "sem_seg_file_name", (_coco, _semantic, _panoptic)),
}


def build_evaluator(cfg, dataset_name: str, dataset: list[dict], folder: str) -> DatasetEvaluators:
    """The evaluators that the data set's metadata ask for.

    Args:
        dataset: the dataset dicts that will be evaluated, which may be a subset.
        folder: for their files.

    Raises:
        ValueError: no evaluator is known for the data set's `evaluator_type`.
    """
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATORS:
        raise ValueError(
            f"data set '{dataset_name}' has evaluator_type {kind!r}; known are {list(EVALUATORS)}. "
            "Set it in data/dataset.py, or add an evaluator to EVALUATORS."
        )
    _, _, builders = EVALUATORS[kind]
    return DatasetEvaluators([build(cfg, dataset_name, folder, dataset) for build in builders])


def record_subset(cfg, name: str, ids: list):
    """Writes which images of a data set are used to `subset_<name>.json` in OUTPUT_DIR."""
    if comm.is_main_process():
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        path = os.path.join(cfg.OUTPUT_DIR, f"subset_{name}.json")
        write_json(path, json.loads(json.dumps(ids, default=str)))


def summary(metrics: dict[str, float]) -> dict[str, float]:
    """The few of an evaluation's metrics that sum it up."""
    return {k: v for k, v in metrics.items() if k.rpartition("/")[2] in SUMMARY}


def is_due(cfg, done: int, is_last: bool) -> bool:
    """Whether the model is evaluated in the training loop after `done` iterations."""
    period = cfg.TEST.EVAL_PERIOD
    return cfg.TEST.EVAL_IN_LOOP and (is_last or (period > 0 and done % period == 0))


def evaluate(cfg, model, folder: str | None = None) -> dict[str, float]:
    """Metrics and validation loss on every data set of `DATASETS.TEST`, in one pass over each.

    All ranks must call it. The model's modes and statistics, the random states and the event
    storage are left as they were.

    Args:
        folder: for the evaluators' files, one folder for each data set: what was found in each
            image. OUTPUT_DIR/inference, if it is not given.

    Returns:
        on every rank the same, by name: metrics in percent, {"bbox/AP": 41.2, ...}, and, with
        `TEST.VAL_LOSS`, {"val_loss/total_loss": 0.61, "val_loss/loss_cls": ...}, means over the
        images. With several test sets the names start with that of the set. Metrics without a
        value, such as the AP of a size that no object has, are left out.
    """
    return announce(_evaluate(cfg, model, folder))


def announce(metrics: dict[str, float]) -> dict[str, float]:
    """Says those that sum up an evaluation; returns all that have a value."""
    metrics = {k: v for k, v in metrics.items() if math.isfinite(v) or "val_loss/" in k}
    logger.info("Evaluation: %s", "  ".join(f"{k}: {v:.4g}" for k, v in summary(metrics).items()))
    return metrics


class Evaluation(DatasetEvaluator):
    """The evaluation of a model on one test set: evaluators, and the losses if they are asked for.

    Attributes:
        loader: see `build_test_loader`.
        results: of `evaluate()`, as a DatasetEvaluator has them.

    Raises:
        ValueError: the evaluator cannot work with the data set, or with what the model predicts.
    """

    def __init__(
        self, cfg, model, name: str, folder: str | None = None, max_images: int | None = None
    ):
        dataset = get_test_dataset(cfg, name)
        if cfg.TEST.RANDOM_SUBSET_RATIO < 1:
            record_subset(cfg, name, image_ids(dataset))
        evaluated = dataset[:max_images]
        self.loader = build_test_loader(cfg, evaluated)
        folder = os.path.join(folder or os.path.join(cfg.OUTPUT_DIR, "inference"), name)
        self._evaluators = build_evaluator(cfg, name, evaluated, folder)
        self._name = name
        self._kind = MetadataCatalog.get(name).evaluator_type
        ground_truth = EVALUATORS[self._kind][1]
        if not any(record.get(ground_truth) for record in dataset):
            raise ValueError(
                f"data set '{name}' cannot be evaluated: none of its {len(dataset)} images has "
                f"'{ground_truth}', which evaluator_type {self._kind!r} compares with predictions. "
                "tools/check_dataset.py says what is in it."
            )
        check_annotations(cfg, dataset, [name])
        self._model = model
        self._with_losses = cfg.TEST.VAL_LOSS

    def reset(self):
        self._evaluators.reset()
        self._predict = PredictionsAndLosses(self._model) if self._with_losses else self._model

    def predict(self, images: list[dict]) -> list[dict]:
        """What the model makes of a batch."""
        return self._predict(images)

    def process(self, inputs, outputs):
        needed = EVALUATORS[self._kind][0]
        if needed not in outputs[0]:  # COCOEvaluator, for one, would just find an AP of 0
            raise ValueError(
                f"the model predicts {', '.join(outputs[0])}, but data set '{self._name}' is "
                f"evaluated by {needed} (evaluator_type {self._kind!r}). Give the config a data "
                "set with what its model predicts, as the configs that came with the project have."
            )
        self._evaluators.process(inputs, outputs)

    def evaluate(self) -> dict:
        # pycocotools prints the table that COCOEvaluator then logs in shorter form.
        with contextlib.redirect_stdout(io.StringIO()):
            self.results = self._evaluators.evaluate() or {}
        if self._with_losses:
            self.results["val_loss"] = self._predict.losses()
        return self.results


def merge(evaluations: dict[str, Evaluation]) -> dict[str, float]:
    """Their metrics by name, on every rank those of rank 0; see `evaluate`."""
    results = {name: evaluation.results for name, evaluation in evaluations.items()}
    if len(results) == 1:
        (results,) = results.values()
    metrics = comm.all_gather(flatten_results_dict(results))[0]
    return {name: float(value) for name, value in metrics.items()}


def metric_names(cfg, model, folder: str | None = None) -> list[str]:
    """What `evaluate` may return, found out by an evaluation of one image.

    Before training, it also shows what is wrong with the test set, rather than an epoch later.
    """
    logging.disable(logging.INFO)
    try:
        return list(_evaluate(cfg, model, folder, max_images=1))
    finally:
        logging.disable(logging.NOTSET)


def _evaluate(cfg, model, folder=None, max_images=None):
    model = getattr(model, "module", model)  # of DistributedDataParallel
    evaluations = {}
    with untouched(model):
        for name in cfg.DATASETS.TEST:
            evaluation = evaluations[name] = Evaluation(cfg, model, name, folder, max_images)
            inference_on_dataset(evaluation.predict, evaluation.loader, evaluation)
    return merge(evaluations)
