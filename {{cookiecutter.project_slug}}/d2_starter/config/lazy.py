"""Reads experiments from detectron2's lazy configs, which are Python."""

import copy
import difflib
import inspect
import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import yaml
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.data.samplers import TrainingSampler
from detectron2.evaluation import (
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
)
from detectron2.layers import NaiveSyncBatchNorm, ShapeSpec
from detectron2.solver import LRMultiplier
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.registry import locate
from fvcore.common.param_scheduler import ParamScheduler
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..evaluation.ground_truth import write_ground_truth
from ..evaluation.panoptic import PanopticEvaluator
from ..evaluation.tiles import TILES, check_tiles
from ..evaluation.tta import TEST_AUG
from ..layers.timm_fpn import import_timm
from .experiment import Experiment, Key

logger = logging.getLogger(__name__)

MISSING = object()
NODES = ("model", "optimizer", "lr_multiplier", "dataloader", "train")
NAMELESS = (
    "A lambda, or a function inside another, cannot be saved. Put functools.partial, or a function "
    "of a module of your package, in its place; in the config.yaml of the run, too: tools read that."
)
# What a saved config may call. Other configs are code that their user names.
TRUSTED = (
    "detectron2.data.",
    "detectron2.evaluation.",
    "detectron2.layers.",
    "detectron2.modeling.",
    "detectron2.projects.",
    "detectron2.solver.",
    "d2_starter.config.optimizer.",
    "d2_starter.data.",
    "d2_starter.evaluation.",
    "d2_starter.layers.",
    "fvcore.common.param_scheduler.",
    "torch.nn.",
    "torch.optim.",
    "torchvision.ops.",
)


class LazyExperiment(Experiment):
    """An experiment whose config is a DictConfig with detectron2's nodes: model, train, ...

    Args:
        config_file: Python, or the YAML that a run has saved.
        overrides: key=value key=value ..., which win over the file.
        package: name of the project's own package, which a saved config may use.
        evaluators: of the project's own, called with the name of a test set.

    Raises:
        ValueError: a missing file, an unknown key (with the nearest one), an override that cannot
            be read, or a value out of its range.
    """

    output_dir = Key("train.output_dir", "./output")
    device = Key("train.device", "cuda")
    weights = Key("train.init_checkpoint", "")
    seed = Key("train.seed", -1)
    cudnn_benchmark = Key("train.cudnn_benchmark", False)
    amp = Key("train.amp.enabled", False)
    log_period = Key("train.log_period", 20)
    num_pictures = Key("train.num_pictures", 8)
    report = Key("train.report", True)
    fixes = Key("dataloader.fixes", ())
    train_names = Key("dataloader.train.dataset.names", ())
    test_names = Key("dataloader.test.dataset.names", ())
    train_subset_ratio = Key("dataloader.train.random_subset_ratio", 1.0)
    train_subset_seed = Key("dataloader.train.random_subset_seed", -1)
    test_subset_ratio = Key("dataloader.test.random_subset_ratio", 1.0)
    test_subset_seed = Key("dataloader.test.random_subset_seed", 0)
    num_workers = Key("dataloader.train.num_workers", 0)
    test_batch_size = Key("dataloader.test.batch_size", 1)
    batch_size = Key("dataloader.train.total_batch_size")
    accumulate = Key("train.accumulate", 1)
    base_lr = Key("optimizer.lr", 0.0)
    reference_batch_size = Key("train.reference_batch_size", 0)
    ema_decay = Key("train.ema_decay", 0.0)
    max_to_keep = Key("train.checkpointer.max_to_keep", 0)
    images_per_epoch = Key("train.images_per_epoch", 0.0)
    max_iter = Key("train.max_iter")
    max_epochs = Key("train.max_epochs")
    checkpoint_period = Key("train.checkpointer.period", 5000)
    checkpoint_period_epochs = Key("train.checkpointer.period_epochs")
    eval_period = Key("train.eval_period", 0)
    eval_period_epochs = Key("train.eval_period_epochs")
    eval_in_loop = Key("train.eval_in_loop", True)
    val_loss = Key("train.val_loss", True)
    stop_metric = Key("train.early_stopping.metric", "")
    stop_mode = Key("train.early_stopping.mode", "")
    stop_patience = Key("train.early_stopping.patience", 0)
    stop_min_delta = Key("train.early_stopping.min_delta", 0.0)
    stop_warmup_evals = Key("train.early_stopping.warmup_evals", 0)
    # Arguments of the training loader that detectron2's function does not have.
    OWN_ARGUMENTS = ("random_subset_ratio", "random_subset_seed")

    def __init__(
        self,
        config_file: str,
        overrides: list[str] = (),
        *,
        package: str,
        evaluators: Sequence[Callable[[str], DatasetEvaluator]] = (),
    ):
        super().__init__(evaluators)
        self.config = _load(config_file, package)
        missing = [node for node in NODES if node not in self.config]
        if missing:
            raise ValueError(
                f"config file '{config_file}' has no {', '.join(missing)}. What an experiment does "
                "not define it imports: from .base import dataloader, lr_multiplier, ..."
            )
        given = self._override(overrides)
        self._check_names()
        for iterations, epochs in self.EPOCHS.items():
            names = self.name_of(iterations), self.name_of(epochs)
            if all(given.get(name) is not None for name in names):
                raise ValueError(f"{names[0]} and {names[1]} contradict each other: give one.")
            if given.get(names[0]) is not None:
                setattr(self, epochs, None)
        model_ema = self.get_key("train.model_ema", {})
        if model_ema.get("enabled") and not self.ema_decay:  # as newer detectron2 spells it
            self.ema_decay = model_ema.get("decay", 0.999)
        self._check_types()
        self.check()
        check_tiles(self.tiles, "dataloader.test.tiles")
        self._set_defaults(config_file, "./output")

    def _override(self, overrides) -> dict:
        late = [word for word in overrides if word.startswith("--")]
        if late:
            raise ValueError(f"{late[0]} came after the overrides. Options go before key=value.")
        try:
            parsed = OverridesParser.create().parse_overrides(list(overrides))
        except OverrideParseException as error:
            raise ValueError(f"config overrides are key=value. {error}") from error
        for override in parsed:
            key = override.key_or_group
            node = OmegaConf.select(self.config, key.rpartition(".")[0] or "")
            is_argument = isinstance(node, DictConfig) and "_target_" in node  # the call checks it
            is_known = key in self._names() or is_argument
            if OmegaConf.select(self.config, key, default=MISSING) is MISSING and not is_known:
                names = [*self._names(), *flatten(self.config)]
                hint = _nearest(key, names, 0.8)
                if (
                    hint or key.partition(".")[0] not in self.config
                ):  # else it is a key of one's own
                    raise ValueError(f"there is no config key '{key}'.{hint}")
        LazyConfig.apply_overrides(self.config, list(overrides))
        return {override.key_or_group: override.value() for override in parsed}

    @classmethod
    def _names(cls):
        keys = (getattr(cls, name) for name in dir(cls))
        return [key.name for key in keys if isinstance(key, Key)]

    def _check_names(self):
        # Keys of one's own are welcome in `train`; one that is nearly a known key is mistyped.
        known = [name for name in self._names() if name.startswith("train.")]
        known += [f"train.{name}" for name in ("ddp", "model_ema", "clip_gradients")]
        for name in flatten(self.config.train, "train."):
            is_known = any(name == key or name.startswith(f"{key}.") for key in known)
            if not is_known and (hint := _nearest(name, known, 0.9)):
                raise ValueError(f"there is no config key '{name}'.{hint}")

    def _check_types(self):
        for name in dir(type(self)):
            key = getattr(type(self), name)
            if not isinstance(key, Key) or key.default is None:
                continue
            value = getattr(self, name)
            kind = (int, float) if isinstance(key.default, float) else type(key.default)
            if not isinstance(value, kind) or isinstance(value, bool) != isinstance(
                key.default, bool
            ):
                raise ValueError(
                    f"{key.name} is {value!r}. Give a {type(key.default).__name__}, such as "
                    f"{key.default!r}."
                )

    def get_key(self, name, default=None):
        value = OmegaConf.select(self.config, name, default=default)
        if name.endswith("dataset.names") and isinstance(value, str):
            return (value,)
        if name == "dataloader.train.total_batch_size" and value is None:  # of a loader of its own
            size = OmegaConf.select(self.config, "dataloader.train.batch_size", default=1)
            return size * comm.get_world_size()
        return tuple(value) if isinstance(value, ListConfig) else value

    def set_key(self, name, value):
        value = list(value) if isinstance(value, tuple) else value
        OmegaConf.update(self.config, name, value, merge=False, force_add=True)

    def save(self, path):
        values = ((key, OmegaConf.select(self.config, key)) for key in flatten(self.config))
        nameless = [key for key, value in values if "<" in getattr(value, "__qualname__", "")]
        if nameless:
            logger.warning("The saved config cannot be read again: %s. %s", nameless, NAMELESS)
        LazyConfig.save(self.config, str(path))

    def flat(self):
        return {key: self.get_key(key) for key in flatten(self.config)}

    def set_classes(self, things, stuff, keypoints, ignore_label):
        for name, number in (
            ("model.roi_heads.num_classes", things),
            ("model.num_classes", things),
            ("model.sem_seg_head.num_classes", stuff),
            ("model.roi_heads.keypoint_head.num_keypoints", keypoints),
            ("model.sem_seg_head.ignore_value", ignore_label),
            ("dataloader.train.mapper.ignore_label", ignore_label),
        ):
            if number is not None and OmegaConf.select(self.config, name) is not None:
                self.set_key(name, number)
        name = "dataloader.train.mapper.keypoint_hflip_indices"
        if keypoints and OmegaConf.select(self.config, name) is not None:  # those of COCO's people
            self.set_key(name, create_keypoint_hflip_indices(list(self.train_names)))

    @property
    def uses_masks(self):
        return "mask_head" in self._roi_heads

    @property
    def uses_keypoints(self):
        return "keypoint_head" in self._roi_heads

    @property
    def _roi_heads(self):
        return OmegaConf.select(self.config, "model.roi_heads", default=OmegaConf.create())

    @property
    def uses_rotated_boxes(self):
        return "RotatedAnchorGenerator" in str(self.config.model)

    @property
    def max_detections(self):
        heads, model = self._roi_heads, self.config.model
        predictor = [heads.get("box_predictor", {}), *heads.get("box_predictors", [])][-1]
        number = predictor.get("test_topk_per_image", 0)
        return number or model.get("max_detections_per_image", 100)

    @property
    def keypoint_sigmas(self):
        number = OmegaConf.select(self._roi_heads, "keypoint_head.num_keypoints", default=0)
        # COCO measured its sigmas for 17 human keypoints; they range from 0.026 to 0.107.
        return [] if number in (0, 17) else [0.05] * number

    @property
    def tiles(self):
        return TILES | dict(self.get_key("dataloader.test.tiles") or {})

    @tiles.setter
    def tiles(self, values):
        self.set_key("dataloader.test.tiles", dict(values))

    @property
    def test_augmentation(self):
        return TEST_AUG | dict(self.get_key("dataloader.test.aug") or {})

    @test_augmentation.setter
    def test_augmentation(self, values):
        self.set_key("dataloader.test.aug", dict(values))

    def _build_model(self):
        try:
            return instantiate(self.config.model).to(self.device)
        except ModuleNotFoundError as error:
            if "timm" in str(error):  # detectron2's ViT takes layers of it
                import_timm()
            raise

    def build_optimizer(self, model):
        node = copy.deepcopy(self.config.optimizer)
        node.params.model = model
        cfg = CfgNode({"SOLVER": {"CLIP_GRADIENTS": self._clipping()}})
        return maybe_add_gradient_clipping(cfg, instantiate(node))

    def _clipping(self):
        given = OmegaConf.select(self.config, "train.clip_gradients", default={})
        names = {"enabled": False, "clip_type": "value", "clip_value": 1.0, "norm_type": 2.0}
        return {name.upper(): given.get(name, default) for name, default in names.items()}

    def build_lr_scheduler(self, optimizer):
        multiplier = _UpToTheEnd(instantiate(self.config.lr_multiplier))
        return LRMultiplier(optimizer, multiplier, self.max_iter)

    def _build_mapper(self, is_train, ground_truth):
        loaders = self.config.dataloader
        node = copy.deepcopy(loaders["train" if is_train else "test"].mapper)
        target = node.get("_target_")
        if not is_train and target in (DatasetMapper, "detectron2.data.DatasetMapper"):
            # detectron2's drops annotations unless it is told that it maps for training.
            of_train = loaders.train.mapper
            node.is_train = bool(ground_truth)
            for name in ("use_instance_mask", "use_keypoint", "instance_mask_format"):
                if name in of_train:
                    node[name] = of_train[name]
        elif ground_truth is not None and "ground_truth" in node:
            node.ground_truth = ground_truth
        return instantiate(node)

    def _has_own_loader(self, kind):
        # Whether a config builds its loader by another function than detectron2's or none.
        target = self.config.dataloader[kind].get("_target_", "")
        name = target if isinstance(target, str) else f"{target.__module__}.{target.__name__}"
        return bool(name) and not name.startswith("detectron2.data.")

    def build_train_loader(self, start_iter: int = 0):
        """Builds the training loader; one of the config's own begins afresh at a resume."""
        if self._has_own_loader("train"):
            return instantiate(self.config.dataloader.train)
        return super().build_train_loader(start_iter)

    def build_test_loader(self, dataset, ground_truth: bool | None = None):
        """Builds the loader of a test set; a config's own is taken as it is."""
        if self._has_own_loader("test"):
            return instantiate(self.config.dataloader.test)
        return super().build_test_loader(dataset, ground_truth)

    def datasets(self):
        """Returns the dataset dicts by name, without those of a config's own loader."""
        if self._has_own_loader("train"):
            return {name: self.test_dataset(name) for name in self.test_names}
        return super().datasets()

    def _count_images(self):
        if self._has_own_loader("train"):
            return float(len(instantiate(self.config.dataloader.train).dataset))
        return super()._count_images()

    def build_evaluator(self, name: str, folder: str):
        """Builds `dataloader.evaluator` if there is one, or what the dataset's metadata ask for.

        Args:
            folder: for the files of evaluators to which the config gives no `output_dir`.
        """
        nodes = self.config.dataloader.get("evaluator")
        if nodes is None:
            return super().build_evaluator(name, folder)
        if self.test_subset_ratio < 1:
            self._refuse(
                "test_subset_ratio",
                "dataloader.evaluator evaluates all images: without it, the library's is used.",
            )
        nodes = nodes if isinstance(nodes, ListConfig) else [nodes]
        evaluators = [self._build_evaluator(node, name, folder) for node in nodes]
        if any(isinstance(evaluator, COCOEvaluator) for evaluator in evaluators):  # for reports
            write_ground_truth(folder, name, self.test_dataset(name), sigmas=self.keypoint_sigmas)
        return DatasetEvaluators([*evaluators, *(build(name) for build in self.own_evaluators)])

    def _build_evaluator(self, node, name, folder):
        target = locate(node._target_) if isinstance(node._target_, str) else node._target_
        names = inspect.signature(target).parameters
        arguments = {key: instantiate(node[key]) for key in node if key != "_target_"}
        if "output_dir" in names:
            arguments.setdefault("output_dir", folder)
        if target is COCOEvaluator:  # which guesses tasks from predictions; there may be none
            tasks = ["bbox", *["segm"] * self.uses_masks, *["keypoints"] * self.uses_keypoints]
            arguments = {"tasks": tasks, "kpt_oks_sigmas": self.keypoint_sigmas} | arguments
        if not isinstance(arguments.get("dataset_name", ""), str):  # one of several test sets
            arguments["dataset_name"] = name
        if target is COCOPanopticEvaluator and not find_spec("panopticapi"):  # not to be had by pip
            return PanopticEvaluator(arguments["dataset_name"], folder)
        return target(**arguments)

    def _read_train_arguments(self):
        node = self.config.dataloader.train
        own = (*self.OWN_ARGUMENTS, "_target_")
        arguments = {key: instantiate(value) for key, value in node.items() if key not in own}
        if not arguments.get("sampler"):
            arguments["sampler"] = TrainingSampler(len(arguments["dataset"]), seed=self.seed)
        return arguments

    def override(self, attribute: str, value) -> list[str]:
        """Returns the words of a command line that give a key another value."""
        value = list(value) if isinstance(value, tuple) else value
        return [f"{self.name_of(attribute)}={value}"]


class _UpToTheEnd(ParamScheduler):
    # A schedule that can also be asked after the last iteration: a constant one cannot.
    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, where):
        return self.schedule(min(where, 1 - 1e-6))


def flatten(node: DictConfig, prefix: str = "") -> list[str]:
    """Returns the keys of a node and of all nodes in it, written with dots."""
    names = []
    for key in node:
        is_missing = OmegaConf.is_interpolation(node, key)
        value = None if is_missing else node[key]
        inner = isinstance(value, DictConfig)
        names += flatten(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]
    return names


def _nearest(name, names, cutoff):
    near = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return f" Did you mean {near[0]}?" if near else ""


def _load(config_file, package) -> DictConfig:
    path = Path(config_file)
    if not path.is_file():
        raise ValueError(f"there is no config file '{config_file}'. Type e.g. configs/smoke.py.")
    if path.suffix == ".py":
        return _name_norms(LazyConfig.load(str(path)))
    try:
        loader = type("_", (_Loader,), {"trusted": (*TRUSTED, f"{package}."), "where": config_file})
        nodes = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
        if not isinstance(nodes, dict):
            raise ValueError(f"config file '{config_file}' has no keys and values.")
        _check_targets(nodes, loader)
    except (yaml.YAMLError, ImportError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"config file '{config_file}' cannot be read: {error}") from error
    return OmegaConf.create(nodes, flags={"allow_objects": True})


def _name_norms(config):
    # The normalization of the zoo's LSJ configs is a lambda, which could not be saved.
    for head in ("box_head", "mask_head"):
        name = f"model.roi_heads.{head}.conv_norm"
        code = getattr(OmegaConf.select(config, name), "__code__", None)
        if code and code.co_names == ("NaiveSyncBatchNorm",) and "N" in code.co_consts:
            OmegaConf.update(config, name, partial(NaiveSyncBatchNorm, stats_mode="N"))
    return config


class _Loader(yaml.SafeLoader):
    # Reads what LazyConfig.save writes: data, tuples, shapes, names of trusted classes; nothing that
    # runs code.

    trusted, where = (), ""


def check_target(name: str, trusted: tuple[str, ...], where: str):
    """Checks what a saved config calls.

    Raises:
        ImportError: there is no such thing.
        ValueError: it is not defined in a module that is trusted.
    """
    found = locate(str(name)) if str(name).startswith(trusted) else None
    if not f"{getattr(found, '__module__', '')}.".startswith(trusted):  # as os, imported in one
        raise ValueError(
            f"config file '{where}' would call {name}. A saved config may call only "
            f"{', '.join(trusted)}; give the Python config instead if you trust it."
        )


def _shape(loader, node):
    return ShapeSpec(**loader.construct_mapping(node))


def _class(loader, name, node):
    if "<" in name:
        raise ValueError(
            f"config file '{loader.where}', line {node.start_mark.line + 1}: {NAMELESS}"
        )
    check_target(name, loader.trusted, loader.where)
    return locate(name)


def _partial(loader, node):
    function, arguments, keywords, _ = loader.construct_mapping(node, deep=True)["state"]
    return partial(function, *arguments, **keywords)


_PYTHON = "tag:yaml.org,2002:python/"
_Loader.add_constructor(
    f"{_PYTHON}tuple", lambda loader, node: list(loader.construct_sequence(node))
)
_Loader.add_constructor(f"{_PYTHON}object:detectron2.layers.shape_spec.ShapeSpec", _shape)
_Loader.add_multi_constructor(f"{_PYTHON}name:", _class)
_Loader.add_constructor(f"{_PYTHON}object/apply:functools.partial", _partial)


def _check_targets(node, loader):
    if isinstance(node, dict) and "_target_" in node:
        check_target(node["_target_"], loader.trusted, loader.where)
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, (dict, list)):
            _check_targets(value, loader)
