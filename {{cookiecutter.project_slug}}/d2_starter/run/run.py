"""Holds the state of a training: whether it goes on, why it ends, and the record of its end."""

import contextlib
import logging
import os
import signal
import sys
import threading

import torch
from detectron2.utils import comm

from ..data.loader import SIGNALS
from ..files import owner
from ..files.run_directory import CONVERGED, STOP_FILE, RunDirectory

FILE = 255  # stands for the stop file where a signal's number is sent between ranks

logger = logging.getLogger(__name__)


class Run:
    """A training in progress, to be used as a context manager.

    While the context lasts, `evaluation/trainer.json` shows others that the training is alive, and
    that the directory is its own.
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

        Raises:
            Lost: the run directory is not this training's own any more.
        """
        is_main = comm.is_main_process()
        if is_main:
            owner.check_owned(self.directory.path)
        asked = self._signal or (FILE if is_main and os.path.lexists(self._stop_file) else 0)
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
        if not os.path.lexists(self._stop_file):
            return None
        try:  # whatever it is, it asks to stop
            text = self._stop_file.read_bytes()[:1000].decode(errors="replace").strip()
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return "".join(letter if letter.isprintable() else "?" for letter in text)

    def _stop_by_file(self, text):
        status = "converged" if text.startswith(CONVERGED) else "stopped"
        self.stop(status, f"{STOP_FILE}: {text or 'no reason given'}")

    def __enter__(self):
        is_main_thread = threading.current_thread() is threading.main_thread()  # others get none
        self._handlers = {
            number: signal.signal(number, self._receive_signal)
            for number in SIGNALS
            if is_main_thread and signal.getsignal(number) != signal.SIG_IGN  # as nohup does
        }
        if hasattr(os, "register_at_fork"):  # Windows does not fork
            os.register_at_fork(after_in_child=_restore_signals)
        if comm.is_main_process():
            owner.use(self.directory.path)
        return self

    def _receive_signal(self, number, frame):
        self._signal = number

    def __exit__(self, kind, error, traceback):
        if error is not None:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning exits when interrupted
                error = error.__context__
            is_stopped = isinstance(error, KeyboardInterrupt)
            self.stop("stopped" if is_stopped else "failed", repr(error))
        if self.is_stopping:
            how = {"interrupted": "was interrupted", "stopped": "was stopped"}.get(self.status)
            logger.info("The training %s: %s", how or f"has {self.status}", self.reason)
        # A rank that fails may be the only one that can still write.
        path, is_main = self.directory.path, comm.is_main_process()
        is_last = self.status == "failed" and not (path / "ended.json").exists()
        if owner.owns(path) if is_main else is_last:
            with contextlib.suppress(OSError):  # of a full disk, after which there is an error
                self.directory.write_end(self.status, self.reason)
        if is_main:
            owner.release(path)
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
