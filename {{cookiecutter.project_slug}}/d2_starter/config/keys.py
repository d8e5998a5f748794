"""The config: detectron2's keys, the project's own keys, and what follows from the data set."""

import logging
import re
from functools import reduce
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.point_rend import add_pointrend_config

from .data.catalog import get_metadata

logger = logging.getLogger(__name__)

# What can be given in iterations, by detectron2's key, or in epochs, by the project's.
EPOCHS = {
    "SOLVER.MAX_ITER": "SOLVER.MAX_EPOCHS",
    "SOLVER.WARMUP_ITERS": "SOLVER.WARMUP_EPOCHS",
    "SOLVER.STEPS": "SOLVER.STEPS_EPOCHS",
    "SOLVER.CHECKPOINT_PERIOD": "SOLVER.CHECKPOINT_PERIOD_EPOCHS",
    "TEST.EVAL_PERIOD": "TEST.EVAL_PERIOD_EPOCHS",
}


def add_project_config(cfg: CfgNode):
    """Adds the project's own keys. A key that is not declared here is an error in a config file."""
    # Iterations between two lines of the log, of metrics.json and of TensorBoard. The scalars are
    # smoothed (median) over as many iterations.
    cfg.LOG_PERIOD = 20

    # The schedule in epochs; fractions are possible. Give each of these or its neighbour in
    # iterations. Where an experiment, or the command line, gives the other than the config that it
    # builds on, what comes later counts.
    cfg.SOLVER.MAX_EPOCHS = None
    cfg.SOLVER.WARMUP_EPOCHS = None
    cfg.SOLVER.STEPS_EPOCHS = ()
    cfg.SOLVER.CHECKPOINT_PERIOD_EPOCHS = None
    cfg.TEST.EVAL_PERIOD_EPOCHS = None
    # Parts that a batch of IMS_PER_BATCH is computed in, one after the other, with the memory of
    # one. Their gradients are averaged, and an iteration is still one step of the optimizer. What
    # a layer or a loss averages over a batch (batch normalization, the mask loss over its objects)
    # it averages over a part.
    cfg.SOLVER.ACCUMULATE = 1
    # The batch size that BASE_LR is meant for. With another IMS_PER_BATCH the learning rate is
    # scaled in proportion (Goyal et al., 2017), and the log says so; 0: it is always BASE_LR.
    cfg.SOLVER.REFERENCE_IMS_PER_BATCH = 0
    # Decay, in an iteration, of a moving average of the weights, such as 0.999. It is the average
    # that is evaluated, and saved as the model; checkpoints also have what --resume goes on from.
    # 0: no average.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Number of the newest checkpoints that are kept; 0 keeps all. Besides, the best is kept, the
    # last, and those that evaluators work on or have not evaluated yet.
    cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP = 0
    # Images that the training loader delivers in an epoch. Set by the project, from the data.
    cfg.SOLVER.IMAGES_PER_EPOCH = 0.0

    # Resize training images by PyTorch instead of Pillow, in a quarter of the time. Some of a
    # photograph's values are then different, by 1 or 2 of 255: at most sizes fewer than 2 in 100,
    # at some 7. Test images are resized by Pillow, as in all of detectron2's evaluations.
    cfg.INPUT.FAST_RESIZE = True

    # Train on a random share of the images, by detectron2's RandomSubsetTrainingSampler.
    # The seed chooses them; -1 chooses others in each new run.
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0
    cfg.DATALOADER.RANDOM_SUBSET_SEED = -1
    # The same for test sets; here the images are the same at every evaluation.
    cfg.TEST.RANDOM_SUBSET_RATIO = 1.0
    cfg.TEST.RANDOM_SUBSET_SEED = 0

    # Whether the training loop evaluates, every EVAL_PERIOD and at the end. If not, it saves a
    # checkpoint every EVAL_PERIOD instead (or CHECKPOINT_PERIOD, if that is 0), and
    # tools/evaluate_checkpoints.py evaluates those, beside the training or on other machines.
    cfg.TEST.EVAL_IN_LOOP = True
    # Images in a batch of an evaluation, on each GPU. Only images of one size share a batch.
    cfg.TEST.IMS_PER_BATCH = 1
    # Whether an evaluation computes the losses on the test set too, logged as val_loss/...
    cfg.TEST.VAL_LOSS = True
    # Number of test images that are drawn with their predictions when a run ends; 0 draws none.
    cfg.TEST.NUM_PICTURES = 8

    # Training stops after so many evaluations in a row without improvement; 0: never.
    cfg.EARLY_STOPPING = CfgNode()
    cfg.EARLY_STOPPING.PATIENCE = 0
    # What improves: a name as in metrics.json. "" is the AP (or PQ, mIoU) of all that the model
    # predicts, see engine/early_stopping.py. It also decides which checkpoint is model_best.pth.
    cfg.EARLY_STOPPING.METRIC = ""
    # "max" or "min", whichever is better. "" is derived: "min" for losses, "max" for what
    # detectron2's evaluators measure.
    cfg.EARLY_STOPPING.MODE = ""
    # An improvement is one by more than this, in the metric's own unit: AP goes to 100.
    cfg.EARLY_STOPPING.MIN_DELTA = 0.0
    # Evaluations at the start that early stopping does not look at. With STEPS, think of those
    # before the last step: AP may stand still until the learning rate falls.
    cfg.EARLY_STOPPING.WARMUP_EVALS = 0


def default_config() -> CfgNode:
    """All keys there are, with their defaults."""
    cfg = get_cfg()
    add_pointrend_config(cfg)
    add_project_config(cfg)
    return cfg


def set_classes(cfg):
    """Sets the sizes of the heads from the classes of the data set: they cannot disagree.

    Raises:
        KeyError: a data set that is not registered.
        ValueError: a number of classes, or a test set, that the training data set contradicts.
    """
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


def choose_units(cfg, layers: list[tuple[str, dict]]):
    """Of a length in iterations and one in epochs, keeps the one that was given last.

    Args:
        layers: what the config is made of, in this order: where from, and its keys and values.

    Raises:
        ValueError: one layer gives both.
    """
    for iterations, epochs in EPOCHS.items():
        in_epochs = False
        for where, layer in layers:
            is_empty = CfgNode._decode_cfg_value(layer.get(epochs)) in (None, (), [])
            given = [key for key in (iterations, epochs) if key in layer]
            if is_empty and epochs in layer:
                given.remove(epochs)
            if len(given) == 2:
                raise ValueError(
                    f"{iterations} {layer[iterations]} and {epochs} {layer[epochs]} contradict "
                    f"each other: remove one of them from {where}."
                )
            in_epochs = given == [epochs] if given else in_epochs
        if not in_epochs:
            set_key(cfg, epochs, get_key(default_config(), epochs))


def check_values(cfg):
    """
    Raises:
        ValueError: a value that is out of its range, of the project's own keys and some others.
    """
    for key in EPOCHS.values():
        value = get_key(cfg, key)
        for number in value if isinstance(value, (list, tuple)) else [value]:
            is_number = isinstance(number, (int, float))
            if number is not None and not (is_number and 0 < number < float("inf")):
                raise ValueError(f"{key} is {value!r}. Give positive numbers of epochs.")
    for key in ("DATALOADER.RANDOM_SUBSET_RATIO", "TEST.RANDOM_SUBSET_RATIO"):
        if not 0 < get_key(cfg, key) <= 1:
            raise ValueError(f"{key} is {get_key(cfg, key)}. Give a share, from above 0 up to 1.")
    if cfg.DATALOADER.RANDOM_SUBSET_RATIO < 1:
        if cfg.DATALOADER.SAMPLER_TRAIN not in ("TrainingSampler", "RandomSubsetTrainingSampler"):
            raise ValueError(
                f"DATALOADER.SAMPLER_TRAIN {cfg.DATALOADER.SAMPLER_TRAIN} takes no subset: remove "
                f"it, or DATALOADER.RANDOM_SUBSET_RATIO {cfg.DATALOADER.RANDOM_SUBSET_RATIO}."
            )
    if cfg.SOLVER.ACCUMULATE < 1:
        raise ValueError(f"SOLVER.ACCUMULATE is {cfg.SOLVER.ACCUMULATE}. Give 1 or more parts.")
    if not 0 <= cfg.SOLVER.EMA_DECAY < 1:
        raise ValueError(
            f"SOLVER.EMA_DECAY is {cfg.SOLVER.EMA_DECAY}. Give a number from 0, which is no moving "
            "average, to below 1, such as 0.999."
        )
    if cfg.SOLVER.REFERENCE_IMS_PER_BATCH < 0:
        raise ValueError(
            f"SOLVER.REFERENCE_IMS_PER_BATCH is {cfg.SOLVER.REFERENCE_IMS_PER_BATCH}. Give the "
            "batch size that SOLVER.BASE_LR is for, or 0."
        )
    if cfg.DATALOADER.NUM_WORKERS < 0:
        raise ValueError(
            f"DATALOADER.NUM_WORKERS is {cfg.DATALOADER.NUM_WORKERS}. Give a number of processes, "
            "or 0 to load in the training's own."
        )
    if cfg.TEST.IMS_PER_BATCH < 1:
        raise ValueError(f"TEST.IMS_PER_BATCH is {cfg.TEST.IMS_PER_BATCH}. Give 1 or more images.")
    if cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP < 0:
        raise ValueError(
            f"SOLVER.CHECKPOINT_MAX_TO_KEEP is {cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP}. Give a number "
            "of checkpoints, or 0 to keep all."
        )
    if cfg.EARLY_STOPPING.MODE not in ("", "max", "min"):
        raise ValueError(f"EARLY_STOPPING.MODE is '{cfg.EARLY_STOPPING.MODE}'. Give max or min.")
    period = cfg.TEST.EVAL_PERIOD or cfg.TEST.EVAL_PERIOD_EPOCHS
    if cfg.EARLY_STOPPING.PATIENCE and not (period and cfg.DATASETS.TEST):
        raise ValueError(
            "EARLY_STOPPING.PATIENCE needs evaluations: give TEST.EVAL_PERIOD_EPOCHS (or "
            "TEST.EVAL_PERIOD) and DATASETS.TEST."
        )


def epochs_to_iterations(cfg: CfgNode, images_per_epoch: float):
    """Gives in iterations what the config gives in epochs; once, when the data are known.

    Args:
        images_per_epoch: what the training loader delivers, see `data.loader.training_images`.
    """
    cfg.SOLVER.IMAGES_PER_EPOCH = float(images_per_epoch)
    for iterations, epochs in EPOCHS.items():
        value = get_key(cfg, epochs)
        if isinstance(value, (list, tuple)) and value:
            set_key(cfg, iterations, tuple(_iterations(cfg, number) for number in value))
        elif value:
            set_key(cfg, iterations, max(1, _iterations(cfg, value)))
        # From here on, and in config.yaml, there are iterations only.
        set_key(cfg, epochs, get_key(default_config(), epochs))


def scale_learning_rate(cfg):
    """Scales the learning rate for `SOLVER.IMS_PER_BATCH`, if the config says what it is for."""
    reference, batch = cfg.SOLVER.REFERENCE_IMS_PER_BATCH, cfg.SOLVER.IMS_PER_BATCH
    if reference and reference != batch:
        given = cfg.SOLVER.BASE_LR
        cfg.SOLVER.BASE_LR = given * batch / reference
        # Read again, the config of this run is not scaled a second time.
        cfg.SOLVER.REFERENCE_IMS_PER_BATCH = batch
        logger.info(
            "The learning rate is %g: %g, which is for a batch of %d, scaled to one of %d",
            cfg.SOLVER.BASE_LR,
            given,
            reference,
            batch,
        )


def set_defaults(cfg, config_file: str):
    """Each experiment has a folder of its own; without a GPU it runs on the CPU."""
    if cfg.OUTPUT_DIR == default_config().OUTPUT_DIR:
        cfg.OUTPUT_DIR = str(Path("output", Path(config_file).stem))
    if cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"


def amp_dtype(cfg) -> torch.dtype:
    """What mixed precision mixes in: bfloat16 where the chip computes with it, else float16."""
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def spell(message: str, names: dict[str, str]) -> str:
    """A message that names keys as config files spell them, where that is not as here."""
    keys = "|".join(re.escape(key) for key in sorted(names, key=len, reverse=True))
    return re.sub(keys, lambda key: names[key[0]], message) if keys else message


def _iterations(cfg, epochs):
    return round(epochs * cfg.SOLVER.IMAGES_PER_EPOCH / cfg.SOLVER.IMS_PER_BATCH)


def flat(nodes: dict, prefix: str = "") -> dict:
    """{"SOLVER": {"MAX_ITER": 1}} as {"SOLVER.MAX_ITER": 1}."""
    keys = {}
    for key, value in nodes.items():
        is_node = isinstance(value, dict)
        keys |= flat(value, f"{prefix}{key}.") if is_node else {prefix + key: value}
    return keys


def get_key(cfg: CfgNode, key: str):
    """The value of a key that is written with dots."""
    return reduce(getattr, key.split("."), cfg)


def set_key(cfg: CfgNode, key: str, value):
    """Sets a key that is written with dots."""
    *nodes, name = key.split(".")
    setattr(reduce(getattr, nodes, cfg), name, value)
