"""Signs of life of processes, which other machines can read."""

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path

BEAT = 10.0  # seconds between two signs of life, at most


def identity() -> dict:
    """Returns what tells this process from all others, on any machine and in any container."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "started": _start_of(os.getpid()),
    }


def is_running(content: dict) -> bool | None:
    """Returns whether the process with this identity runs; None: that cannot be known from here."""
    if not content.get("started") or content.get("machine") != _machine():
        return None
    return _start_of(content.get("pid")) == content["started"]


def _machine():
    # With the namespace: in a container a process has another number.
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _start_of(pid):
    # When a process began, in ticks since the machine did; "" if it is over, or on other systems.
    with contextlib.suppress(OSError, IndexError):
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = status.rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""


class Heartbeat:
    """Keeps a file that says what this process does, and counts up while the process is alive.

    Only this process writes into the file, and keeps it open: when the file is removed or replaced,
    nothing is written into another one.
    """

    def __init__(self, path: Path, timeout: float, exclusive: bool = False, **content):
        """
        Args:
            timeout: seconds of silence after which this process is taken for dead. It says so in
                the file, for all that look at it.

        Raises:
            FileExistsError: it is to be `exclusive`, and is there.
        """
        self.path = path
        how = os.O_EXCL if exclusive else 0
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_BINARY", 0) | how, 0o666)
        self._content = identity() | {"timeout": timeout, "beats": 0} | content
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
        """Counts up, and adds `content` to the file."""
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
        """Returns whether the file at the path is still this one."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except OSError:
            return False

    def close(self, **content):
        """Writes `content` and ends the heartbeat."""
        with contextlib.suppress(OSError):
            self.beat(**content)
        with self._lock:
            self._closed.set()
            os.close(self._file)


class Watch:
    """Measures for how long other processes have been silent, by the clock of this one."""

    def __init__(self):
        self._seen = {}

    def is_silent(self, path: Path, timeout: float) -> bool:
        """Returns whether a file has not changed for `timeout` seconds of looking.

        A long pause between two looks counts as a quarter of `timeout`: the disk may have been away
        for everybody, or this process may have slept.
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
