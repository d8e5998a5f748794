"""Where the scalars of the event storage go: terminal, log, metrics.json, TensorBoard."""

import contextlib
import json
import logging
import os
import re
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
from .run_folder import write_whole


def build_writers(cfg, start_iter: int) -> list[EventWriter]:
    """The writers of a run; each writes what the storage holds when its `write()` is called.

    A killed run may have written iterations that the resumed one does again: those are dropped.
    """
    metrics = os.path.join(cfg.OUTPUT_DIR, "metrics.json")
    _drop_from(metrics, start_iter)
    return [
        _MetricPrinter(cfg.SOLVER.MAX_ITER, window_size=cfg.LOG_PERIOD),
        JSONWriter(metrics, window_size=cfg.LOG_PERIOD),
        _TensorBoardWriter(cfg, start_iter, metrics),
    ]


def progress(cfg, iteration: int) -> dict[str, float]:
    """How far training is after this iteration: in epochs, and in images it has seen."""
    seen = (iteration + 1) * cfg.SOLVER.IMS_PER_BATCH
    return {"epoch": seen / cfg.SOLVER.IMAGES_PER_EPOCH, "samples_seen": seen}


def logged(cfg) -> dict[str, float]:
    """The last value of all that is logged, smoothed over `LOG_PERIOD` as the writers do."""
    latest = get_event_storage().latest_with_smoothing_hint(cfg.LOG_PERIOD)
    return {name: value for name, (value, _) in latest.items()}


class _MetricPrinter(CommonMetricPrinter):
    """detectron2's line in the log, with the epoch in front."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.logger = _WithEpoch(self.logger)


class _WithEpoch(logging.LoggerAdapter):
    def process(self, message, kwargs):
        epoch, _ = get_event_storage().latest()["epoch"]
        message = re.sub(r"\S*val_loss/\S+: \S+  ", "", message)  # of some evaluation earlier
        return f" epoch: {epoch:.2f} {message}", kwargs


class _TensorBoardWriter(TensorboardXWriter):
    """Writes every scalar a second time, as `by_epoch/...`, at a step of a thousandth of an epoch.

    TensorBoard's axis is the iteration, which means something else in a run with another batch
    size. Its steps are whole numbers.
    """

    def __init__(self, cfg, start_iter, metrics_file):
        # What a killed run has written from here on is not shown.
        super().__init__(cfg.OUTPUT_DIR, window_size=cfg.LOG_PERIOD, purge_step=start_iter)
        self._cfg = cfg
        # That hides all larger steps, and those by epoch are larger: they are written again.
        for line in _read(metrics_file):
            iteration = line.pop("iteration")
            self._add_by_epoch({name: (value, iteration) for name, value in line.items()})

    def write(self):
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        self._add_by_epoch({k: v for k, v in latest.items() if v[1] > self._last_write})
        super().write()

    def _add_by_epoch(self, scalars):
        for name, (value, iteration) in scalars.items():
            step = round(1000 * progress(self._cfg, iteration)["epoch"])
            self._writer.add_scalar(f"by_epoch/{name}", value, step)


def _drop_from(metrics, start_iter):
    kept = [line for line in _read(metrics) if line["iteration"] < start_iter]
    text = "".join(f"{json.dumps(line, sort_keys=True)}\n" for line in kept)
    write_whole(metrics, lambda file: file.write(text.encode()))


def _read(metrics):
    """The lines of metrics.json, but for half a line of a run that was killed."""
    if not os.path.exists(metrics):
        return
    with open(metrics, encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


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
        self._log = LogAboveBar() if not self.bar.disable else None

    def update(self):
        """One more iteration is done."""
        self.bar.update()

    def write(self):
        self.bar.set_postfix(for_bar())

    def close(self):
        self.bar.close()
        if self._log:
            self._log.close()


def for_bar() -> dict[str, str]:
    """What a bar shows of all that is logged."""
    latest = get_event_storage().latest()
    shown = {"epoch": latest["epoch"][0], "loss": latest["total_loss"][0]}
    shown |= {k: v for k, (v, _) in latest.items() if k.endswith(("/AP", "/mIoU", "/PQ"))}
    return {k: f"{v:.3g}" for k, v in shown.items()}


class LogAboveBar:
    """Until `close`, the log scrolls by above any bar of tqdm's."""

    def __init__(self):
        self._handlers = [
            handler
            for name in LOGGERS
            for handler in logging.getLogger(name).handlers
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout
        ]
        for handler in self._handlers:
            handler.addFilter(self._is_not_in_bar)
            handler.setStream(self)

    @staticmethod
    def _is_not_in_bar(record):
        return record.name != "detectron2.utils.events"

    def write(self, text):
        tqdm.write(text, end="")

    def flush(self):
        sys.stdout.flush()

    def close(self):
        for handler in self._handlers:
            handler.removeFilter(self._is_not_in_bar)
            handler.setStream(sys.stdout)
