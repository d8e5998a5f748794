"""One training at a time in a run directory, which stays its own while it lives."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from .atomic import read_json
from .heartbeat import BEAT, Heartbeat, is_running
from .run_directory import RunDirectory

_owned: dict[Path, Heartbeat] = {}  # the run directories of this process


class Refused(ValueError):
    """Says why a command does nothing, and what to type instead: there is no fault in a program."""


class Lost(OSError):
    """Says that a run directory is not this process's own any more."""


def check_free(folder: Path, say: Callable[[str], None]):
    """Checks that no training lives in a run directory.

    A training on another machine, or in a container, is known by its heartbeat alone: this waits
    until that goes on, or was silent for long enough.

    Args:
        say: called with what is waited for.

    Raises:
        Refused: a training lives there.
    """
    file = RunDirectory(folder).trainer_file()
    release(folder, unused=True)
    seen = read_json(file)
    if not seen or seen.get("status") == "ended":
        return
    lives = is_running(seen)
    if lives is None:
        timeout = float(seen.get("timeout", 6 * BEAT))
        end = time.monotonic() + timeout
        say(
            f"A training on {seen.get('host')} has not said that it has ended in {folder}: waiting "
            f"for up to {timeout:g} s for a sign of life."
        )
        now = seen
        while now == seen and time.monotonic() < end:
            time.sleep(min(1, timeout / 10))
            now = read_json(file)
        lives = bool(now) and now != seen and now.get("status") != "ended"
    if lives:
        raise Refused(
            f"a training lives in {folder} (process {seen.get('pid')} on {seen.get('host')}). Give "
            "this one another directory, or end that one first: training_completed.txt in its "
            "directory stops it after its current iteration."
        )


def take(folder: Path):
    """Makes a run directory, in which no training lives, this process's own.

    Raises:
        Refused: another training was faster.
    """
    directory = RunDirectory(folder)
    file = directory.trainer_file()
    if os.path.lexists(directory.shared) and not directory.shared.is_dir():
        directory.set_aside(directory.shared)
    directory.shared.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        directory.set_aside(file)
    file.unlink(missing_ok=True)
    try:
        heartbeat = Heartbeat(file, timeout=6 * BEAT, exclusive=True)
    except FileExistsError:
        raise Refused(f"another training has just begun in {folder}.") from None
    heartbeat.is_used = False
    _owned[folder.resolve()] = heartbeat


def use(folder: Path):
    """Marks a directory as that of a training that goes on; takes it, if that was not done."""
    if folder.resolve() not in _owned:
        take(folder)
    _owned[folder.resolve()].is_used = True


def owns(folder: Path) -> bool:
    """Returns whether this process has taken the directory, and still has it."""
    heartbeat = _owned.get(folder.resolve())
    return heartbeat is not None and heartbeat.is_in_place()


def check_owned(folder: Path):
    """Checks that a directory which was taken still is this process's own.

    Raises:
        Lost: it was moved, or another training has it.
    """
    heartbeat = _owned.get(folder.resolve())
    if heartbeat and not heartbeat.is_in_place():
        raise Lost(
            f"{folder} was moved or taken by another training: this one ends, and writes no more."
        )


def release(folder: Path, unused: bool = False):
    """Says that the training has ended, and gives its directory back.

    Args:
        unused: only if no training goes on in it, as after an error while one was prepared.
    """
    heartbeat = _owned.get(folder.resolve())
    if heartbeat and not (unused and heartbeat.is_used):
        del _owned[folder.resolve()]
        with contextlib.suppress(OSError):
            heartbeat.close(status="ended")
