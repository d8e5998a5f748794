"""Names and reads the files that a training shares with the evaluators of its checkpoints.

The processes may be on different machines, with clocks that disagree. The contract relies on what
network disks guarantee: exclusive creation of a file, an atomic rename within a directory, and that
flushed data are read by whoever opens the file afterwards. There are no locks, and no clock of
another machine is read: a process is alive as long as the count in its file goes up.

    model_0000099.pth                 a checkpoint, after iteration 99
    metrics_0000099.json              the result of its evaluation
    evaluation/model_0000099.json     says that it is published: without this, evaluators leave it
    evaluation/claim_0000099_1.json   who evaluates it; after a failure, _2 is the next attempt
    evaluation/trainer.json           the training is alive
    ended.json                        how it ended
    damaged/                          what --resume could not read
"""

import contextlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from .atomic import list_numbered, read_json, write_json
from .heartbeat import BEAT, Heartbeat

LAST = "last_checkpoint"  # names the checkpoint that --resume continues
BEST = "model_best.pth"
INTERRUPTED = "model_interrupted.pth"  # for --resume alone: an uninterrupted run has none
STOP_FILE = "training_completed.txt"  # asks the training to stop; its text is the reason
CONVERGED = "converged: "  # begins that text if an evaluator has seen early stopping's condition


@dataclass
class Attempt:
    """Describes one attempt to evaluate a checkpoint."""

    path: Path
    number: int
    content: dict  # empty until its process has written it

    @property
    def status(self) -> str:
        """Returns running, done, failed, or released: given up in order, with no result."""
        return self.content.get("status", "running")

    @property
    def timeout(self) -> float:
        """Returns the seconds of silence after which the process counts as dead."""
        seconds = self.content.get("timeout")
        return seconds if isinstance(seconds, (int, float)) else 60 * BEAT

    @property
    def by(self) -> str:
        """Returns host and process id."""
        return f"{self.content.get('host', '?')}:{self.content.get('pid', '?')}"


class RunDirectory:
    """Reads and writes the files that the text of this module lists."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.shared = self.path / "evaluation"
        self._results = {}

    def publish(self, checkpoint: str, iteration: int):
        """Shows evaluators a complete checkpoint, a file name in this directory."""
        self.shared.mkdir(exist_ok=True)
        content = {"checkpoint": checkpoint, "iteration": iteration, "time": time.time()}
        write_json(self.shared / f"model_{iteration:07d}.json", content)

    def published(self) -> dict[int, dict]:
        """Returns the published checkpoints by iteration: {"checkpoint": name, "time": ...}."""
        found = {}
        for path, (iteration,) in list_numbered(self.shared, r"model_(\d+)\.json"):
            content = read_json(path) or {}
            name = content.get("checkpoint")
            if isinstance(name, str) and os.path.basename(name) == name:  # else it is damaged
                found[iteration] = content
        return found

    def results(self) -> dict[int, dict[str, float]]:
        """Returns the results of evaluations by iteration, each as a line of metrics.json."""
        found = {}
        for path, (iteration,) in list_numbered(self.path, r"metrics_(\d+)\.json"):
            with contextlib.suppress(FileNotFoundError):
                key = path, path.stat().st_mtime_ns
                self._results[key] = self._results.get(key) or read_json(path)
                if self._results[key]:
                    found[iteration] = self._results[key]
        return found

    def result_file(self, iteration: int) -> Path:
        """Returns where the result of this checkpoint's evaluation is, or will be."""
        return self.path / f"metrics_{iteration:07d}.json"

    def attempts(self) -> dict[int, list[Attempt]]:
        """Returns the attempts to evaluate each checkpoint, by iteration, in their order."""
        found = {}
        for path, (iteration, number) in list_numbered(self.shared, r"claim_(\d+)_(\d+)\.json"):
            attempt = Attempt(path, number, read_json(path) or {})
            found.setdefault(iteration, []).append(attempt)
        return found

    def claim(self, iteration: int, number: int, timeout: float) -> Heartbeat | None:
        """Begins an attempt; returns None if another process was faster."""
        path = self.shared / f"claim_{iteration:07d}_{number}.json"
        with contextlib.suppress(FileExistsError):
            return Heartbeat(path, timeout, exclusive=True, status="running")

    def end(self) -> str | None:
        """Returns how the training ended; None while it goes on, or is to be resumed."""
        status = (read_json(self.path / "ended.json") or {}).get("status")
        return None if status == "interrupted" else status

    def reason(self) -> str:
        """Returns why the training ended."""
        return str((read_json(self.path / "ended.json") or {}).get("reason", "no reason given"))

    def write_end(self, status: str, reason: str | None = None):
        """Writes how the training ended."""
        content = {"status": status} | ({"reason": reason} if reason else {})
        write_json(self.path / "ended.json", content)

    def set_aside(self, path: Path, copy: bool = False) -> Path:
        """Moves what is damaged into `damaged/`, or copies it; returns where it is then."""
        folder, number = self.path / "damaged", 0
        if not folder.is_dir():
            folder.unlink(missing_ok=True)
            folder.mkdir()
        while os.path.lexists(target := folder / f"{path.name}{f'.{number}' if number else ''}"):
            number += 1
        shutil.copy2(path, target) if copy else os.replace(path, target)
        return target

    def last_checkpoint(self) -> Path | None:
        """Returns the checkpoint that `--resume` continues; None if no existing file is named."""
        try:
            name = (self.path / LAST).read_text(encoding="utf-8").strip()
            path = self.path / name
            is_inside = name and os.path.basename(name) == name and path.is_file()
        except (OSError, ValueError):  # no such file, a folder, or not text
            return None
        return path if is_inside else None

    def metrics(self) -> list[dict]:
        """Returns the lines of metrics.json, one for each iteration, in order.

        Lines that a killed process or a damaged disk has left unreadable are left out.
        """
        by_iteration = {}
        with contextlib.suppress(OSError), open(self.path / "metrics.json", "rb") as file:
            for text in file:
                with contextlib.suppress(
                    ArithmeticError, KeyError, RecursionError, TypeError, ValueError
                ):
                    line = json.loads(text)
                    by_iteration[int(line["iteration"])] = line
        return [line for _, line in sorted(by_iteration.items())]

    def trainer_file(self) -> Path:
        """Returns the file in which the training shows that it is alive."""
        return self.shared / "trainer.json"
