"""A file that asks a training to stop."""

import contextlib
from pathlib import Path

import torch
from detectron2.utils import comm

NAME = "training_completed.txt"


class StopFile:
    """Looks for `training_completed.txt` in OUTPUT_DIR, whose text is the reason to stop.

    The trainer asks once an iteration. Rank 0 looks, and tells the others while they compute the
    next iteration: all stop together and none waits, one iteration later than a single process.
    """

    def __init__(self, output_dir: str):
        self.path = Path(output_dir, NAME)
        self._sent = None  # on its way from rank 0: whether to stop

    def read(self) -> str | None:
        """What it says, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            return f"{NAME}: {self.path.read_text(encoding='utf-8').strip() or 'no reason given'}"

    def reason(self) -> str | None:
        """Why to stop now, or None. All ranks must ask in each iteration; they get it together."""
        if comm.get_world_size() == 1:
            return self.read()
        stop, self._sent = self._sent, _Broadcast(comm.is_main_process() and self.path.exists())
        return (self.read() or NAME) if stop and stop.received() else None


class _Broadcast:
    """A truth value on its way from rank 0 to all, over the CPU: a GPU is not waited for."""

    def __init__(self, value: bool):
        self.value = torch.tensor([value], dtype=torch.uint8)
        group = comm._get_global_gloo_group()  # that of comm.all_gather
        self.handle = torch.distributed.broadcast(self.value, 0, group, async_op=True)

    def received(self) -> bool:
        self.handle.wait()
        return bool(self.value)
