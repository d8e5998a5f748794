"""Holds the state of a training: whether it goes on, why it ends, and the record of its end."""

import contextlib
import logging
import os
import signal
import sys

import torch
from detectron2.utils import comm

from ..data.loader import SIGNALS
from ..files.atomic import write_json
from ..files.heartbeat import BEAT, Heartbeat
from ..files.run_directory import CONVERGED, STOP_FILE, RunDirectory

FILE = 255  # stands for the stop file where a signal's number is sent between ranks

logger = logging.getLogger(__name__)


class Run:
    """A training in progress, to be used as a context manager.

    While the context lasts, `evaluation/trainer.json` shows evaluators that the training is alive.
    At its end `ended.json` is written. Its `status` is "finished"; "converged", by early stopping;
    "stopped", by the user or `training_completed.txt`; "interrupted", by a signal; or "failed". All
    but the first have a `reason`.

    Args:
        output_dir: the run directory.

    Raises:
        SystemExit: at the end of an interrupted training, with the exit status of its signal.
    """

    def __init__(self, output_dir: str):
        self.directory = RunDirectory(output_dir)
        self.status = "finished"
        self.reason = None
        self._signal = 0
        self._sent = None  # numbers on their way between the ranks: who asks to stop
        self._heartbeat = None

    def stop(self, status: str, reason: str):
        """Asks the training to end after the current iteration."""
        self.status, self.reason = status, reason

    @property
    def is_stopping(self) -> bool:
        """Whether the training ends before its last iteration."""
        return self.status != "finished"

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal ends the training, which `--resume` is to continue."""
        return self.status == "interrupted"

    def is_complete(self, start_iter: int, max_iter: int) -> bool:
        """Returns whether nothing is left to train. All ranks must call it.

        A run also is complete if early stopping or the stop file has ended it.
        """
        text = comm.all_gather(self._read_stop_file())[0]
        if text is not None and not self.is_stopping:
            self._stop_by_file(text)
        if start_iter < max_iter and not self.is_stopping:
            return False
        done = f"{start_iter} of {max_iter} iterations are done"
        logger.info("Nothing to train: %s. %s", done, self.reason or "")
        return True

    def poll(self):
        """Stops the run if `training_completed.txt` is there, or a signal came.

        All ranks must call it in each iteration. They tell each other while they compute the next
        one: all stop together and none waits, one iteration later than a single process.
        """
        is_main = comm.is_main_process()
        asked = self._signal or (FILE if is_main and self._stop_file.exists() else 0)
        if comm.get_world_size() > 1:
            sent, self._sent = self._sent, _send_maximum(asked)
            asked = _receive(sent) if sent else 0
        if asked == FILE:
            self._stop_by_file(self._read_stop_file() or "")
        elif asked:
            self._signal = asked
            self.stop("interrupted", f"{signal.Signals(asked).name}; --resume goes on")

    @property
    def _stop_file(self):
        return self.directory.path / STOP_FILE

    def _read_stop_file(self):
        try:
            return self._stop_file.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def _stop_by_file(self, text):
        status = "converged" if text.startswith(CONVERGED) else "stopped"
        self.stop(status, f"{STOP_FILE}: {text or 'no reason given'}")

    def __enter__(self):
        self._handlers = {number: signal.signal(number, self._receive_signal) for number in SIGNALS}
        if hasattr(os, "register_at_fork"):  # Windows does not fork
            os.register_at_fork(after_in_child=_restore_signals)
        if comm.is_main_process():
            self.directory.shared.mkdir(parents=True, exist_ok=True)
            self._heartbeat = Heartbeat(self.directory.trainer_file(), timeout=6 * BEAT)
        return self

    def _receive_signal(self, number, frame):
        self._signal = number

    def __exit__(self, kind, error, traceback):
        if error is not None:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning exits when interrupted
                error = error.__context__
            is_stopped = isinstance(error, KeyboardInterrupt)
            self.stop("stopped" if is_stopped else "failed", repr(error))
        if self.status in ("converged", "stopped", "interrupted"):
            verb = "was" if self.is_interrupted else "has"
            logger.info("The training %s %s: %s", verb, self.status, self.reason)
        file = self.directory.path / "ended.json"
        # A rank that fails may be the only one that can still write.
        if comm.is_main_process() or (self.status == "failed" and not file.exists()):
            end = {"status": self.status} | ({"reason": self.reason} if self.reason else {})
            with contextlib.suppress(OSError):  # of a full disk, after which there is an error
                write_json(file, end)
        if self._heartbeat:
            self._heartbeat.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if error is None and self.is_interrupted:
            comm.synchronize()  # a rank that is gone would have the others killed
            sys.exit(128 + self._signal)


def _restore_signals():
    # SIGTERM must end a forked process, such as a worker of multiprocessing.Pool. A handler could
    # not: the process may begin to wait, for ever, before Python calls it.
    for number in SIGNALS:
        if isinstance(getattr(signal.getsignal(number), "__self__", None), Run):
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def hold_signals():
    """Delays signals that ask to stop, and Ctrl-C, until the context ends. For the main thread."""
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


def _send_maximum(number: int):
    # Over the CPU: a GPU is not waited for. The group is that of comm.all_gather.
    value = torch.tensor([number], dtype=torch.uint8)
    maximum, group = torch.distributed.ReduceOp.MAX, comm._get_global_gloo_group()
    return value, torch.distributed.all_reduce(value, maximum, group, async_op=True)


def _receive(sent) -> int:
    value, handle = sent
    handle.wait()
    return int(value)
