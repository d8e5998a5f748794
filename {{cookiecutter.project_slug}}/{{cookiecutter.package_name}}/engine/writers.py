"""Where the scalars of the event storage go: terminal, log, metrics.json, TensorBoard."""

import json
import logging
import os
import sys

from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from tqdm import tqdm

from .run import LOGGERS


def build_writers(cfg, start_iter: int) -> list[EventWriter]:
    """The writers of a run; each writes what the storage holds when its `write()` is called.

    A killed run may have written iterations that the resumed one does again: those are dropped.
    """
    metrics = os.path.join(cfg.OUTPUT_DIR, "metrics.json")
    _drop_from(metrics, start_iter)
    return [
        CommonMetricPrinter(cfg.SOLVER.MAX_ITER, window_size=cfg.LOG_PERIOD),
        JSONWriter(metrics, window_size=cfg.LOG_PERIOD),
        TensorboardXWriter(cfg.OUTPUT_DIR, window_size=cfg.LOG_PERIOD, purge_step=start_iter),
    ]


def _drop_from(metrics, start_iter):
    if not os.path.exists(metrics):
        return
    kept = []
    with open(metrics, encoding="utf-8") as file:
        for line in file:
            try:
                if json.loads(line)["iteration"] < start_iter:
                    kept.append(line)
            except ValueError:  # half a line, of a run that was killed
                pass
    with open(metrics, "w", encoding="utf-8") as file:
        file.writelines(kept)


class ProgressBar(EventWriter):
    """A bar with the time left, the loss and the last metrics, if the output is a terminal.

    The log scrolls by above it, without the lines that the bar replaces. Where the output is not a
    terminal there is no bar, and the log stays as it is.
    """

    def __init__(self, start_iter: int, max_iter: int):
        self.bar = tqdm(
            initial=start_iter,
            total=max_iter,
            unit="it",
            dynamic_ncols=True,
            disable=None if comm.is_main_process() else True,  # None: if it is no terminal
        )
        self._handlers = []
        if not self.bar.disable:
            for name in LOGGERS:
                for handler in logging.getLogger(name).handlers:
                    if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                        handler.addFilter(_not_metrics)
                        handler.setStream(_AboveBar())
                        self._handlers.append(handler)

    def update(self):
        """One more iteration is done."""
        self.bar.update()

    def write(self):
        latest = get_event_storage().latest()
        shown = {"loss": latest["total_loss"][0]} if "total_loss" in latest else {}
        shown |= {k: v for k, (v, _) in latest.items() if k.endswith(("/AP", "/mIoU", "/PQ"))}
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in shown.items()})

    def close(self):
        self.bar.close()
        for handler in self._handlers:
            handler.removeFilter(_not_metrics)
            handler.setStream(sys.stdout)


def _not_metrics(record):
    return record.name != "detectron2.utils.events"


class _AboveBar:
    def write(self, text):
        tqdm.write(text, end="")

    def flush(self):
        sys.stdout.flush()
