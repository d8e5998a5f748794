"""What a training and the evaluators of its checkpoints share: files in the folder of the run.

They may be on different machines, with clocks that disagree. They rely on what network disks give
too: that a file is created by one process only, that a rename within a folder is atomic, and that
what was flushed is read by who opens the file afterwards. No lock is used, and no clock of another
machine: a process is alive as long as the count in its file goes up.

    model_0000099.pth                 a checkpoint, after iteration 99
    metrics_0000099.json              the result of its evaluation
    evaluation/model_0000099.json     says that it is published: without this, evaluators leave it
    evaluation/claim_0000099_1.json   who evaluates it; after a failure, _2 is the next attempt
    evaluation/trainer.json           the training is alive
    ended.json                        how it ended
"""

import contextlib
import json
import os
import re
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

BEAT = 10.0  # seconds between two signs of life, at most


def write_whole(path: str | Path, write, exclusively: bool = False) -> bool:
    """Calls `write` with a binary file, which appears at `path` when it is whole, or not at all.

    Args:
        exclusively: a file that is there already stays.

    Returns:
        whether it is this file that is there now.
    """
    path = Path(path)
    # Nobody else's; and not the whole name, in which TensorBoard looks for "tfevents".
    temporary = path.with_name(f".{path.name.partition('.')[0]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if not exclusively:
            os.replace(temporary, path)
            return True
        return _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content, exclusively: bool = False) -> bool:
    """As `write_whole`."""
    text = json.dumps(content) + "\n"
    return write_whole(path, lambda file: file.write(text.encode()), exclusively)


def _link(temporary, path):
    try:
        os.link(temporary, path)
        return True
    except FileExistsError:
        # NFS may have done it although its answer got lost, and be asked again.
        return os.stat(temporary).st_nlink == 2
    except OSError:  # a file system without hard links
        if path.exists():
            return False
        os.rename(temporary, path)
        return True


def read_json(path: Path) -> dict | None:
    """What is in a file; None if it is not there, or not whole."""
    try:
        return json.JSONDecoder().raw_decode(path.read_text(encoding="utf-8"))[0]
    except (OSError, ValueError):
        return None


def list_numbered(folder: Path, pattern: str) -> list[tuple[Path, tuple[int, ...]]]:
    """The files whose names match, with the numbers in them, in their order."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    matches = [match for name in names if (match := re.fullmatch(pattern, name))]
    found = [(folder / match[0], tuple(map(int, match.groups()))) for match in matches]
    return sorted(found, key=lambda file: file[1])


class Heartbeat:
    """A file that says what this process does, and counts up while it is alive.

    Only this process writes into it, and it keeps it open: when the file is removed, or another is
    in its place, what is written still goes nowhere else.
    """

    def __init__(self, path: Path, timeout: float, exclusively: bool = False, **content):
        """
        Args:
            timeout: seconds of silence after which this process is taken for dead. It says so in
                the file, for all that look at it.

        Raises:
            FileExistsError: it is to be made exclusively, and is there.
        """
        self.path = path
        how = os.O_EXCL if exclusively else 0
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_BINARY", 0) | how, 0o666)
        self._content = {"host": socket.gethostname(), "pid": os.getpid(), "timeout": timeout}
        self._content |= {"beats": 0} | content
        self._period = min(BEAT, timeout / 6)
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        try:
            self.beat()
        except OSError:
            os.close(self._file)
            path.unlink(missing_ok=True)
            raise
        threading.Thread(target=self._go_on, daemon=True).start()

    def beat(self, **content):
        with self._lock:
            if self._closed.is_set():  # the number of its file may be another file's now
                return
            self._content |= content
            self._content["beats"] += 1
            self._content["seconds"] = round(time.monotonic() - self._start, 1)
            data = json.dumps(self._content).encode() + b"\n"
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, data)
            os.ftruncate(self._file, len(data))
            os.fsync(self._file)

    def _go_on(self):
        while not self._closed.wait(self._period):
            with contextlib.suppress(OSError):  # a full disk, or a network that comes back
                self.beat()

    def is_in_place(self) -> bool:
        """Whether it is still this file that is at its path."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except OSError:
            return False

    def close(self, **content):
        """Says the last thing there is to say."""
        with contextlib.suppress(OSError):
            self.beat(**content)
        with self._lock:
            self._closed.set()
            os.close(self._file)


class Watch:
    """For how long processes have been silent, by the clock of this one."""

    def __init__(self):
        self._seen = {}

    def is_silent(self, path: Path, timeout: float) -> bool:
        """Whether a file has not changed for so many seconds, in which it was looked at.

        A long time between two looks counts as a quarter of that: the disk may not have been there
        for anybody, or this process may have slept.
        """
        try:
            content = path.read_bytes()
        except OSError:
            content = None
        now = time.monotonic()
        before, looked, silence = self._seen.get(path, (content, now, 0.0))
        silence = silence + min(now - looked, timeout / 4) if content == before else 0.0
        self._seen[path] = content, now, silence
        return silence >= timeout


@dataclass
class Attempt:
    """An evaluation of a checkpoint that was begun."""

    path: Path
    number: int
    content: dict  # empty until its process has written it

    @property
    def status(self) -> str:
        """One of running, done, failed, and released: nothing came of it, but nothing is wrong."""
        return self.content.get("status", "running")

    @property
    def timeout(self) -> float:
        """Seconds of silence after which its process is dead."""
        return self.content.get("timeout", 60 * BEAT)

    @property
    def by(self) -> str:
        return f"{self.content.get('host', '?')}:{self.content.get('pid', '?')}"


class RunFolder:
    """The files that the module's text lists."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.shared = self.path / "evaluation"
        self._results = {}

    def publish(self, checkpoint: str, iteration: int):
        """Shows evaluators a checkpoint, which is whole: a file name in this folder."""
        self.shared.mkdir(exist_ok=True)
        content = {"checkpoint": checkpoint, "iteration": iteration, "time": time.time()}
        write_json(self.shared / f"model_{iteration:07d}.json", content)

    def published(self) -> dict[int, dict]:
        """By iteration, in its order: {"checkpoint": its file name, "time": ..., "iteration"}."""
        contents = (read_json(path) for path, _ in list_numbered(self.shared, r"model_(\d+)\.json"))
        return {content["iteration"]: content for content in contents if content}

    def results(self) -> dict[int, dict[str, float]]:
        """By iteration, in its order: the metrics, as in a line of metrics.json."""
        found = {}
        for path, (iteration,) in list_numbered(self.path, r"metrics_(\d+)\.json"):
            with contextlib.suppress(FileNotFoundError):
                key = path, path.stat().st_mtime_ns
                self._results[key] = self._results.get(key) or read_json(path)
                if self._results[key]:
                    found[iteration] = self._results[key]
        return found

    def result_file(self, iteration: int) -> Path:
        return self.path / f"metrics_{iteration:07d}.json"

    def attempts(self) -> dict[int, list[Attempt]]:
        """To evaluate checkpoints, by iteration, in their order."""
        found = {}
        for path, (iteration, number) in list_numbered(self.shared, r"claim_(\d+)_(\d+)\.json"):
            attempt = Attempt(path, number, read_json(path) or {})
            found.setdefault(iteration, []).append(attempt)
        return found

    def claim(self, iteration: int, number: int, timeout: float) -> Heartbeat | None:
        """Begins an attempt; None if another process was faster."""
        path = self.shared / f"claim_{iteration:07d}_{number}.json"
        with contextlib.suppress(FileExistsError):
            return Heartbeat(path, timeout, exclusively=True, status="running")

    def end(self) -> str | None:
        """How the training ended; None while it goes on, or is to be resumed."""
        status = (read_json(self.path / "ended.json") or {}).get("status")
        return None if status == "interrupted" else status

    def trainer_file(self) -> Path:
        return self.shared / "trainer.json"
