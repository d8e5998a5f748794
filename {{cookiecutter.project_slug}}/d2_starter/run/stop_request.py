"""What asks a training to stop: a file in its folder, or a signal."""

import contextlib
import os
import signal
from pathlib import Path

import torch
from detectron2.utils import comm

from ..data.loader import SIGNALS

NAME = "training_completed.txt"
CONVERGED = "converged: "  # begins the text of an evaluator that saw early stopping's condition
FILE = 1  # no number of these signals


class StopRequest:
    """Looks for `training_completed.txt` in OUTPUT_DIR, whose text is the reason to stop, and for
    the signals SIGTERM and SIGUSR1, after which `--resume` is to go on.

    The trainer asks once an iteration. The ranks tell each other while they compute the next one:
    all stop together and none waits, one iteration later than a single process. Rank 0 looks for
    the file; a signal may come to any of them.
    """

    def __init__(self, output_dir: str):
        self._output_dir = output_dir
        self._signal = 0
        self._sent = None  # on its way between the ranks: who asks to stop
        for number in SIGNALS:
            signal.signal(number, self._receive)
        if hasattr(os, "register_at_fork"):  # Windows does not fork
            os.register_at_fork(after_in_child=_give_signals_back)

    def _receive(self, number, frame):
        self._signal = number

    def look(self) -> dict[str, str] | None:
        """What the end marker says if training is to stop now. All ranks must ask in each
        iteration; they get it together.
        """
        is_main = comm.is_main_process()
        asked = self._signal or (FILE if is_main and Path(self._output_dir, NAME).exists() else 0)
        if comm.get_world_size() > 1:
            sent, self._sent = self._sent, _Maximum(asked)
            asked = sent.received() if sent else 0
        if asked == FILE:
            return read_stop_file(self._output_dir) or {"status": "stopped", "reason": NAME}
        if asked:
            name = signal.Signals(asked).name
            return {"status": "interrupted", "reason": f"{name}; --resume goes on", "signal": asked}
        return None


def _give_signals_back():
    """SIGTERM ends a process that was forked, such as a worker of multiprocessing.Pool.

    A handler could not: the process may begin to wait, for ever, before Python calls it.
    """
    for number in SIGNALS:
        if isinstance(getattr(signal.getsignal(number), "__self__", None), StopRequest):
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def held_back():
    """Signals that ask to stop, and Ctrl-C, come when this context ends. For the main thread."""
    came = []
    handlers = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (*SIGNALS, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def read_stop_file(output_dir: str) -> dict[str, str] | None:
    """What the end marker says of the stop file, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        text = Path(output_dir, NAME).read_text(encoding="utf-8").strip()
        status = "converged" if text.startswith(CONVERGED) else "stopped"
        return {"status": status, "reason": f"{NAME}: {text or 'no reason given'}"}


class _Maximum:
    """Numbers on their way between all ranks, over the CPU: a GPU is not waited for."""

    def __init__(self, number: int):
        self.value = torch.tensor([number], dtype=torch.uint8)
        group = comm._get_global_gloo_group()  # that of comm.all_gather
        maximum = torch.distributed.ReduceOp.MAX
        self.handle = torch.distributed.all_reduce(self.value, maximum, group, async_op=True)

    def received(self) -> int:
        self.handle.wait()
        return int(self.value)
