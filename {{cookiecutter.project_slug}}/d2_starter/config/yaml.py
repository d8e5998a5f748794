"""An experiment: its config file, and what is built from it."""

import difflib
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.modeling import build_model as build_plain_model
from detectron2.solver import build_optimizer

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
    set_key,
)
from .data.dataset import register_datasets
from .data.dataset_mapper import Mapper
from .modelling.roi_align import use_fast_roi_align

__all__ = ["build_optimizer"]  # detectron2's

NAMES = {}  # how config files spell a key, where it is not as the engine does


def read_config(config_file: str, overrides: list[str] = ()) -> CfgNode:
    """The defaults, then the file, then the overrides `KEY VALUE KEY VALUE ...`.

    Raises:
        ValueError: a missing file, an unknown key (with the nearest one), overrides out of pairs, a
            length given both in iterations and epochs, or a value out of its range.
    """
    late = [word for word in overrides if word.startswith("--")]
    if late:
        raise ValueError(f"{late[0]} came after the config overrides. Options go before KEY VALUE.")
    if len(overrides) % 2:
        raise ValueError(f"config overrides are pairs KEY VALUE; '{overrides[-1]}' has no value.")
    layers = _layers(config_file)
    cfg = default_config()
    try:
        cfg.merge_from_file(config_file)
        for key in set(EPOCHS.values()).intersection(overrides):
            set_key(cfg, key, None)  # so that 1.5 epochs can take the place of 2
        cfg.merge_from_list(list(overrides))
    except (KeyError, AssertionError) as error:
        message = str(error.args[0])
        key = message.rpartition(" ")[2]
        near = difflib.get_close_matches(key, flat(default_config()), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"{message}.{hint} The project's own keys are declared in config.py, detectron2's in "
            "detectron2/config/defaults.py."
        ) from error
    layers.append(("the command line", {key: get_key(cfg, key) for key in overrides[::2]}))
    choose_units(cfg, layers)
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
    return cfg


def override(key: str, value) -> list[str]:
    """The words of a command line that give a key of the engine another value."""
    return [key, str(value)]


def write_config(cfg: CfgNode, file: Path):
    """Writes it so that it can be read again."""
    file.write_text(cfg.dump(), encoding="utf-8")


def build_model(cfg) -> torch.nn.Module:
    """detectron2's `build_model`, with layers that are faster to train where it is on a CPU."""
    model = build_plain_model(cfg)
    if cfg.MODEL.DEVICE == "cpu":
        use_fast_roi_align(model)
    return model


def build_mapper(cfg, is_train: bool, ground_truth: bool | None = None) -> Mapper:
    return Mapper(cfg, is_train=is_train, ground_truth=ground_truth)


def train_loader_arguments(cfg) -> dict:
    """The arguments of detectron2's `build_detection_train_loader`."""
    mapper = build_mapper(cfg, is_train=True)
    return build_detection_train_loader.from_config(cfg, mapper=mapper)


def _layers(config_file):
    """The keys and values of each file that a config is made of, what it builds on first."""
    if not Path(config_file).is_file():
        raise ValueError(f"there is no config file '{config_file}'. Type e.g. configs/smoke.yaml.")
    try:
        nodes = yaml.safe_load(Path(config_file).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"config file '{config_file}' cannot be read: {error}") from error
    if not isinstance(nodes, dict):
        raise ValueError(f"config file '{config_file}' has no keys and values, but {nodes!r}.")
    bases = nodes.pop("_BASE_", [])
    layers = []
    for base in [bases] if isinstance(bases, str) else bases:
        layers += _layers(Path(config_file).parent / Path(base).expanduser())
    return [*layers, (config_file, flat(nodes))]
