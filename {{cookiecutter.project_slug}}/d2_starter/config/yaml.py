"""Reads experiments from YAML configs, with detectron2's keys and the library's."""

import copy
import difflib
import weakref
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.solver import build_lr_scheduler

from ..evaluation.tiles import check_tiles
from ..layers.timm_fpn import set_timm_pixels
from .experiment import Experiment, Key
from .keys import add_starter_config
from .model_keys import add_augmentation_keys, add_model_keys, check_model_values
from .optimizer import build_optimizer

_BY_CONFIG = weakref.WeakValueDictionary()  # id of a config: its experiment


class YamlExperiment(Experiment):
    """An experiment whose config is detectron2's CfgNode.

    Args:
        config_file: YAML, which may build on another file (`_BASE_`).
        overrides: KEY VALUE KEY VALUE ..., which win over the file.
        add_config: adds the project's own keys to a CfgNode.
        mapper: called as mapper(cfg, is_train=..., ground_truth=...), returns a mapper.
        evaluators: of the project's own, called with the name of a test set.

    Raises:
        ValueError: a missing file, an unknown key (with the nearest one), overrides out of pairs,
            a length given both in iterations and epochs, or a value out of its range.
    """

    output_dir = Key("OUTPUT_DIR")
    device = Key("MODEL.DEVICE")
    weights = Key("MODEL.WEIGHTS")
    seed = Key("SEED")
    cudnn_benchmark = Key("CUDNN_BENCHMARK")
    amp = Key("SOLVER.AMP.ENABLED")
    log_period = Key("LOG_PERIOD")
    num_pictures = Key("TEST.NUM_PICTURES")
    report = Key("TEST.REPORT")
    fixes = Key("DATASETS.FIXES", ())
    train_names = Key("DATASETS.TRAIN")
    test_names = Key("DATASETS.TEST")
    train_subset_ratio = Key("DATALOADER.RANDOM_SUBSET_RATIO")
    train_subset_seed = Key("DATALOADER.RANDOM_SUBSET_SEED")
    test_subset_ratio = Key("TEST.RANDOM_SUBSET_RATIO")
    test_subset_seed = Key("TEST.RANDOM_SUBSET_SEED")
    num_workers = Key("DATALOADER.NUM_WORKERS")
    test_batch_size = Key("TEST.IMS_PER_BATCH")
    batch_size = Key("SOLVER.IMS_PER_BATCH")
    accumulate = Key("SOLVER.ACCUMULATE")
    base_lr = Key("SOLVER.BASE_LR")
    reference_batch_size = Key("SOLVER.REFERENCE_IMS_PER_BATCH")
    ema_decay = Key("SOLVER.EMA_DECAY")
    max_to_keep = Key("SOLVER.CHECKPOINT_MAX_TO_KEEP")
    images_per_epoch = Key("SOLVER.IMAGES_PER_EPOCH")
    max_iter = Key("SOLVER.MAX_ITER")
    max_epochs = Key("SOLVER.MAX_EPOCHS")
    warmup_iters = Key("SOLVER.WARMUP_ITERS")
    warmup_epochs = Key("SOLVER.WARMUP_EPOCHS")
    steps = Key("SOLVER.STEPS")
    steps_epochs = Key("SOLVER.STEPS_EPOCHS", ())
    checkpoint_period = Key("SOLVER.CHECKPOINT_PERIOD")
    checkpoint_period_epochs = Key("SOLVER.CHECKPOINT_PERIOD_EPOCHS")
    eval_period = Key("TEST.EVAL_PERIOD")
    eval_period_epochs = Key("TEST.EVAL_PERIOD_EPOCHS")
    eval_in_loop = Key("TEST.EVAL_IN_LOOP")
    val_loss = Key("TEST.VAL_LOSS")
    stop_metric = Key("EARLY_STOPPING.METRIC")
    stop_mode = Key("EARLY_STOPPING.MODE")
    stop_patience = Key("EARLY_STOPPING.PATIENCE")
    stop_min_delta = Key("EARLY_STOPPING.MIN_DELTA")
    stop_warmup_evals = Key("EARLY_STOPPING.WARMUP_EVALS")
    EPOCHS = Experiment.EPOCHS | {"warmup_iters": "warmup_epochs", "steps": "steps_epochs"}
    # Heads, and what of the data decides their size: things, stuff (or both), keypoints. And the
    # label of pixels without a class.
    HEADS = (
        ("MODEL.ROI_HEADS.NUM_CLASSES", "things"),
        ("MODEL.RETINANET.NUM_CLASSES", "things"),
        ("MODEL.POINT_HEAD.NUM_CLASSES", "things or stuff"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "stuff"),
        ("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "keypoints"),
        ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "ignored"),
    )

    def __init__(
        self,
        config_file: str,
        overrides: list[str] = (),
        *,
        add_config: Callable[[CfgNode], None],
        mapper: Callable,
        evaluators: Sequence[Callable[[str], DatasetEvaluator]] = (),
    ):
        super().__init__(evaluators)
        self._mapper = mapper
        self.config = default_config(add_config)
        self._defaults = self.config.clone()
        _check_overrides(overrides)
        given = _read(config_file)
        for iterations, epochs in self.EPOCHS.items():
            self._settle_unit(given, config_file, iterations, epochs)
        try:
            self.config.merge_from_other_cfg(CfgNode(given))
            given = dict(zip(overrides[::2], overrides[1::2]))
            for epochs in map(self.name_of, self.EPOCHS.values()):
                if epochs in given:
                    self.set_key(epochs, None)  # so that 1.5 epochs can take the place of 2
            self.config.merge_from_list(list(overrides))
        except (KeyError, AssertionError) as error:
            raise ValueError(self._unknown(str(error.args[0]))) from error
        for iterations, epochs in self.EPOCHS.items():
            names = self.name_of(iterations), self.name_of(epochs)
            if all(given.get(name, "None") not in ("None", "()", "[]") for name in names):
                raise _contradiction("the command line", names, [given[name] for name in names])
            if names[0] in given:  # the command line wins over the file
                setattr(self, epochs, getattr(type(self), epochs).default)
        sampler, ratio = self.config.DATALOADER.SAMPLER_TRAIN, self.train_subset_ratio
        if ratio < 1 and sampler not in ("TrainingSampler", "RandomSubsetTrainingSampler"):
            self._refuse("train_subset_ratio", f"{sampler} takes no subset: remove one of both.")
        self.check()
        check_model_values(self.config)
        check_tiles(self.tiles, "TEST.TILES")
        self._set_defaults(config_file, self._defaults.OUTPUT_DIR)
        self._remember()

    def _remember(self):
        self._read_data = _data_keys(self.config)
        _BY_CONFIG[id(self.config)] = self

    @classmethod
    def of(cls, config: CfgNode, mapper: Callable | None = None) -> "YamlExperiment":
        """Returns the experiment that has this config, or makes one.

        Args:
            config: made by the user; in a copy, keys of the library that it lacks get defaults.
            mapper: as above; None: detectron2's DatasetMapper, without validation loss.
        """
        found = _BY_CONFIG.get(id(config))
        if found and found.config is config:
            keys = _data_keys(config)
            if found._read_data != keys:  # the user changed them since
                found._train_arguments, found._read_data = None, keys
            return found
        experiment = cls.__new__(cls)
        Experiment.__init__(experiment)
        experiment._mapper = mapper or _detectron2_mapper
        experiment._defaults = default_config(lambda cfg: None)
        experiment.config = _add_missing(config.clone(), experiment._defaults)
        if experiment.device == "cuda" and not torch.cuda.is_available():
            experiment.device = "cpu"
        experiment.check()
        experiment._remember()
        return experiment

    def _settle_unit(self, given, config_file, iterations, epochs):
        # In a file, with all that it builds on, a length is in iterations or in epochs.
        names = self.name_of(iterations), self.name_of(epochs)
        values = [reduce(lambda n, k: (n or {}).get(k), name.split("."), given) for name in names]
        if None not in values and CfgNode._decode_cfg_value(values[1]) not in (None, (), []):
            raise _contradiction(config_file, names, values)

    def _unknown(self, message):
        key = message.rpartition(" ")[2]
        near = difflib.get_close_matches(key, flatten(self._defaults), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return (
            f"{message}.{hint} The project's own keys are declared in config.py, the library's in "
            "d2_starter/config/keys.py, detectron2's in detectron2/config/defaults.py."
        )

    def get_key(self, name, default=None):
        return reduce(getattr, name.split("."), self.config)

    def set_key(self, name, value):
        *nodes, last = name.split(".")
        setattr(reduce(getattr, nodes, self.config), last, value)

    def save(self, path):
        config = self.config.clone()
        for iterations, epochs in self.EPOCHS.items():
            if getattr(self, epochs) not in (None, ()):  # read again, both would contradict
                *nodes, last = self.name_of(iterations).split(".")
                del reduce(getattr, nodes, config)[last]
        Path(path).write_text(config.dump(), encoding="utf-8")

    def flat(self):
        return flatten(self.config)

    def set_classes(self, things, stuff, keypoints, ignore_label):
        set_timm_pixels(self.config, self._defaults)  # now: reading a config needs no timm
        counts = {"things": things, "stuff": stuff, "keypoints": keypoints}
        counts["things or stuff"] = things or stuff
        counts["ignored"] = ignore_label
        for name, kind in self.HEADS:
            number, given = counts[kind], self.get_key(name)
            default = reduce(getattr, name.split("."), self._defaults)
            if number is not None and given not in (number, default):
                raise ValueError(
                    f"{name} is {given} in the config, but '{self.train_names[0]}' has {number}. "
                    "Remove the key: it follows from the dataset."
                )
            self.set_key(name, given if number is None else number)
        if keypoints and len(self.config.TEST.KEYPOINT_OKS_SIGMAS) != keypoints:
            # COCO measured its sigmas for 17 human keypoints; they range from 0.026 to 0.107.
            self.config.TEST.KEYPOINT_OKS_SIGMAS = [0.05] * keypoints

    @property
    def uses_masks(self):
        return self.config.MODEL.MASK_ON

    @property
    def uses_keypoints(self):
        return self.config.MODEL.KEYPOINT_ON

    @property
    def uses_rotated_boxes(self):
        return "Rotated" in self.config.MODEL.ANCHOR_GENERATOR.NAME

    @property
    def max_detections(self):
        return self.config.TEST.DETECTIONS_PER_IMAGE

    @property
    def keypoint_sigmas(self):
        return self.config.TEST.KEYPOINT_OKS_SIGMAS

    @property
    def tiles(self):
        return {name.lower(): value for name, value in self.config.TEST.TILES.items()}

    @tiles.setter
    def tiles(self, values):
        self.config.TEST.TILES.update({name.upper(): value for name, value in values.items()})

    @property
    def test_augmentation(self):
        return {name.lower(): value for name, value in self.config.TEST.AUG.items()}

    @test_augmentation.setter
    def test_augmentation(self, values):
        self.config.TEST.AUG.update({name.upper(): value for name, value in values.items()})

    def _build_model(self):
        return build_model(self.config)

    def _build_mapper(self, is_train, ground_truth):
        return self._mapper(self.config, is_train=is_train, ground_truth=ground_truth)

    def _read_train_arguments(self):
        mapper = self.build_mapper(is_train=True)
        return build_detection_train_loader.from_config(self.config, mapper=mapper)

    def build_optimizer(self, model):
        return build_optimizer(self.config, model)

    def set_epoch_length(self):
        super().set_epoch_length()
        # detectron2 ignores steps after the end. One at the end changes nothing, but fvcore refuses it.
        self.steps = tuple(step for step in self.steps if step != self.max_iter)

    def build_lr_scheduler(self, optimizer):
        return build_lr_scheduler(self.config, optimizer)

    def override(self, attribute: str, value) -> list[str]:
        """Returns the words of a command line that give a key another value."""
        return [self.name_of(attribute), str(value)]


def _data_keys(cfg):
    # What of a config decides what the training loader delivers, but for a seed that setup draws.
    loader = {key: value for key, value in cfg.DATALOADER.items() if key != "RANDOM_SUBSET_SEED"}
    return str((cfg.DATASETS, loader, cfg.INPUT, cfg.SOLVER.IMS_PER_BATCH))


def _detectron2_mapper(cfg, is_train, ground_truth=None):
    return DatasetMapper(cfg, is_train=is_train)


def _add_missing(config, defaults):
    config.defrost()
    for key, value in defaults.items():
        if isinstance(value, CfgNode) and key in config:
            _add_missing(config[key], value)
        elif key not in config:
            config[key] = copy.deepcopy(value)
    return config


def default_config(add_config: Callable[[CfgNode], None]) -> CfgNode:
    """Returns all keys with their defaults: detectron2's, PointRend's, the library's, yours."""
    cfg = get_cfg()
    add_pointrend_config(cfg)
    add_starter_config(cfg)
    add_model_keys(cfg)
    add_augmentation_keys(cfg)
    add_config(cfg)
    return cfg


def flatten(nodes: dict, prefix: str = "") -> dict:
    """Returns {"SOLVER": {"MAX_ITER": 1}} as {"SOLVER.MAX_ITER": 1}."""
    keys = {}
    for key, value in nodes.items():
        is_node = isinstance(value, dict)
        keys |= flatten(value, f"{prefix}{key}.") if is_node else {prefix + key: value}
    return keys


def _check_overrides(overrides):
    late = [word for word in overrides if word.startswith("--")]
    if late:
        raise ValueError(f"{late[0]} came after the config overrides. Options go before KEY VALUE.")
    if len(overrides) % 2:
        raise ValueError(f"config overrides are pairs KEY VALUE; '{overrides[-1]}' has no value.")


def _read(config_file) -> dict:
    if not Path(config_file).is_file():
        raise ValueError(f"there is no config file '{config_file}'. Type e.g. configs/smoke.yaml.")
    try:  # data alone: detectron2's own reading would run what a tag of Python says
        nodes = CfgNode.load_yaml_with_base(str(config_file), allow_unsafe=False)
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise ValueError(f"config file '{config_file}' cannot be read: {error}") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"config file '{config_file}' has no keys and values.") from error
    if not isinstance(nodes, dict):
        raise ValueError(f"config file '{config_file}' has no keys and values, but {nodes!r}.")
    nodes.pop("VERSION", None)
    return nodes


def _contradiction(where, names, values):
    return ValueError(
        f"{names[0]} {values[0]} and {names[1]} {values[1]} contradict each other in {where} (and "
        f"what it builds on). Keep one; {names[1]}: null takes back what a base config says."
    )
