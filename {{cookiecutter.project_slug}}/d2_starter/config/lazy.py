"""An experiment: its config file, which is Python, and what is built from it."""

import copy
import difflib
from pathlib import Path

import torch
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data.samplers import TrainingSampler
from detectron2.solver import LRMultiplier
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import ParamScheduler
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf

from . import modelling  # noqa: F401  registers the project's components
from .config import (
    EPOCHS,
    check_values,
    choose_units,
    default_config,
    flat,
    get_key,
    set_classes,
    set_defaults,
)
from .data.dataset import register_datasets
from .modelling.roi_align import use_fast_roi_align

# The engine's keys, which config.py explains, and how config files spell them.
KEYS = {
    "OUTPUT_DIR": "train.output_dir",
    "LOG_PERIOD": "train.log_period",
    "SEED": "train.seed",
    "CUDNN_BENCHMARK": "train.cudnn_benchmark",
    "MODEL.WEIGHTS": "train.init_checkpoint",
    "MODEL.DEVICE": "train.device",
    "SOLVER.AMP.ENABLED": "train.amp.enabled",
    "SOLVER.CLIP_GRADIENTS.ENABLED": "train.clip_gradients.enabled",
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "train.clip_gradients.clip_type",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": "train.clip_gradients.clip_value",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": "train.clip_gradients.norm_type",
    "SOLVER.ACCUMULATE": "train.accumulate",
    "SOLVER.BASE_LR": "optimizer.lr",
    "SOLVER.EMA_DECAY": "train.ema_decay",
    "SOLVER.REFERENCE_IMS_PER_BATCH": "train.reference_batch_size",
    "SOLVER.MAX_ITER": "train.max_iter",
    "SOLVER.MAX_EPOCHS": "train.max_epochs",
    "SOLVER.IMAGES_PER_EPOCH": "train.images_per_epoch",
    "SOLVER.CHECKPOINT_PERIOD": "train.checkpointer.period",
    "SOLVER.CHECKPOINT_PERIOD_EPOCHS": "train.checkpointer.period_epochs",
    "SOLVER.CHECKPOINT_MAX_TO_KEEP": "train.checkpointer.max_to_keep",
    "TEST.EVAL_IN_LOOP": "train.eval_in_loop",
    "TEST.EVAL_PERIOD": "train.eval_period",
    "TEST.EVAL_PERIOD_EPOCHS": "train.eval_period_epochs",
    "TEST.VAL_LOSS": "train.val_loss",
    "TEST.NUM_PICTURES": "train.num_pictures",
    "EARLY_STOPPING.PATIENCE": "train.early_stopping.patience",
    "EARLY_STOPPING.METRIC": "train.early_stopping.metric",
    "EARLY_STOPPING.MODE": "train.early_stopping.mode",
    "EARLY_STOPPING.MIN_DELTA": "train.early_stopping.min_delta",
    "EARLY_STOPPING.WARMUP_EVALS": "train.early_stopping.warmup_evals",
    "INPUT.FAST_RESIZE": "dataloader.train.mapper.fast_resize",
    "DATASETS.TRAIN": "dataloader.train.dataset.names",
    "DATALOADER.RANDOM_SUBSET_RATIO": "dataloader.train.random_subset_ratio",
    "DATALOADER.RANDOM_SUBSET_SEED": "dataloader.train.random_subset_seed",
    "SOLVER.IMS_PER_BATCH": "dataloader.train.total_batch_size",
    "DATASETS.TEST": "dataloader.test.dataset.names",
    "DATALOADER.NUM_WORKERS": "dataloader.test.num_workers",
    "TEST.IMS_PER_BATCH": "dataloader.test.batch_size",
    "TEST.RANDOM_SUBSET_RATIO": "dataloader.test.random_subset_ratio",
    "TEST.RANDOM_SUBSET_SEED": "dataloader.test.random_subset_seed",
    # Sizes of heads, which follow from the data set.
    "MODEL.ROI_HEADS.NUM_CLASSES": "model.roi_heads.num_classes",
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": "model.roi_heads.keypoint_head.num_keypoints",
    "MODEL.RETINANET.NUM_CLASSES": "model.num_classes",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "model.sem_seg_head.num_classes",
}
# The same for messages, which also name keys that the engine does not read.
NAMES = KEYS | {
    "SOLVER.WARMUP_ITERS": "lr_multiplier.warmup_length",
    "DATALOADER.NUM_WORKERS": "dataloader.train.num_workers",  # which that of the test follows
    "INPUT.MIN_SIZE_TRAIN": "dataloader.train.mapper.augmentations.0.short_edge_length",
}
# What else may be in these two nodes; other keys are mistyped. A node of your own has any keys.
NODES = {
    "train": ("train.ddp.",),
    "dataloader.test": ("dataloader.test.mapper.",),
}
UNKNOWN = object()


def read_config(config_file: str, overrides: list[str] = ()) -> CfgNode:
    """The file, then the overrides `key=value key=value ...`.

    Returns:
        the keys that the engine reads, and in `LAZY` the config itself.

    Raises:
        ValueError: a missing file, an unknown key (with the nearest one), an override that cannot
            be read, or a value of another type or out of its range.
    """
    if not Path(config_file).is_file():
        raise ValueError(f"there is no config file '{config_file}'. Type e.g. configs/smoke.py.")
    lazy = LazyConfig.load(config_file)
    missing = {"model", "optimizer", "lr_multiplier", "dataloader", "train"} - set(lazy)
    if missing:
        raise ValueError(
            f"config file '{config_file}' has no {', '.join(sorted(missing))}. What an experiment "
            "does not define it imports: from .base import dataloader, lr_multiplier, ..."
        )
    given = _override(lazy, overrides)
    _check_keys(lazy)
    cfg = default_config()
    cfg["LAZY"] = lazy
    for key, name in KEYS.items():
        value = OmegaConf.select(lazy, name)
        if isinstance(value, ListConfig):
            value = tuple(value)
        if key.startswith("DATASETS.") and isinstance(value, str):
            value = (value,)
        if isinstance(get_key(cfg, key), float) and isinstance(value, int):
            value = float(value)
        if value is not None:
            try:
                cfg.merge_from_list([key, value])
            except ValueError as error:
                raise ValueError(f"{name} is {value!r}. {error}") from error
    roi_heads = OmegaConf.select(lazy, "model.roi_heads", default={})
    cfg.MODEL.MASK_ON = "mask_head" in roi_heads
    cfg.MODEL.KEYPOINT_ON = "keypoint_head" in roi_heads
    in_file = {}
    for iterations, epochs in EPOCHS.items():  # the file's number of epochs counts, if it has one
        key = iterations if get_key(cfg, epochs) is None else epochs
        in_file[key] = get_key(cfg, key)
    choose_units(cfg, [(config_file, in_file), ("the command line", given)])
    check_values(cfg)
    set_defaults(cfg, config_file)
    return cfg


def get_config(config_file: str, overrides: list[str] = ()) -> CfgNode:
    """`read_config`, with the project's data sets registered and the model's classes set by them.

    Raises:
        KeyError, ValueError: as `read_config` and `set_classes`.
    """
    cfg = read_config(config_file, overrides)
    register_datasets()
    set_classes(cfg)
    _put_back(cfg)
    return cfg


def override(key: str, value) -> list[str]:
    """The words of a command line that give a key of the engine another value."""
    value = list(value) if isinstance(value, tuple) else value
    return [f"{NAMES[key]}={value}"]


def write_config(cfg: CfgNode, file: Path):
    """Writes it, as YAML, so that it can be read again."""
    _put_back(cfg)
    LazyConfig.save(cfg.LAZY, str(file))


def build_model(cfg) -> torch.nn.Module:
    model = instantiate(cfg.LAZY.model).to(cfg.MODEL.DEVICE)
    if cfg.MODEL.DEVICE == "cpu":
        use_fast_roi_align(model)
    return model


def build_optimizer(cfg, model) -> torch.optim.Optimizer:
    node = copy.deepcopy(cfg.LAZY.optimizer)
    node.params.model = model
    if "lr" in node:
        node.lr = cfg.SOLVER.BASE_LR  # which may have been scaled
    return maybe_add_gradient_clipping(cfg, instantiate(node))


def build_lr_scheduler(cfg, optimizer) -> LRMultiplier:
    multiplier = _UpToTheEnd(instantiate(cfg.LAZY.lr_multiplier))
    return LRMultiplier(optimizer, multiplier, cfg.SOLVER.MAX_ITER)


class _UpToTheEnd(ParamScheduler):
    """A schedule that can also be asked after the last iteration: a constant one cannot."""

    def __init__(self, schedule: ParamScheduler):
        self.schedule = schedule

    def __call__(self, where: float) -> float:
        return self.schedule(min(where, 1 - 1e-6))


def build_mapper(cfg, is_train: bool, ground_truth: bool | None = None):
    """The mapper of `dataloader.train` or `dataloader.test`.

    Args:
        ground_truth: whether it keeps the annotations; as the config says, if it is None.
    """
    node = copy.deepcopy(cfg.LAZY.dataloader["train" if is_train else "test"].mapper)
    if ground_truth is not None:
        node.ground_truth = ground_truth
    return instantiate(node)


def train_loader_arguments(cfg) -> dict:
    """The arguments of detectron2's `build_detection_train_loader`."""
    node = cfg.LAZY.dataloader.train
    arguments = {
        key: instantiate(value)
        for key, value in node.items()
        if not key.startswith("random_subset")
    }
    if not arguments.get("sampler"):
        arguments["sampler"] = TrainingSampler(len(arguments["dataset"]), seed=cfg.SEED)
    return arguments


def _override(lazy: DictConfig, overrides) -> dict:
    """Applies overrides, and returns the engine's keys among them with their values."""
    late = [word for word in overrides if word.startswith("--")]
    if late:
        raise ValueError(f"{late[0]} came after the config overrides. Options go before key=value.")
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise ValueError(f"config overrides are key=value. {error}") from error
    for override in parsed:
        key = override.key_or_group
        node = OmegaConf.select(lazy, key.rpartition(".")[0] or "")
        is_argument = isinstance(node, DictConfig) and "_target_" in node  # its call will check it
        if OmegaConf.select(lazy, key, default=UNKNOWN) is UNKNOWN and not is_argument:
            raise ValueError(f"there is no config key '{key}'.{_nearest(key, lazy)}")
    LazyConfig.apply_overrides(lazy, list(overrides))
    keys = {name: key for key, name in KEYS.items()}
    return {
        keys[override.key_or_group]: override.value()
        for override in parsed
        if override.key_or_group in keys
    }


def _check_keys(lazy):
    known = KEYS.values()
    for node, others in NODES.items():
        for name in _names(OmegaConf.select(lazy, node), f"{node}."):
            if name not in known and not name.startswith(others):
                raise ValueError(f"there is no config key '{name}'.{_nearest(name, known)}")


def _nearest(name, names):
    names = _names(names) if isinstance(names, DictConfig) else names
    near = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _names(node, prefix=""):
    """The keys of a node and all nodes in it, written with dots."""
    return list(flat(OmegaConf.to_container(node, resolve=False), prefix))


def _put_back(cfg):
    """What the engine has found out goes into the config itself."""
    for key, name in KEYS.items():
        if OmegaConf.select(cfg.LAZY, name, default=UNKNOWN) is not UNKNOWN:
            value = get_key(cfg, key)
            value = list(value) if isinstance(value, tuple) else value
            OmegaConf.update(cfg.LAZY, name, value, merge=False)
