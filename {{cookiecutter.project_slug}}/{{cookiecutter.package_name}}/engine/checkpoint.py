"""Checkpoints that appear whole or not at all."""

import os
from collections.abc import Callable, Mapping
from typing import IO
from urllib.error import URLError

import torch
from detectron2.checkpoint import DetectionCheckpointer

from .early_stopping import Metric

BEST = "model_best.pth"


def write_atomically(path: str, write: Callable[[IO[bytes]], None]):
    """Calls `write` with a file beside `path`, then renames it: `path` is never half a file."""
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class Checkpointer(DetectionCheckpointer):
    """detectron2's checkpointer, with files written atomically and errors in words."""

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
        data["model"] = self.model.state_dict()
        if "loss_normalizer" in vars(self.model):  # of dense detectors: no part of their state_dict
            data["loss_normalizer"] = self.model.loss_normalizer
        path = os.path.join(self.save_dir, name)
        write_atomically(path, lambda file: torch.save(data, file))
        self.logger.info(f"Saved checkpoint {path}")

    def tag_last_checkpoint(self, last_filename_basename: str):
        path = os.path.join(self.save_dir, "last_checkpoint")
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))

    def load(self, path: str, *args, **kwargs) -> dict:
        """
        Raises:
            OSError: the weights are not there or cannot be downloaded.
        """
        try:
            loaded = super().load(path, *args, **kwargs)
        except (AssertionError, URLError, OSError) as error:
            raise OSError(
                f"cannot load the weights '{path}': {error}. Give another file with MODEL.WEIGHTS; "
                "on a machine without internet, copy it there first. MODEL.WEIGHTS '' trains from "
                "scratch (a backbone with frozen batch normalization, as R-50 has, will not learn)."
            ) from error
        if "loss_normalizer" in loaded:
            self.model.loss_normalizer = loaded.pop("loss_normalizer")
        return loaded
