"""Checkpoints that appear whole or not at all."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import IO
from urllib.error import URLError

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from fvcore.common.checkpoint import _filter_reused_missing_keys
from torch import nn

from .early_stopping import Metric

BEST = "model_best.pth"

logger = logging.getLogger(__name__)


def write_atomically(path: str, write: Callable[[IO[bytes]], None]):
    """Calls `write` with a file beside `path`, then renames it: `path` is never half a file."""
    temporary = f"{path}.{comm.get_rank()}.tmp"  # ranks that fail together report that together
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
    """
    state = data["model"].items()
    broken = [name for name, tensor in state if not torch.isfinite(tensor).all()]
    if broken:
        raise FloatingPointError(
            f"training diverged: {len(broken)} weights are not finite any more, such as "
            f"{broken[0]}. No checkpoint is made of them; the last one is as it was."
        )
    write_atomically(path, lambda file: torch.save(data, file))
    logger.info("Saved checkpoint %s", path)


def tag_last_checkpoint(path: str):
    """Makes this file the one that `--resume` continues."""
    folder, name = os.path.split(path)
    tag = os.path.join(folder, "last_checkpoint")
    write_atomically(tag, lambda file: file.write(name.encode()))


class Checkpointer(DetectionCheckpointer):
    """detectron2's checkpointer, with files written atomically and errors in words."""

    def __init__(self, *args, complete: bool = False, **kwargs):
        """
        Args:
            complete: weights that do not fill the whole model are an error, as they are in any case
                where a run is resumed. Else what they lack, as heads for these classes, starts
                from scratch.
        """
        super().__init__(*args, **kwargs)
        self.complete = complete

    def save(self, name: str, **kwargs):
        """Saves model, checkpointables and `kwargs` as `<name>.pth`; `--resume` continues it."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        self._write(f"{name}.pth", **states, **kwargs)
        self.tag_last_checkpoint(f"{name}.pth")

    def save_best(self, metric: Metric, logged: Mapping[str, float], iteration: int):
        """Saves the model, and nothing else, as `model_best.pth`, if no better one is there.

        The file says itself how good it is, so that after a resume too it never gets worse.
        """
        if not self.save_to_disk:
            return
        value, best = metric.find(logged), self.best()
        than = best["value"] if best and best["metric"] == metric.name else None
        if value is not None and metric.is_better(value, than):
            self._write(BEST, metric=metric.name, value=value, iteration=iteration)

    def best(self) -> dict | None:
        """The `metric`, `value` and `iteration` of the best checkpoint, if there is one."""
        path = os.path.join(self.save_dir, BEST)
        if not os.path.exists(path):
            return None
        saved = torch.load(path, map_location="cpu", mmap=True)  # does not read the weights
        keys = ("metric", "value", "iteration")
        return {key: saved[key] for key in keys} if "metric" in saved else None

    def _write(self, name, **data):
        save_checkpoint(os.path.join(self.save_dir, name), data | model_state(self.model))

    def tag_last_checkpoint(self, last_filename_basename: str):
        tag_last_checkpoint(os.path.join(self.save_dir, last_filename_basename))

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
        if "loss_normalizer" in loaded:
            self.model.loss_normalizer = loaded.pop("loss_normalizer")
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
