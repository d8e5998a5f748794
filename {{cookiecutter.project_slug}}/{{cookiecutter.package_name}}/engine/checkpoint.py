"""Checkpoints that appear whole or not at all."""

import os
from collections.abc import Callable
from typing import IO
from urllib.error import URLError

import torch
from detectron2.checkpoint import DetectionCheckpointer


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
        data = {"model": self.model.state_dict(), **states, **kwargs}
        path = os.path.join(self.save_dir, f"{name}.pth")
        write_atomically(path, lambda file: torch.save(data, file))
        self.logger.info(f"Saved checkpoint {path}")
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str):
        path = os.path.join(self.save_dir, "last_checkpoint")
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))

    def load(self, path: str, *args, **kwargs) -> dict:
        """
        Raises:
            OSError: the weights are not there or cannot be downloaded.
        """
        try:
            return super().load(path, *args, **kwargs)
        except (AssertionError, URLError, OSError) as error:
            raise OSError(
                f"cannot load the weights '{path}': {error}. Give another file with MODEL.WEIGHTS; "
                "on a machine without internet, copy it there first. MODEL.WEIGHTS '' trains from "
                "scratch (a backbone with frozen batch normalization, as R-50 has, will not learn)."
            ) from error
