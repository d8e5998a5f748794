"""Writes the scalars of the event storage: terminal, log, metrics.json, TensorBoard."""

import contextlib
import json
import logging
import re
from collections import defaultdict
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    TensorboardXWriter,
    get_event_storage,
)
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..config.experiment import Schedule
from ..files.atomic import write_atomically
from ..files.run_directory import RunDirectory
from .setup import LOGGERS


def build_writers(output_dir: str, schedule: Schedule, start_iter: int) -> list[EventWriter]:
    """Builds the writers of a run, on the main process; others get none.

    Each writes what the storage holds when its `write()` is called. A killed run may have written
    iterations that the resumed one computes again: those are dropped.
    """
    if not comm.is_main_process():
        return []
    lines = [line for line in RunDirectory(output_dir).metrics() if line["iteration"] < start_iter]
    return [
        _MetricPrinter(schedule.max_iter, window_size=schedule.log_period),
        _MetricsWriter(Path(output_dir, "metrics.json"), lines, schedule.log_period),
        _TensorBoardWriter(output_dir, schedule, start_iter, lines),
    ]


def latest_scalars(window_size: int) -> dict[str, float]:
    """Returns the last value of everything that is logged, smoothed as the writers do."""
    latest = get_event_storage().latest_with_smoothing_hint(window_size)
    return {name: value for name, (value, _) in latest.items()}


class _MetricPrinter(CommonMetricPrinter):
    # detectron2's line in the log, with the epoch in front.

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.logger = _WithEpoch(self.logger)


class _WithEpoch(logging.LoggerAdapter):
    def process(self, message, kwargs):
        epoch, _ = get_event_storage().latest()["epoch"]
        message = re.sub(r"\S*val_loss/\S+: \S+  ", "", message)  # of some evaluation earlier
        return f" epoch: {epoch:.2f} {message}", kwargs


class _MetricsWriter(EventWriter):
    # metrics.json: a JSON object a line, one for each iteration, in order.

    def __init__(self, path, lines, window_size):
        text = "".join(f"{json.dumps(line, sort_keys=True)}\n" for line in lines)
        write_atomically(path, lambda file: file.write(text.encode()))
        self._file = open(path, "a", encoding="utf-8")
        self._window_size = window_size
        self._last = lines[-1]["iteration"] if lines else -1

    def write(self):
        new = defaultdict(dict)
        storage = get_event_storage()
        for name, (value, i) in storage.latest_with_smoothing_hint(self._window_size).items():
            if i > self._last:
                new[i][name] = value
        for iteration, scalars in sorted(new.items()):
            line = json.dumps({**scalars, "iteration": iteration}, sort_keys=True)
            self._file.write(f"{line}\n")
            self._last = iteration
        self._file.flush()

    def close(self):
        self._file.close()


class _TensorBoardWriter(TensorboardXWriter):
    # Writes every scalar a second time, as `by_epoch/...`, at a step of a thousandth of an epoch.
    # TensorBoard's axis is the iteration, which means something else in a run with another batch
    # size. Its steps are whole numbers.

    def __init__(self, output_dir, schedule, start_iter, lines):
        # TensorBoard forgets all curves from `first` on: what a killed run has written is there,
        # or not. What lies before `start_iter` is written again. Both kinds of steps count.
        self._schedule = schedule
        first = min(start_iter, self._step_by_epoch(start_iter))
        super().__init__(output_dir, window_size=schedule.log_period, purge_step=first)
        self._last_steps = {}  # of each curve by epoch: two iterations may round to one
        for line in lines:
            iteration = line["iteration"]
            scalars = {k: (v, iteration) for k, v in line.items() if k != "iteration"}
            self._add_by_epoch(scalars, first)
            for name, (value, _) in scalars.items() if iteration >= first else ():
                self._writer.add_scalar(name, value, iteration)

    def write(self):
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        self._add_by_epoch({k: v for k, v in latest.items() if v[1] > self._last_write})
        super().write()
        self._writer.flush()  # a killed run has shown what metrics.json has

    def _add_by_epoch(self, scalars, first=0):
        for name, (value, iteration) in scalars.items():
            step = self._step_by_epoch(iteration)
            if step > self._last_steps.get(name, -1):
                self._last_steps[name] = step
                if step >= first:
                    self._writer.add_scalar(f"by_epoch/{name}", value, step)

    def _step_by_epoch(self, iteration):
        return round(1000 * self._schedule.progress(iteration)["epoch"])


class ProgressBar(EventWriter):
    """Shows a bar with the time left, the loss and the last metrics, if the output is a terminal.

    The log scrolls by above the bar.
    """

    def __init__(self, start_iter: int, max_iter: int):
        self.bar = tqdm(
            initial=start_iter,
            total=max_iter,
            unit="it",
            dynamic_ncols=True,
            disable=None if comm.is_main_process() else True,  # None: if it is no terminal
        )
        self._above = contextlib.ExitStack()
        if not self.bar.disable:
            self._above.enter_context(log_above_bar())

    def update(self):
        """Counts one more iteration."""
        self.bar.update()

    def write(self):
        """Shows the latest scalars."""
        self.bar.set_postfix(scalars_for_bar())

    def close(self):
        """Ends the bar."""
        self.bar.close()
        self._above.close()


def scalars_for_bar() -> dict[str, str]:
    """Returns what a bar shows of all that is logged."""
    latest = get_event_storage().latest()
    shown = {"epoch": latest["epoch"][0], "loss": latest["total_loss"][0]}
    shown |= {k: v for k, (v, _) in latest.items() if k.endswith(("/AP", "/mIoU", "/PQ"))}
    return {k: f"{v:.3g}" for k, v in shown.items()}


def log_above_bar():
    """Returns a context in which the log scrolls by above any bar of tqdm's."""
    return logging_redirect_tqdm([logging.getLogger(name) for name in LOGGERS])
