"""Writes checkpoints atomically, reads them with errors in words, deletes old ones."""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.solver import LRMultiplier
from fvcore.common.checkpoint import _filter_reused_missing_keys
from torch import nn

from ..evaluation.early_stopping import Metric, best_of
from ..files.atomic import write_atomically
from ..files.heartbeat import Watch
from ..files.owner import Refused, check_owned
from ..files.run_directory import BEST, INTERRUPTED, LAST, RunDirectory
from ..files.weights import DamagedWeightsError, read_weights, to_checkpoint
from .ema import EMA

logger = logging.getLogger(__name__)


def model_state(model: nn.Module) -> dict:
    """Returns what a checkpoint says of a model."""
    state = {"model": model.state_dict(), "anchors": anchors(model)}
    if "loss_normalizer" in vars(model):  # of dense detectors: no part of their state_dict
        state["loss_normalizer"] = model.loss_normalizer
    return state


def anchors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the anchors at each level, which are no part of a model's state_dict, (N, 4 or 5)."""
    return {k: v.cpu() for k, v in model.named_buffers() if ".cell_anchors." in f".{k}"}


def save_checkpoint(path: str, data: dict):
    """Writes a checkpoint atomically: `data["model"]` and whatever else.

    Raises:
        FloatingPointError: a weight is not finite. An iteration can break the weights although its
            own losses are finite; the checkpoint before it is the last good one.
        OSError: the disk is full, or cannot be written to, or another training has the directory.
    """
    check_owned(Path(path).parent)
    state = data["model"].items()
    broken = [name for name, tensor in state if not torch.isfinite(tensor).all()]
    if broken:
        raise FloatingPointError(
            f"training diverged: {len(broken)} weights are not finite any more, such as "
            f"{broken[0]}. No checkpoint is made of them; the last one is as it was."
        )
    try:
        write_atomically(path, lambda file: torch.save(data, file))
    except (OSError, RuntimeError) as error:
        reason = error.__context__ or error  # torch.save says of a full disk "unexpected pos"
        raise OSError(
            f"cannot write the checkpoint {path}: {reason}. The last one is as it was: when there "
            "is space, --resume goes on from it. CHECKPOINT_MAX_TO_KEEP deletes old ones."
        ) from None
    logger.info("Saved checkpoint %s", path)


def make_last(path: str, iteration: int):
    """Makes a checkpoint the one that `--resume` continues, and publishes it to evaluators."""
    folder, name = os.path.split(path)
    check_owned(Path(folder))
    write_atomically(os.path.join(folder, LAST), lambda file: file.write(name.encode()))
    if name != INTERRUPTED:
        RunDirectory(folder).publish(name, iteration)
        Path(folder, INTERRUPTED).unlink(missing_ok=True)


def publish_last(folder: Path):
    """Publishes the last checkpoint, if a killed process could not; deletes half-written files."""
    for leftover in folder.glob(".model_*.tmp"):
        leftover.unlink(missing_ok=True)
    directory = RunDirectory(folder)
    path = directory.last_checkpoint()
    if path and path.name != INTERRUPTED:
        iteration = read_checkpoint(path)["iteration"]
        if iteration not in directory.published():
            make_last(str(path), iteration)


def read_checkpoint(path: str | Path) -> dict:
    """Reads a checkpoint without reading its weights into memory."""
    return read_weights(path, mmap=True)


def read_best(folder: str | Path) -> dict | None:
    """Returns `metric`, `value` and `iteration` of the best checkpoint, if there is one."""
    path = Path(folder, BEST)
    if not path.exists():
        return None
    saved = read_checkpoint(path)
    keys = ("metric", "value", "iteration")
    return {key: saved[key] for key in keys} if "metric" in saved else None


def finish_interrupted(folder: str | Path):
    """Publishes the checkpoint of an interruption as the final one, where training will not go on.

    Evaluators do not see it before, because an uninterrupted run has no such checkpoint.
    """
    path = RunDirectory(folder).last_checkpoint()
    if path and path.name == INTERRUPTED:
        final = path.with_name("model_final.pth")
        shutil.copyfile(path, final)
        make_last(str(final), read_checkpoint(final)["iteration"])


class CheckpointCleaner:
    """Deletes all checkpoints but the newest ones.

    It keeps the last, the best of the results so far, those that an evaluator holds and, where
    evaluation is asynchronous, those that have no result yet.

    Args:
        folder: the run directory.
        max_to_keep: number of the newest checkpoints to keep; 0 keeps all.
        metric: decides which is the best.
        eval_in_loop: whether the training itself evaluates.
    """

    def __init__(self, folder: str, max_to_keep: int, metric: Metric, eval_in_loop: bool = True):
        self.max_to_keep = max_to_keep
        self.folder = RunDirectory(folder)
        self.metric = metric
        self.in_loop = eval_in_loop
        self._watch = Watch()

    def __call__(self):
        """Deletes; what cannot be deleted is logged."""
        try:
            if self.max_to_keep:
                self._clean()
        except OSError as error:  # nothing that a training should end for
            logger.warning("Old checkpoints were not deleted: %s", error)

    def _clean(self):
        folder = self.folder
        published, results = folder.published(), folder.results()
        files = {checkpoint["checkpoint"]: i for i, checkpoint in published.items()}
        for path in folder.path.glob("model_*.pth"):
            if match := re.fullmatch(r"model_(\d+)\.pth", path.name):
                files.setdefault(path.name, int(match[1]))
        kept = set(sorted(set(files.values()))[-self.max_to_keep :])
        kept |= set() if self.in_loop else published.keys() - results.keys()
        kept |= {i for i, attempts in folder.attempts().items() if self._is_held(attempts[-1])}
        with contextlib.suppress(ValueError):  # the evaluators say what is wrong with the metric
            kept.add(best_of(self.metric, results))
        last = folder.last_checkpoint()
        for name, iteration in files.items():
            path = folder.path / name
            if iteration not in kept and path != last and name != BEST and path.exists():
                path.unlink(missing_ok=True)
                logger.info("Deleted checkpoint %s", path)

    def _is_held(self, attempt):
        is_silent = self._watch.is_silent(attempt.path, attempt.timeout)
        return attempt.status == "running" and not is_silent


class Checkpointer(DetectionCheckpointer):
    """Saves as detectron2's checkpointer does, but atomically; refuses weights that do not fit.

    Args:
        ema: its average is what `model` means in the files.
        clean: called after each checkpoint, such as a `CheckpointCleaner`.
        complete: weights that do not fill the whole model are an error, as they always are where a
            run is resumed. Otherwise what they lack, as heads for these classes, starts from
            scratch.
    """

    def __init__(
        self,
        *args,
        ema: EMA | None = None,
        clean: Callable[[], None] | None = None,
        complete=False,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.ema = ema
        self.clean = clean
        self.complete = complete

    def has_checkpoint(self) -> bool:
        """Returns whether there is a checkpoint that `--resume` continues."""
        return RunDirectory(self.save_dir).last_checkpoint() is not None

    def get_checkpoint_file(self) -> str:
        """Returns the path of that checkpoint, or ""."""
        return str(RunDirectory(self.save_dir).last_checkpoint() or "")

    def start(self, weights: str, resume: bool, optimizer, scheduler) -> int:
        """Loads what a training starts from, and returns its first iteration.

        A run that is resumed goes on from its last checkpoint. Any other starts at iteration 0,
        also from a checkpoint of an earlier run. Either has the hyper-parameters (learning rate,
        weight decay, ...) of its own config, not those of the checkpoint.

        Raises:
            OSError, ValueError: as `load`.
        """
        keep = keep_hyper_parameters(optimizer, scheduler)
        resumes = resume and self.has_checkpoint()
        loaded = self.resume_or_load(weights, resume=resumes)
        if not resumes:
            return 0
        start_iter = loaded["iteration"] + 1
        keep(start_iter)
        return start_iter

    def save(self, name: str, iteration: int, **kwargs):
        """Saves model, checkpointables and `kwargs` as `<name>.pth`; `--resume` continues it."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        states |= self.ema.states() if self.ema else {}
        self._write(f"{name}.pth", **states, **kwargs, iteration=iteration)
        if f"{name}.pth" == BEST:  # as by detectron2's BestCheckpointer: a resume would rewind
            return
        make_last(os.path.join(self.save_dir, f"{name}.pth"), iteration)
        if self.clean:
            self.clean()

    def save_best(self, metric: Metric, logged: Mapping[str, float], iteration: int):
        """Saves the model alone as `model_best.pth`, if no better one is there.

        The file says how good its model is, so that after a resume too it never gets worse.
        """
        if not self.save_to_disk:
            return
        value, has = metric.find(logged), read_best(self.save_dir)
        than = has["value"] if has and has["metric"] == metric.name else None
        if value is not None and metric.is_better(value, than):
            model = {"model": self.ema.model.state_dict()} if self.ema else {}
            self._write(BEST, metric=metric.name, value=value, iteration=iteration, **model)

    def _write(self, name, **data):
        save_checkpoint(os.path.join(self.save_dir, name), model_state(self.model) | data)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        """Loads weights and, if `checkpointables` is None, the state of the run.

        Raises:
            Refused: the weights are not there, cannot be downloaded, or must fill the model, but
                do not.
        """
        self._must_fill = self.complete or checkpointables is None  # all, as a resumed run needs
        self._path = path
        try:
            loaded = super().load(path, checkpointables)
        except (AssertionError, URLError, OSError) as error:
            what = str(error).rstrip("!.")
            if not isinstance(error, DamagedWeightsError):  # which names the file
                what = f"cannot load the weights '{path}': {what}"
            raise Refused(
                f"{what}. Give another file; on a machine without internet, copy it there first. "
                "Without weights ('') training starts from scratch (a backbone with frozen batch "
                "normalization, as R-50 has, will not learn)."
            ) from None
        self._check_anchors(loaded.pop("anchors", {}))
        if "loss_normalizer" in loaded:
            self.model.loss_normalizer = loaded.pop("loss_normalizer")
        if self.ema:
            self.ema.after_load(loaded, resumes=checkpointables is None)
        return loaded

    def _check_anchors(self, theirs):
        ours = anchors(self.model)
        if all(torch.equal(ours[name], theirs[name]) for name in ours.keys() & theirs.keys()):
            return
        if self._must_fill:
            raise Refused(
                f"the weights '{self._path}' were trained with other anchors than those of this "
                "config: they would find nothing. Give the config that they were trained by; the "
                "run's own is config.yaml beside them."
            )
        logger.warning(
            "The weights were trained with other anchors: what depends on them is learned anew"
        )

    def _load_file(self, filename: str) -> dict:
        if filename.endswith((".pkl", ".pyth")):  # detectron2 opens them as programs
            return to_checkpoint(read_weights(filename), filename)
        return super()._load_file(filename)

    def _torch_load(self, f):
        return read_weights(f)

    def _log_incompatible_keys(self, incompatible):
        other = {name: f"{name} {tuple(has)}" for name, has, _ in incompatible.incorrect_shapes}
        missing = _filter_reused_missing_keys(self.model, incompatible.missing_keys)
        missing = [name for name in missing if name not in other]
        other = list(other.values())
        if self._must_fill and (other or missing):
            raise Refused(
                f"the weights '{self._path}' are not of this model: they lack {len(missing)} of "
                f"its parameters{_such_as(missing)}, and {len(other)} have another shape"
                f"{_why(other)}{_such_as(other)}. Give a checkpoint that was trained by this config "
                "on these classes, or train from those weights."
            )
        if other:
            logger.info(
                "%d parameters of the weights have another shape%s, and start from scratch%s",
                len(other),
                _why(other),
                _such_as(other),
            )
        incompatible.incorrect_shapes.clear()
        incompatible.missing_keys[:] = missing
        super()._log_incompatible_keys(incompatible)


# Parameters whose shape follows from one thing, by their names.
CAUSES = (
    ("anchors", r"rpn_head\.(anchor_deltas|objectness_logits)|^head\.(bbox_pred|cls_score)"),
    ("classes", r"box_predictor|mask_head\.predictor|point_head|sem_seg_head"),
    ("keypoints", r"keypoint_head\.score"),
)


def _why(names):
    causes = [cause for cause, parts in CAUSES if any(re.search(parts, n) for n in names)]
    is_dense = any(name.startswith("head.cls_score") for name in names)
    if is_dense and not any(name.startswith("head.bbox_pred") for name in names):
        causes = ["classes"]  # its number of anchors would be in both
    return f", as with another number of {' or '.join(causes)}" if causes else ""


def _such_as(names):
    return f" (such as {names[0]})" if names else ""


def keep_hyper_parameters(optimizer, scheduler) -> Callable[[int], None]:
    """Returns a function that restores what optimizer and schedule now have from their config.

    To be called with the first iteration, after a checkpoint with other values was loaded.
    """
    keys = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    base_lrs = list(scheduler.base_lrs)

    def restore(iteration):
        for group, hyper_parameters in zip(optimizer.param_groups, keys):
            group.update(hyper_parameters)
        if isinstance(scheduler, LRMultiplier):  # others cannot be asked for any iteration
            set_iteration(scheduler, base_lrs, iteration)

    return restore


def set_iteration(scheduler: LRMultiplier, base_lrs: list[float], iteration: int):
    """Sets the learning rates to those of an iteration.

    Args:
        base_lrs: one for each group of parameters, which the schedule multiplies.
    """
    scheduler.base_lrs, scheduler.last_epoch = base_lrs, iteration
    scheduler._last_lr = scheduler.get_lr()
    for group, lr in zip(scheduler.optimizer.param_groups, scheduler._last_lr):
        group["lr"] = lr
