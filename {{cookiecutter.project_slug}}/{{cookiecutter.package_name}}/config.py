"""The config: detectron2's keys, the project's own keys, and what follows from the data set."""

import difflib
import logging
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.point_rend import add_pointrend_config

from . import modelling  # noqa: F401  registers the project's components
from .data.catalog import get_metadata
from .data.dataset import register_datasets

logger = logging.getLogger(__name__)


def add_project_config(cfg: CfgNode):
    """Adds the project's own keys. A key that is not declared here is an error in a config file."""
    # Iterations between two lines of the log, of metrics.json and of TensorBoard. The scalars are
    # smoothed (median) over as many iterations.
    cfg.LOG_PERIOD = 20
    # Number of test images that are drawn with their predictions when a run ends; 0 draws none.
    cfg.TEST.NUM_PICTURES = 8


def default_config() -> CfgNode:
    """All keys there are, with their defaults."""
    cfg = get_cfg()
    add_pointrend_config(cfg)
    add_project_config(cfg)
    return cfg


def read_config(config_file: str, overrides: list[str] = ()) -> CfgNode:
    """The defaults, then the file, then the overrides `KEY VALUE KEY VALUE ...`.

    Raises:
        ValueError: a missing file, an unknown key (with the nearest one) or overrides out of pairs.
    """
    if not Path(config_file).is_file():
        raise ValueError(f"there is no config file '{config_file}'. Type e.g. configs/smoke.yaml.")
    late = [word for word in overrides if word.startswith("--")]
    if late:
        raise ValueError(f"{late[0]} came after the config overrides. Options go before KEY VALUE.")
    if len(overrides) % 2:
        raise ValueError(f"config overrides are pairs KEY VALUE; '{overrides[-1]}' has no value.")
    cfg = default_config()
    try:
        cfg.merge_from_file(config_file)
        cfg.merge_from_list(list(overrides))
    except (KeyError, AssertionError) as error:
        message = str(error.args[0])
        key = message.rpartition(" ")[2]
        near = difflib.get_close_matches(key, _keys(default_config()), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"{message}.{hint} The project's own keys are declared in config.py, detectron2's in "
            "detectron2/config/defaults.py."
        ) from error
    if cfg.OUTPUT_DIR == default_config().OUTPUT_DIR:
        cfg.OUTPUT_DIR = str(Path("output", Path(config_file).stem))
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def get_config(config_file: str, overrides: list[str] = ()) -> CfgNode:
    """`read_config`, with the project's data sets registered and the model's classes set by them.

    Raises:
        KeyError: a data set that is not registered.
        ValueError: as `read_config`; a number of classes, or a test set, that the training data
            set contradicts.
    """
    cfg = read_config(config_file, overrides)
    register_datasets()
    _set_classes(cfg)
    return cfg


def _set_classes(cfg):
    """Sets the sizes of the heads from the classes of the data set: they cannot disagree."""
    name, *others = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    metadata = get_metadata(name)
    for other in others:
        for kind in ("thing_classes", "stuff_classes"):
            if get_metadata(other).get(kind) != metadata.get(kind):
                raise ValueError(
                    f"the {kind} of '{name}' and '{other}' differ: {metadata.get(kind)} and "
                    f"{get_metadata(other).get(kind)}. Data sets used together need the same ones."
                )
    things = len(metadata.get("thing_classes") or ())
    stuff = len(metadata.get("stuff_classes") or ())
    keypoints = len(metadata.get("keypoint_names") or ())
    default = default_config().MODEL
    for head, key, number in (
        ("ROI_HEADS", "NUM_CLASSES", things),
        ("RETINANET", "NUM_CLASSES", things),
        ("POINT_HEAD", "NUM_CLASSES", things or stuff),
        ("SEM_SEG_HEAD", "NUM_CLASSES", stuff),
        ("ROI_KEYPOINT_HEAD", "NUM_KEYPOINTS", keypoints),
    ):
        given = cfg.MODEL[head][key]
        if number and given not in (number, default[head][key]):
            raise ValueError(
                f"MODEL.{head}.{key} is {given} in the config, but '{name}' has {number}. "
                "Remove the key: it follows from the data set."
            )
        cfg.MODEL[head][key] = number or given
    if keypoints and len(cfg.TEST.KEYPOINT_OKS_SIGMAS) != keypoints:
        # COCO measured its sigmas for 17 human keypoints; they range from 0.026 to 0.107.
        cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.05] * keypoints


def _keys(cfg, prefix=""):
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key
