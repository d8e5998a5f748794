"""Checkpoints that appear whole or not at all."""

import contextlib
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _filter_reused_missing_keys
from torch import nn

from .average import Average
from .early_stopping import Metric, best_of
from .run_folder import RunFolder, Watch, write_whole

BEST = "model_best.pth"
INTERRUPTED = "model_interrupted.pth"  # for --resume alone: a run without interruption has none

logger = logging.getLogger(__name__)


def model_state(model: nn.Module) -> dict:
    """What a checkpoint says of a model."""
    state = {"model": model.state_dict()}
    if "loss_normalizer" in vars(model):  # of dense detectors: no part of their state_dict
        state["loss_normalizer"] = model.loss_normalizer
    return state


def save_checkpoint(path: str, data: dict):
    """Writes a checkpoint with `data["model"]` and whatever else.

    Raises:
        FloatingPointError: a weight is not finite. An iteration can break the weights although its
            own losses are finite; the checkpoint before it is the last good one.
        OSError: the disk is full, or cannot be written to.
    """
    state = data["model"].items()
    broken = [name for name, tensor in state if not torch.isfinite(tensor).all()]
    if broken:
        raise FloatingPointError(
            f"training diverged: {len(broken)} weights are not finite any more, such as "
            f"{broken[0]}. No checkpoint is made of them; the last one is as it was."
        )
    try:
        write_whole(path, lambda file: torch.save(data, file))
    except (OSError, RuntimeError) as error:
        reason = error.__context__ or error  # torch.save says of a full disk "unexpected pos"
        raise OSError(
            f"cannot write the checkpoint {path}: {reason}. The last one is as it was: when there "
            "is space, --resume goes on from it. SOLVER.CHECKPOINT_MAX_TO_KEEP deletes old ones."
        ) from error
    logger.info("Saved checkpoint %s", path)


def make_last(path: str, iteration: int):
    """Makes this checkpoint the one that `--resume` continues, and shows it to evaluators."""
    folder, name = os.path.split(path)
    write_whole(os.path.join(folder, "last_checkpoint"), lambda file: file.write(name.encode()))
    if name != INTERRUPTED:
        RunFolder(folder).publish(name, iteration)
        Path(folder, INTERRUPTED).unlink(missing_ok=True)


def publish_last(folder: Path):
    """What `make_last` would have done, had it not been killed in between; and what a killed
    process left half-written goes.
    """
    for leftover in folder.glob(".model_*.tmp"):
        leftover.unlink(missing_ok=True)
    if not (folder / "last_checkpoint").exists():
        return
    path = folder / (folder / "last_checkpoint").read_text(encoding="utf-8").strip()
    if path.exists() and path.name != INTERRUPTED:
        iteration = torch.load(path, map_location="cpu", mmap=True)["iteration"]
        if iteration not in RunFolder(folder).published():
            make_last(str(path), iteration)


def best(folder: str | Path) -> dict | None:
    """The `metric`, `value` and `iteration` of the best checkpoint of a run, if there is one."""
    path = Path(folder, BEST)
    if not path.exists():
        return None
    saved = torch.load(path, map_location="cpu", mmap=True)  # does not read the weights
    keys = ("metric", "value", "iteration")
    return {key: saved[key] for key in keys} if "metric" in saved else None


def make_final(folder: Path):
    """Of a training that will not go on: shows evaluators where it was interrupted."""
    tag, path = folder / "last_checkpoint", folder / INTERRUPTED
    if tag.exists() and tag.read_text(encoding="utf-8").strip() == path.name:
        iteration = torch.load(path, map_location="cpu", mmap=True)["iteration"]
        shutil.copyfile(path, folder / "model_final.pth")
        make_last(str(folder / "model_final.pth"), iteration)


class Pruner:
    """Deletes checkpoints but for the newest `SOLVER.CHECKPOINT_MAX_TO_KEEP`, if that is not 0.

    Those stay that are the last, the best of the results there are, held by an evaluator, or, where
    evaluators are expected, not evaluated yet.
    """

    def __init__(self, cfg):
        self.to_keep = cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP
        self.folder = RunFolder(cfg.OUTPUT_DIR)
        self.metric = Metric(cfg.EARLY_STOPPING.METRIC, cfg.EARLY_STOPPING.MODE)
        self.in_loop = cfg.TEST.EVAL_IN_LOOP
        self._watch = Watch()

    def __call__(self):
        try:
            if self.to_keep:
                self._prune()
        except OSError as error:  # nothing that a training should end for
            logger.warning("Old checkpoints were not deleted: %s", error)

    def _prune(self):
        folder = self.folder
        published, results = folder.published(), folder.results()
        files = {checkpoint["checkpoint"]: i for i, checkpoint in published.items()}
        for path in folder.path.glob("model_*.pth"):
            if match := re.fullmatch(r"model_(\d+)\.pth", path.name):
                files.setdefault(path.name, int(match[1]))
        kept = set(sorted(set(files.values()))[-self.to_keep :])
        kept |= set() if self.in_loop else published.keys() - results.keys()
        kept |= {i for i, attempts in folder.attempts().items() if self._is_held(attempts[-1])}
        with contextlib.suppress(ValueError):  # the evaluators say what is wrong with the metric
            kept.add(best_of(self.metric, results))
        last = (folder.path / "last_checkpoint").read_text(encoding="utf-8").strip()
        for name, iteration in files.items():
            path = folder.path / name
            if iteration not in kept and name not in (last, BEST) and path.exists():
                path.unlink(missing_ok=True)
                logger.info("Deleted checkpoint %s", path)

    def _is_held(self, attempt):
        is_silent = self._watch.is_silent(attempt.path, attempt.timeout)
        return attempt.status == "running" and not is_silent


class Checkpointer(DetectionCheckpointer):
    """detectron2's checkpointer, with files written atomically and errors in words."""

    def __init__(
        self,
        *args,
        average: Average | None = None,
        prune: Callable[[], None] | None = None,
        complete=False,
        **kwargs,
    ):
        """
        Args:
            average: of the model, which it loads and saves too.
            prune: called after each checkpoint.
            complete: weights that do not fill the whole model are an error, as they are in any case
                where a run is resumed. Else what they lack, as heads for these classes, starts
                from scratch.
        """
        super().__init__(*args, **kwargs)
        self.average = average
        self.prune = prune
        self.complete = complete

    def save(self, name: str, iteration: int, **kwargs):
        """Saves model, checkpointables and `kwargs` as `<name>.pth`; `--resume` continues it."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        states |= self.average.states() if self.average else {}
        self._write(f"{name}.pth", **states, **kwargs, iteration=iteration)
        make_last(os.path.join(self.save_dir, f"{name}.pth"), iteration)
        if self.prune:
            self.prune()

    def save_best(self, metric: Metric, logged: Mapping[str, float], iteration: int):
        """Saves the model, and nothing else, as `model_best.pth`, if no better one is there.

        The file says itself how good it is, so that after a resume too it never gets worse.
        """
        if not self.save_to_disk:
            return
        value, has = metric.find(logged), best(self.save_dir)
        than = has["value"] if has and has["metric"] == metric.name else None
        if value is not None and metric.is_better(value, than):
            model = {"model": self.average.model.state_dict()} if self.average else {}
            self._write(BEST, metric=metric.name, value=value, iteration=iteration, **model)

    def _write(self, name, **data):
        save_checkpoint(os.path.join(self.save_dir, name), model_state(self.model) | data)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict:
        """
        Raises:
            OSError: the weights are not there or cannot be downloaded.
            ValueError: they must fill the model, but do not.
        """
        self._must_fill = self.complete or checkpointables is None  # all, as a resumed run needs
        self._path = path
        try:
            loaded = super().load(path, checkpointables)
        except (AssertionError, URLError, OSError) as error:
            raise OSError(
                f"cannot load the weights '{path}': {error}. Give another file with MODEL.WEIGHTS; "
                "on a machine without internet, copy it there first. MODEL.WEIGHTS '' trains from "
                "scratch (a backbone with frozen batch normalization, as R-50 has, will not learn)."
            ) from error
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise OSError(
                f"the weights '{path}' cannot be read: the file is damaged, or is no checkpoint."
            ) from error
        if "loss_normalizer" in loaded:
            self.model.loss_normalizer = loaded.pop("loss_normalizer")
        if self.average:
            self.average.loaded(loaded, resumes=checkpointables is None)
        return loaded

    def _log_incompatible_keys(self, incompatible):
        other = {name: f"{name} {tuple(has)}" for name, has, _ in incompatible.incorrect_shapes}
        missing = _filter_reused_missing_keys(self.model, incompatible.missing_keys)
        missing = [name for name in missing if name not in other]
        other = list(other.values())
        if self._must_fill and (other or missing):
            raise ValueError(
                f"the weights '{self._path}' are not of this model: they lack {len(missing)} of "
                f"its parameters{_such_as(missing)}, and {len(other)} have another shape, as with "
                f"another number of classes{_such_as(other)}. Give a checkpoint that was trained "
                "by this config on these classes, or train from those weights."
            )
        if other:
            logger.info(
                "%d parameters of the weights are for other classes and start from scratch%s",
                len(other),
                _such_as(other),
            )
        incompatible.incorrect_shapes.clear()
        incompatible.missing_keys[:] = missing
        super()._log_incompatible_keys(incompatible)


def _such_as(names):
    return f" (such as {names[0]})" if names else ""
