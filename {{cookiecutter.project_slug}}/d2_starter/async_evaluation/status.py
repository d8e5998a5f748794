"""Says how far a run and the evaluation of its checkpoints are, on one screen."""

import os
import re
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from ..evaluation.early_stopping import EarlyStopping, best_of
from ..files.atomic import read_json
from ..files.run_directory import RunDirectory
from .evaluator import Backlog

SHOWN = 10  # the newest of the checkpoints that are done


def status(run: Path, attempts: int, load_experiment) -> str:
    """Returns the state of training, checkpoints and evaluation, as text.

    Args:
        run: the run directory.
        attempts: see `Backlog`.
        load_experiment: reads a config file.
    """
    folder = RunDirectory(run)
    now = time_of_disk(folder)
    experiment = load_experiment(str(run / "config.yaml"))
    schedule = experiment.schedule
    backlog = Backlog.look(
        folder, attempts, lambda attempt: now - modified(attempt.path) < attempt.timeout
    )
    published, results = folder.published(), folder.results()
    rule = EarlyStopping(**experiment.early_stopping)
    best = best_of(rule.metric, results)
    metric = rule.metric.name
    rule.update_from_results({i: results.get(i) for i in published.keys() | results.keys()})

    behind = [i for i in published if i > max(backlog.done, default=-1)]
    lag = behind[-1] - max(backlog.done, default=-1) if behind else 0
    epochs = lag * schedule.batch_size / max(1, schedule.images_per_epoch)
    convergence = "early stopping is off (its patience is 0)"
    if rule.patience:
        convergence = f"{'yes' if rule.should_stop else 'not yet'}: {rule.reason}"
    lines = [
        ("training", _training(folder, schedule.max_iter, now)),
        (
            "checkpoints",
            f"{len(published)} published: {len(backlog.done)} done, {len(backlog.claimed)} "
            f"claimed, {len(backlog.open)} open, {len(backlog.failed)} failed",
        ),
        ("lag", f"{len(behind)} checkpoints, {epochs:.4g} epochs behind the newest"),
        ("best", "none yet" if best is None else f"{metric} {results[best][metric]:.2f} at "
         f"iteration {best}"),
        ("convergence", convergence),
    ]  # fmt: skip
    begun = folder.attempts()
    hidden = set(backlog.done[:-SHOWN])
    rows = [
        [checkpoint["checkpoint"], *_row(backlog, i, begun.get(i), results.get(i, {}).get(metric))]
        for i, checkpoint in published.items()
        if i not in hidden
    ]
    headers = ["checkpoint", "state", "attempt", "by", "for", metric, "error"]
    text = "\n".join(f"{name:14}{value}" for name, value in lines)
    text += "\n\n" + tabulate(rows, headers, disable_numparse=True)
    return text + (f"\nand {len(hidden)} earlier ones that are done" if hidden else "")


def _row(backlog, iteration, attempts, value):
    states = {"done": backlog.done, "claimed": backlog.claimed, "failed": backlog.failed}
    state = next((name for name, those in states.items() if iteration in those), "open")
    if not attempts:
        return state, "", "", "", "", ""
    last = attempts[-1]
    error = last.content.get("error", "").strip().rpartition("\n")[2]
    error = re.sub(r"^(\w+\.)+", "", error)  # the module
    took = _duration(last.content.get("seconds", 0))
    return state, last.number, last.by, took, "" if value is None else f"{value:.2f}", error[:60]


def _training(folder, max_iter, now):
    lines = folder.metrics()
    done = lines[-1]["iteration"] + 1 if lines else 0
    end = read_json(folder.path / "ended.json")
    if end:
        state = ", ".join(filter(None, (end["status"], end.get("reason"))))
    else:
        beat = modified(folder.trainer_file())
        state = f"sign of life {_duration(now - beat)} ago" if beat else "not begun"
    return f"{done} of {max_iter} iterations are logged; {state}"


def modified(path: Path) -> float:
    """Returns when a file was modified, by the disk's clock; 0 if there is none."""
    return path.stat().st_mtime if path.exists() else 0.0


def time_of_disk(folder: RunDirectory) -> float:
    """Returns what time it is for the disk, which also says when a file was modified."""
    try:
        with tempfile.TemporaryFile(dir=folder.shared) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # it can only be read
        return time.time()


def _duration(seconds):
    minutes, seconds = divmod(round(max(0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
