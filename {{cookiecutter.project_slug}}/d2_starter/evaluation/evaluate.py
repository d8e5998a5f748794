"""Evaluates a model: detectron2's evaluators and the validation loss, in one pass."""

import contextlib
import io
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    RotatedCOCOEvaluator,
    inference_on_dataset,
)
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import BoxMode
from detectron2.utils import comm

from ..data.loader import image_ids
from .ground_truth import PerImageSemSegEvaluator, write_ground_truth
from .matcher import coco_evaluation
from .panoptic import PanopticEvaluator
from .validation_loss import PredictionsAndLosses, preserved_state

logger = logging.getLogger(__name__)

SUMMARY = ("AP", "AP50", "mIoU", "PQ", "total_loss")
COCO_DETECTIONS = 100  # an image, of which COCO's evaluation takes notice


class _OnSubset:
    # detectron2's evaluators of COCO, on the given images alone.

    def __init__(self, *args, image_ids: list, **kwargs):
        super().__init__(*args, **kwargs)
        self._image_ids = image_ids

    def evaluate(self, img_ids=None):
        """Evaluates; otherwise what is in images outside of a subset would count as missed."""
        return super().evaluate(img_ids or self._image_ids)


class SubsetCOCOEvaluator(_OnSubset, COCOEvaluator):
    """Evaluates as detectron2's COCOEvaluator does, on the given images alone.

    Boxes and masks are matched by hotcoco. Keypoints are not: it accepts any number of them.
    """

    def _eval_predictions(self, predictions, img_ids=None):
        tasks, self._tasks = self._tasks, [task for task in self._tasks if task == "keypoints"]
        super()._eval_predictions(predictions, img_ids)  # writes the results, in the file's classes
        self._tasks = tasks
        results = [result for image in predictions for result in image["instances"]]
        ids = set(self._image_ids)
        truth = self._coco_api.dataset
        truth = truth | {"images": [image for image in truth["images"] if image["id"] in ids]}
        names = self._metadata.get("thing_classes")
        for task in set(tasks) - {"keypoints"}:
            limits = self._max_dets_per_image
            found = coco_evaluation(truth, results, task, limits) if results else None
            self._results[task] = self._derive_coco_results(found, task, names)
        self._results = dict(sorted(self._results.items()))

    def _tasks_from_predictions(self, predictions):
        return []  # detectron2 asks when it is given none: there are no keypoints then


class SubsetRotatedCOCOEvaluator(_OnSubset, RotatedCOCOEvaluator):
    """Evaluates rotated boxes as detectron2's RotatedCOCOEvaluator does, on the given images alone.

    That counts 100 detections an image, whatever the model predicts.
    """

    def _evaluate_predictions_on_coco(self, coco_gt, coco_results):
        images = {i: coco_gt.imgs[i] for i in self._image_ids}
        subset = {a["id"]: a for a in coco_gt.anns.values() if a["image_id"] in images}
        coco_gt.dataset["images"] = list(images.values())
        coco_gt.dataset["annotations"] = list(subset.values())
        coco_gt.createIndex()
        return super()._evaluate_predictions_on_coco(coco_gt, coco_results)


class SubsetLVISEvaluator(LVISEvaluator):
    """Evaluates as detectron2's LVISEvaluator does, on the given images alone."""

    def __init__(self, *args, image_ids: list, **kwargs):
        super().__init__(*args, **kwargs)
        truth, ids = self._lvis_api.dataset, set(image_ids)
        truth["images"] = [i for i in truth["images"] if i["id"] in ids]
        truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in ids]
        self._lvis_api._create_index()

    def evaluate(self):
        """Evaluates all that was processed."""
        if not hasattr(np, "float"):
            np.float = float  # lvis 0.5.3 asks for it, numpy 2 has it no more
        return super().evaluate()


# `evaluator_type` of a dataset's metadata: what the model must predict, and what dataset dicts must
# have. `build_evaluator` compares both.
EVALUATOR_TYPES = {
    "coco": ("instances", "annotations"),
    "lvis": ("instances", "annotations"),
    "pascal_voc": ("instances", "annotations"),
    "sem_seg": ("sem_seg", "sem_seg_file_name"),
    "coco_panoptic_seg": ("panoptic_seg", "sem_seg_file_name"),
}


def build_evaluator(
    name: str,
    dataset: list[dict],
    folder: str,
    *,
    masks: bool = False,
    keypoints: bool = False,
    keypoint_sigmas: Iterable[float] = (),
    max_detections: int = COCO_DETECTIONS,
) -> DatasetEvaluators:
    """Builds the evaluators that a dataset's metadata ask for.

    Args:
        dataset: the dataset dicts that will be evaluated, which may be a subset.
        folder: for the evaluators' files.
        masks, keypoints: whether the model predicts them.
        keypoint_sigmas: of COCO's object keypoint similarity.
        max_detections: the most an image that the model predicts; more than COCO's 100 are counted.

    Raises:
        ValueError: no evaluator is known for the `evaluator_type`, or this is a subset that it
            cannot evaluate, or there is no ground truth.
    """
    kind = MetadataCatalog.get(name).get("evaluator_type")
    if kind not in EVALUATOR_TYPES:
        raise ValueError(
            f"dataset '{name}' has evaluator_type {kind!r}; known are {list(EVALUATOR_TYPES)}. Set "
            "one of them in data/dataset.py, or build an evaluator of your own in the script."
        )
    needed = EVALUATOR_TYPES[kind][1]
    if not any(record.get(needed) for record in dataset):
        raise ValueError(
            f"dataset '{name}' cannot be evaluated: none of its {len(dataset)} images has "
            f"'{needed}', which evaluator_type {kind!r} compares with predictions. "
            "tools/check_dataset.py says what is in it."
        )
    ids = image_ids(dataset)
    # Named here, because detectron2 guesses them from the predictions, of which there may be none.
    tasks = ["bbox", *["segm"] * masks, *["keypoints"] * keypoints]
    if kind == "pascal_voc":
        return CheckedEvaluators([PascalVOCDetectionEvaluator(name)], name)
    evaluators = []
    annotations = (a for record in dataset for a in record.get("annotations") or ())
    if kind == "lvis":
        evaluators.append(SubsetLVISEvaluator(name, tasks, output_dir=folder, image_ids=ids))
        truth = evaluators[0]._lvis_api.dataset
    elif kind == "coco" and next(annotations, {}).get("bbox_mode") == BoxMode.XYWHA_ABS:
        evaluator = SubsetRotatedCOCOEvaluator(
            name, image_ids=ids, tasks=["bbox"], output_dir=folder, allow_cached_coco=False
        )
        return CheckedEvaluators([evaluator], name)  # reports are not made for rotated boxes
    elif kind != "sem_seg":
        limit = max(COCO_DETECTIONS, max_detections)
        evaluators.append(
            SubsetCOCOEvaluator(
                name,
                image_ids=ids,
                tasks=tasks,
                output_dir=folder,
                allow_cached_coco=False,  # would read the dataset as it was some time ago (#3859)
                max_dets_per_image=limit if limit > COCO_DETECTIONS else None,
                kpt_oks_sigmas=keypoint_sigmas,
            )
        )
        truth = evaluators[0]._coco_api.dataset
    else:
        truth = {}
    if kind in ("sem_seg", "coco_panoptic_seg"):
        evaluators.append(PerImageSemSegEvaluator(name, output_dir=folder))
    if kind == "coco_panoptic_seg":
        evaluators.append(PanopticEvaluator(name, folder))
    write_ground_truth(folder, name, dataset, truth, keypoint_sigmas)
    return CheckedEvaluators(evaluators, name)


class CheckedEvaluators(DatasetEvaluators):
    """detectron2's evaluators, which refuse predictions of another kind, and do not print."""

    def __init__(self, evaluators: list[DatasetEvaluator], name: str):
        super().__init__(evaluators)
        self._name = name

    def process(self, inputs, outputs):
        """Takes the predictions for a batch.

        Raises:
            ValueError: the model does not predict what the dataset is evaluated by.
        """
        kind = MetadataCatalog.get(self._name).evaluator_type
        needed = EVALUATOR_TYPES[kind][0]
        if needed not in outputs[0]:  # COCOEvaluator, for one, would find an AP of 0
            raise ValueError(
                f"the model predicts {', '.join(outputs[0])}, but dataset '{self._name}' is "
                f"evaluated by {needed} (evaluator_type {kind!r}). Give the config a dataset with "
                "what its model predicts, as the configs that came with the project have."
            )
        super().process(inputs, outputs)

    def evaluate(self):
        """Returns the results, without the table that pycocotools prints."""
        with contextlib.redirect_stdout(io.StringIO()):  # COCOEvaluator logs it in shorter form
            return super().evaluate()


class Evaluation(DatasetEvaluator):
    """Evaluates a model on one test set: metrics, and the validation loss if it is asked for.

    Args:
        evaluator: of detectron2.
        val_loss: whether inputs have ground truth, and losses are computed.
        build_predictor: see `evaluate`.
        name: of the test set.

    Attributes:
        results: of `evaluate()`, as a DatasetEvaluator has them.
    """

    def __init__(
        self,
        model,
        evaluator: DatasetEvaluator,
        val_loss: bool,
        build_predictor: Callable | None = None,
        name: str = "",
    ):
        self._classes = (name and MetadataCatalog.get(name).get("thing_classes")) or ()
        self._build_predictor = build_predictor or (lambda model, predict: predict)
        self._evaluator = evaluator
        self._model = model
        self._val_loss = val_loss

    def reset(self):
        """Forgets what was processed."""
        self._evaluator.reset()
        self._found = 0
        self._inner = PredictionsAndLosses(self._model) if self._val_loss else self._model
        self._predict = self._build_predictor(self._model, self._inner)

    def predict(self, images: list[dict]) -> list[dict]:
        """Returns the model's predictions for a batch."""
        return self._predict(images)

    def process(self, inputs, outputs):
        """Takes the predictions for a batch."""
        self._found += sum(len(output.get("instances", ())) for output in outputs)
        self._evaluator.process(inputs, outputs)

    def evaluate(self) -> dict:
        """Returns metrics, and the losses as `val_loss`."""
        self.results = self._evaluator.evaluate() or {}
        if not sum(comm.all_gather(self._found)):
            # Nothing was predicted at all, as early in training: detectron2's metrics are NaN then,
            # and leave out the classes.
            classes = [f"AP-{name}" for name in self._classes] if len(self._classes) > 1 else []
            for task in self.results.keys() & {"bbox", "segm", "keypoints"}:
                self.results[task] = dict.fromkeys([*self.results[task], *classes], 0.0)
        if self._val_loss:
            self.results["val_loss"] = self._inner.losses()
        return self.results


def evaluate(
    model,
    names: Iterable[str],
    build_test_loader: Callable[[str], object],
    build_evaluator: Callable[[str, str], DatasetEvaluator],
    folder: str,
    *,
    val_loss: bool = True,
    build_predictor: Callable | None = None,
    quick: bool = False,
) -> dict[str, float]:
    """Returns metrics and validation loss on every test set, in one pass over each.

    All ranks must call it. The model's modes and statistics, the random states and the event
    storage are left as they were.

    Args:
        names: of the test sets.
        build_test_loader: returns the loader of a test set.
        build_evaluator: returns the evaluator of a test set; it gets a folder for its files, too.
        folder: for the evaluators' files, one folder in it for each test set.
        build_predictor: called with the model and what predicts a batch, returns what predicts
            instead: with test-time augmentation, or tiles.
        quick: evaluate one image only, to find out the names of the metrics, without a log and
            without files.

    Returns:
        on every rank the same, by name: metrics in percent, {"bbox/AP": 41.2, ...}, and with
        `val_loss` {"val_loss/total_loss": 0.61, "val_loss/loss_cls": ...}, means over the images.
        With several test sets names begin with theirs: "cells_val/bbox/AP".

    Raises:
        ValueError: an evaluator cannot work with its dataset, or with the model's predictions.
    """
    model = getattr(model, "module", model)  # of DistributedDataParallel
    evaluations = {}
    where = _without_trace() if quick else contextlib.nullcontext(folder)
    with preserved_state(model), where as folder:
        for name in names:
            loader = build_test_loader(name)
            metadata = vars(MetadataCatalog.get(name))
            has_file = "json_file" in metadata
            evaluator = build_evaluator(name, os.path.join(folder, name))
            if not has_file:  # COCOEvaluator writes one, and would read that the next time
                metadata.pop("json_file", None)
            evaluation = Evaluation(model, evaluator, val_loss, build_predictor, name)
            batches = _First(loader) if quick else loader
            inference_on_dataset(evaluation.predict, batches, evaluation)
            evaluations[name] = evaluation
    metrics = merge_results(evaluations)
    return metrics if quick else log_metrics(metrics)


class _First:
    """The first batch of a loader."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return 1

    def __iter__(self):
        yield next(iter(self.loader))


@contextlib.contextmanager
def _without_trace():
    logging.disable(logging.INFO)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
    finally:
        logging.disable(logging.NOTSET)


def merge_results(evaluations: dict[str, Evaluation]) -> dict[str, float]:
    """Returns the metrics of all test sets by name, on every rank those of rank 0."""
    results = {name: evaluation.results for name, evaluation in evaluations.items()}
    if len(results) == 1:
        (results,) = results.values()
    metrics = comm.all_gather(flatten_results_dict(results))[0]
    return {name: float(value) for name, value in metrics.items()}


def nest(metrics: dict[str, float], names: Sequence[str]) -> dict:
    """Returns metrics as detectron2's evaluators do: {"bbox": {"AP": ...}}, or this by test set."""
    nested = {}
    for name, value in metrics.items():
        node, keys = nested, name.split("/", 2 if len(names) > 1 else 1)
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = value
    return nested


def log_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Logs the metrics that sum up an evaluation; returns all that have a value."""
    metrics = {k: v for k, v in metrics.items() if math.isfinite(v) or "val_loss/" in k}
    logger.info("Evaluation: %s", "  ".join(f"{k}: {v:.4g}" for k, v in summary(metrics).items()))
    return metrics


def summary(metrics: dict[str, float]) -> dict[str, float]:
    """Returns the few metrics that sum up an evaluation."""
    return {k: v for k, v in metrics.items() if k.rpartition("/")[2] in SUMMARY}
