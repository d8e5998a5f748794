"""Describes an experiment: what its config says, and what is built from it."""

import json
import logging
import math
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.samplers import RandomSubsetTrainingSampler
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm
from torch import nn

from ..data.catalog import get_metadata, use_fixes
from ..data.loader import (
    build_test_loader,
    build_train_loader,
    check_annotations,
    image_ids,
    images_per_epoch,
    take_subset,
)
from ..data.tiles import TileMapper
from ..evaluation.evaluate import build_evaluator, evaluate
from ..evaluation.tiles import TilePredictor
from ..evaluation.tta import TTAPredictor, build_tta
from ..files.atomic import write_json
from ..layers.roi_align import use_fast_roi_align

logger = logging.getLogger(__name__)


class Key:
    """Makes an attribute of an experiment out of a key of its config.

    Each flavour of config has a table of them, so that the library reads `experiment.max_iter`,
    and a message names the key as the user's config spells it.

    Args:
        name: of the key, with dots.
        default: its value where the config has no such key.
    """

    def __init__(self, name: str, default=None):
        self.name = name
        self.default = default

    def __get__(self, experiment, owner=None):
        if experiment is None:
            return self
        return experiment.get_key(self.name, self.default)

    def __set__(self, experiment, value):
        experiment.set_key(self.name, value)


@dataclass(frozen=True)
class Schedule:
    """Says when things happen in a training, in iterations."""

    max_iter: int
    batch_size: int
    images_per_epoch: float
    log_period: int
    eval_period: int
    eval_in_loop: bool
    checkpoint_period: int
    accumulate: int = 1

    def progress(self, iteration: int) -> dict[str, float]:
        """Returns how far training is after an iteration: `epoch` and `samples_seen`."""
        seen = (iteration + 1) * self.batch_size
        return {"epoch": seen / self.images_per_epoch, "samples_seen": seen}

    def is_evaluation_due(self, done: int, is_last: bool) -> bool:
        """Returns whether the training loop evaluates after `done` iterations."""
        is_due = self.eval_period > 0 and done % self.eval_period == 0
        return self.eval_in_loop and (is_last or is_due)


class Experiment(ABC):
    """Holds a config, and builds from it what a training and the tools need.

    `YamlExperiment` and `LazyExperiment` say which keys the attributes below are.
    """

    config: object
    output_dir: str
    device: str
    weights: str
    seed: int
    cudnn_benchmark: bool
    amp: bool
    log_period: int
    num_pictures: int
    report: bool
    fixes: tuple[str, ...]
    train_names: tuple[str, ...]
    test_names: tuple[str, ...]
    train_subset_ratio: float
    train_subset_seed: int
    test_subset_ratio: float
    test_subset_seed: int
    num_workers: int
    test_batch_size: int
    batch_size: int
    accumulate: int
    base_lr: float
    reference_batch_size: int
    ema_decay: float
    max_to_keep: int
    images_per_epoch: float
    max_iter: int
    checkpoint_period: int
    eval_period: int
    eval_in_loop: bool
    val_loss: bool
    stop_metric: str
    stop_mode: str
    stop_patience: int
    stop_min_delta: float
    stop_warmup_evals: int
    # What can be given in epochs: attribute in iterations, attribute in epochs.
    EPOCHS = {
        "max_iter": "max_epochs",
        "checkpoint_period": "checkpoint_period_epochs",
        "eval_period": "eval_period_epochs",
    }

    def __init__(self, evaluators: Sequence[Callable[[str], DatasetEvaluator]] = ()):
        self.own_evaluators = evaluators
        self._follows_data = False
        self._train_arguments = None

    # What a flavour says.

    @abstractmethod
    def get_key(self, name: str, default):
        """Returns the value of a key of the config."""

    @abstractmethod
    def set_key(self, name: str, value):
        """Sets a key of the config."""

    @abstractmethod
    def save(self, path: str | Path):
        """Writes the config as YAML, so that it can be read again."""

    @abstractmethod
    def flat(self) -> dict[str, object]:
        """Returns the values of all keys by their names, written with dots."""

    @abstractmethod
    def set_classes(self, things, stuff, keypoints, ignore_label):
        """Sets the sizes of the model's heads, and the label of pixels without a class.

        All are whole numbers; None is what the dataset does not have.
        """

    @property
    @abstractmethod
    def uses_masks(self) -> bool:
        """Whether the model learns and predicts instance masks."""

    @property
    @abstractmethod
    def uses_keypoints(self) -> bool:
        """Whether the model learns and predicts keypoints."""

    @property
    @abstractmethod
    def uses_rotated_boxes(self) -> bool:
        """Whether the model learns and predicts rotated boxes."""

    @property
    @abstractmethod
    def max_detections(self) -> int:
        """The most instances that the model predicts in an image."""

    @property
    @abstractmethod
    def keypoint_sigmas(self) -> Iterable[float]:
        """Standard deviations of COCO's object keypoint similarity."""

    @property
    @abstractmethod
    def tiles(self) -> dict:
        """The keys of TEST.TILES, in lower case."""

    @property
    @abstractmethod
    def test_augmentation(self) -> dict:
        """The keys of TEST.AUG, in lower case."""

    @abstractmethod
    def _build_model(self) -> nn.Module: ...

    @abstractmethod
    def _build_mapper(self, is_train: bool, ground_truth: bool | None): ...

    @abstractmethod
    def _read_train_arguments(self) -> dict: ...

    @abstractmethod
    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Builds the optimizer for the model's parameters."""

    @abstractmethod
    def build_lr_scheduler(self, optimizer):
        """Builds the schedule of the learning rate, one step an iteration."""

    # What follows from that.

    def name_of(self, attribute: str) -> str:
        """Returns how the config spells the key of an attribute."""
        return getattr(type(self), attribute).name

    @property
    def schedule(self) -> Schedule:
        """When things happen; epochs have become iterations."""
        return Schedule(
            max_iter=self.max_iter,
            batch_size=self.batch_size,
            images_per_epoch=self.images_per_epoch,
            log_period=self.log_period,
            eval_period=self.eval_period,
            eval_in_loop=self.eval_in_loop,
            checkpoint_period=self.checkpoint_period,
            accumulate=self.accumulate,
        )

    @property
    def early_stopping(self) -> dict:
        """The arguments of `EarlyStopping`."""
        names = ("metric", "mode", "patience", "min_delta", "warmup_evals")
        return {name: getattr(self, f"stop_{name}") for name in names}

    def check(self):
        """Checks the values of keys.

        Raises:
            ValueError: a value is out of its range, or contradicts another.
        """
        for attribute in self.EPOCHS.values():
            value = getattr(self, attribute)
            for number in value if isinstance(value, (list, tuple)) else [value]:
                is_number = isinstance(number, (int, float))
                if number is not None and not (is_number and 0 < number < math.inf):
                    self._refuse(attribute, "Give positive numbers of epochs.")
        for attribute, is_fine, advice in (
            ("train_subset_ratio", lambda x: 0 < x <= 1, "Give a share, from above 0 up to 1."),
            ("test_subset_ratio", lambda x: 0 < x <= 1, "Give a share, from above 0 up to 1."),
            ("accumulate", lambda x: x >= 1, "Give 1 or more micro-batches."),
            ("ema_decay", lambda x: 0 <= x < 1, "Give 0 (no EMA), or less than 1, such as 0.999."),
            ("reference_batch_size", lambda x: x >= 0, "Give a batch size, or 0."),
            ("num_workers", lambda x: x >= 0, "Give a number of processes, or 0 for none."),
            ("test_batch_size", lambda x: x >= 1, "Give 1 or more images."),
            ("log_period", lambda x: x >= 1, "Give 1 or more iterations."),
            ("max_to_keep", lambda x: x >= 0, "Give a number of checkpoints; 0 keeps all."),
            ("stop_mode", lambda x: x in ("", "max", "min"), "Give max or min."),
        ):
            if not is_fine(getattr(self, attribute)):
                self._refuse(attribute, advice)
        period = self.eval_period or self.eval_period_epochs
        if self.stop_patience and not (period and self.test_names):
            period, names = map(self.name_of, ("eval_period_epochs", "test_names"))
            self._refuse("stop_patience", f"That needs evaluations: give {period} and {names}.")

    def _refuse(self, attribute, advice):
        value = getattr(self, attribute)
        raise ValueError(f"{self.name_of(attribute)} is {value!r}. {advice}")

    def check_processes(self, processes: int):
        """Checks that a batch can be split over the processes.

        Raises:
            ValueError: it cannot.
        """
        parts = processes * self.accumulate
        if self.batch_size % parts:
            self._refuse(
                "batch_size",
                f"That cannot be split evenly over {processes} processes and "
                f"{self.name_of('accumulate')} {self.accumulate}: give a multiple of {parts}.",
            )

    def follow_data(self):
        """Sets what follows from the datasets: sizes of heads, names of classes. Needed once.

        Raises:
            KeyError: a dataset is not registered.
            ValueError: datasets have other classes than the first, or the config has.
        """
        if self._follows_data:
            return
        names = (*self.train_names, *self.test_names)
        if not names:  # a lazy config with loaders of its own
            return
        name, *others = dict.fromkeys(names)
        metadata = get_metadata(name)
        for other in others:
            for kind in ("thing_classes", "stuff_classes"):
                if get_metadata(other).get(kind) != metadata.get(kind):
                    raise ValueError(
                        f"the {kind} of '{name}' and '{other}' differ: {metadata.get(kind)} and "
                        f"{get_metadata(other).get(kind)}. Datasets used together need the same."
                    )
        kinds = ("thing_classes", "stuff_classes", "keypoint_names")
        counts = (len(metadata.get(kind) or ()) or None for kind in kinds)
        self.set_classes(*counts, metadata.get("ignore_label"))
        self._follows_data = True

    def build_model(self) -> nn.Module:
        """Builds the model on the experiment's device."""
        self.follow_data()
        model = self._build_model()
        if torch.device(self.device).type == "cpu":
            use_fast_roi_align(model)
        return model

    def build_mapper(self, is_train: bool, ground_truth: bool | None = None) -> Callable:
        """Builds the mapper from a dataset dict to the model's input.

        Args:
            ground_truth: whether the input has it; None: in training only.
        """
        self.follow_data()
        mapper = self._build_mapper(is_train, ground_truth)
        tiles = self.tiles
        if is_train or not tiles["enabled"]:
            return mapper
        return TileMapper(mapper, tiles["size"], tiles["overlap"], tiles["whole_image"])

    def build_predictor(self, model: nn.Module, predict: Callable | None = None) -> Callable:
        """Builds what predicts inputs of `build_mapper(False)`: the model, TEST.AUG, TEST.TILES.

        Args:
            predict: what is called instead of the model, such as what computes losses too.
        """
        predict = predict or model
        augmentation, tiles = self.test_augmentation, self.tiles
        if augmentation.pop("enabled"):
            predict = TTAPredictor(build_tta(model, **augmentation), predict, model)
        if not tiles["enabled"]:
            return predict
        return TilePredictor(
            predict,
            tiles["nms_thresh"],
            tiles["nms_by"],
            self.max_detections,
            self.test_batch_size,
        )

    def train_arguments(self) -> dict:
        """Returns the arguments of the training loader, with the dataset and its sampler.

        Raises:
            ValueError: no image is left to train on, or objects lack what the model learns.
        """
        if self._train_arguments:
            return self._train_arguments
        self.follow_data()
        use_fixes(self.fixes)
        names = ", ".join(self.train_names)
        try:
            arguments = self._read_train_arguments()
        except AssertionError as error:  # detectron2's, when none is left
            if not re.search("is empty|No valid data", str(error)):
                raise
            raise ValueError(
                f"there is no image to train on in {names}: {error} Images without annotations, "
                "or with crowds alone, are left out. tools/check_dataset.py says what is in it."
            ) from None
        dataset, ratio = arguments["dataset"], self.train_subset_ratio
        self._check_annotations(dataset, self.train_names)
        if ratio < 1:
            if len(dataset) * ratio < 1:
                self._refuse("train_subset_ratio", f"Of {len(dataset)} images that is no image.")
            # From a config it would get no seeds, and so take other images when a run is resumed.
            arguments["sampler"] = RandomSubsetTrainingSampler(
                len(dataset),
                ratio,
                seed_shuffle=self.seed,
                seed_subset=self.train_subset_seed,
            )
        if hasattr(augment := getattr(arguments["mapper"], "augment", None), "set_images"):
            indices = getattr(arguments["sampler"], "_indexes_subset", range(len(dataset)))
            augment.set_images([dataset[int(i)] for i in indices])
        self._train_arguments = arguments
        return arguments

    def datasets(self) -> dict[str, list[dict]]:
        """Returns the dataset dicts that are trained and evaluated on, by name (or names)."""
        found = {"+".join(self.train_names): self.train_arguments()["dataset"]}
        return found | {name: self.test_dataset(name) for name in self.test_names}

    def _check_annotations(self, dataset, names):
        learns = self.uses_masks, self.uses_keypoints, self.uses_rotated_boxes
        check_annotations(dataset, names, *learns)

    def build_train_loader(self, start_iter: int = 0):
        """Builds the endless loader of batches, from iteration `start_iter` on."""
        return build_train_loader(**self.train_arguments(), seed=self.seed, start_iter=start_iter)

    def set_epoch_length(self):
        """Counts the images of an epoch, and turns epochs in the config into iterations."""
        self.images_per_epoch = self._count_images()
        for iterations, epochs in self.EPOCHS.items():
            value = getattr(self, epochs)
            if isinstance(value, (list, tuple)) and value:
                setattr(self, iterations, tuple(map(self._to_iterations, value)))
            elif value:
                setattr(self, iterations, max(1, self._to_iterations(value)))
            # From here on, and in the saved config, there are iterations only.
            if value is not None:
                setattr(self, epochs, getattr(type(self), epochs).default)

    def _count_images(self):
        arguments = self.train_arguments()
        sampler = arguments["sampler"]
        if isinstance(sampler, RandomSubsetTrainingSampler):
            chosen = (arguments["dataset"][i] for i in sampler._indexes_subset.tolist())
            self._record_subset("+".join(self.train_names), image_ids(chosen))
        return images_per_epoch(arguments["dataset"], sampler)

    def _to_iterations(self, epochs):
        return round(epochs * self.images_per_epoch / self.batch_size)

    def scale_learning_rate(self):
        """Scales the learning rate in proportion to the batch size, if the config says its own."""
        reference, batch = self.reference_batch_size, self.batch_size
        if reference and reference != batch:
            given = self.base_lr
            self.base_lr = given * batch / reference
            # Read again, the config of this run is not scaled a second time.
            self.reference_batch_size = batch
            logger.info(
                "The learning rate is %g: %g is for a batch of %d, scaled to one of %d",
                self.base_lr,
                given,
                reference,
                batch,
            )

    def test_dataset(self, name: str) -> list[dict]:
        """Returns the dataset dicts of a test set, or of the configured subset."""
        self.follow_data()
        use_fixes(self.fixes)
        dataset = get_detection_dataset_dicts(name, filter_empty=False)
        return take_subset(dataset, self.test_subset_ratio, self.test_subset_seed)

    def build_test_loader(self, dataset: str | list[dict], ground_truth: bool | None = None):
        """Builds the loader of a test set.

        Args:
            dataset: its name, or its dataset dicts.
            ground_truth: whether inputs have it; None: if the validation loss is computed.
        """
        dicts = self.test_dataset(dataset) if isinstance(dataset, str) else dataset
        with_truth = self.val_loss if ground_truth is None else ground_truth
        mapper = self.build_mapper(False, with_truth)
        return build_test_loader(dicts, mapper, self.test_batch_size, self.num_workers)

    def build_evaluator(self, name: str, folder: str) -> DatasetEvaluators:
        """Builds detectron2's evaluators for a test set, and the project's own.

        Args:
            folder: for their files.
        """
        dataset = self.test_dataset(name)
        if self.test_subset_ratio < 1:
            if get_metadata(name).evaluator_type == "pascal_voc":
                self._refuse(
                    "test_subset_ratio", f"'{name}' is evaluated by Pascal VOC's, on all images."
                )
            self._record_subset(name, image_ids(dataset))
        self._check_annotations(dataset, [name])
        evaluator = build_evaluator(
            name,
            dataset,
            folder,
            masks=self.uses_masks,
            keypoints=self.uses_keypoints,
            keypoint_sigmas=self.keypoint_sigmas,
            max_detections=self.max_detections,
        )
        return DatasetEvaluators([evaluator, *(build(name) for build in self.own_evaluators)])

    def evaluate(self, model: nn.Module, folder: str | None = None, quick: bool = False):
        """Evaluates on every test set, see `d2_starter.evaluation.evaluate`.

        Args:
            folder: for the evaluators' files; None: inference/ in the run directory.
            quick: one image only, to find out the names of the metrics, without a log.
        """
        return evaluate(
            model,
            self.test_names,
            self.build_test_loader,
            self.build_evaluator,
            folder or os.path.join(self.output_dir, "inference"),
            val_loss=self.val_loss,
            build_predictor=self.build_predictor,
            quick=quick,
        )

    def warn_of_limits(self):
        """Logs what no evaluation can count, or leaves out: docs/limits.md of the template has all.

        These are objects above the limit of detections, classes without objects, images outside of
        a subset.
        """
        for name in self.test_names:
            dataset = self.test_dataset(name)
            counts = Counter(len(record.get("annotations", ())) for record in dataset)
            above = sum(n for objects, n in counts.items() if objects > self.max_detections)
            if above:
                logger.warning(
                    "%d images of %s have more objects (up to %d) than the model predicts (%d): "
                    "the others count as missed. See TEST.DETECTIONS_PER_IMAGE.",
                    above,
                    name,
                    max(counts),
                    self.max_detections,
                )
            if self.test_subset_ratio < 1:
                logger.warning(
                    "Evaluations on %s are of %d images only, see %s",
                    name,
                    len(dataset),
                    self.name_of("test_subset_ratio"),
                )
            annotations = (a for record in dataset for a in record.get("annotations", ()))
            found = {a["category_id"] for a in annotations if not a.get("iscrowd")}
            classes = get_metadata(name).get("thing_classes") or ()
            missing = [c for i, c in enumerate(classes) if i not in found] if found else ()
            if missing:
                logger.warning(
                    "%d of %d classes have no object in %s: they have no AP, and the AP is the mean "
                    "of the others: %s",
                    len(missing),
                    len(classes),
                    name,
                    ", ".join(missing[:10]) + ", ..." * (len(missing) > 10),
                )

    def _record_subset(self, name, ids):
        if comm.is_main_process():
            os.makedirs(self.output_dir, exist_ok=True)
            path = os.path.join(self.output_dir, f"subset_{name}.json")
            write_json(path, json.loads(json.dumps(ids, default=str)))

    def _set_defaults(self, config_file, default_output_dir):
        # Each experiment has a directory of its own; without a GPU it runs on the CPU.
        if self.output_dir == default_output_dir:
            self.output_dir = str(Path("output", Path(config_file).stem))
        if self.device == "cuda" and not torch.cuda.is_available():
            self.device = "cpu"


def amp_dtype(device: str) -> torch.dtype:
    """Returns bfloat16 where the device computes with it, else float16."""
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16
