"""How far a run and the evaluation of its checkpoints are, on one screen."""

import json
import os
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

from ..experiment import read_config
from .early_stopping import EarlyStopping, best_of
from .evaluator import Backlog
from .run_folder import RunFolder, read_json

SHOWN = 10  # the newest of the checkpoints that are done


def status(run: Path, attempts: int) -> str:
    """
    Args:
        run: folder of the run.
        attempts: see `Backlog`.
    """
    folder = RunFolder(run)
    now = _time_of_disk(folder)
    cfg = read_config(str(run / "config.yaml"))
    backlog = Backlog.look(
        folder, attempts, lambda attempt: now - _modified(attempt.path) < attempt.timeout
    )
    published, results = folder.published(), folder.results()
    rule = EarlyStopping.from_config(cfg)
    best = best_of(rule.metric, results)
    metric = rule.metric.name
    rule.judge({i: results.get(i) for i in published.keys() | results.keys()})

    behind = [i for i in published if i > max(backlog.done, default=-1)]
    lag = behind[-1] - max(backlog.done, default=-1) if behind else 0
    epochs = lag * cfg.SOLVER.IMS_PER_BATCH / max(1, cfg.SOLVER.IMAGES_PER_EPOCH)
    convergence = "early stopping is off (EARLY_STOPPING.PATIENCE is 0)"
    if rule.patience:
        convergence = f"{'yes' if rule.should_stop else 'not yet'}: {rule.reason}"
    lines = [
        ("training", _training(folder, cfg, now)),
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
    took = _duration(last.content.get("seconds", 0))
    return state, last.number, last.by, took, "" if value is None else f"{value:.2f}", error[:60]


def _training(folder, cfg, now):
    log = folder.path / "metrics.json"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    done = json.loads(lines[-1])["iteration"] + 1 if lines else 0
    end = read_json(folder.path / "ended.json")
    if end:
        state = ", ".join(filter(None, (end["status"], end.get("reason"))))
    else:
        beat = _modified(folder.trainer_file())
        state = f"sign of life {_duration(now - beat)} ago" if beat else "not begun"
    return f"{done} of {cfg.SOLVER.MAX_ITER} iterations are logged; {state}"


def _modified(path):
    return path.stat().st_mtime if path.exists() else 0.0


def _time_of_disk(folder):
    """What time it is for the disk, which also says when a file was modified."""
    try:
        with tempfile.TemporaryFile(dir=folder.shared) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # it can only be read
        return time.time()


def _duration(seconds):
    minutes, seconds = divmod(round(max(0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
