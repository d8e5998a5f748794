"""Repairs a damaged run directory, so that `--resume` goes on from the newest whole checkpoint."""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..files.atomic import list_numbered, read_json, write_atomically
from ..files.owner import Refused
from ..files.run_directory import BEST, LAST, STOP_FILE, RunDirectory
from ..files.weights import RefusedWeightsError
from .checkpoint import read_checkpoint

FOLDERS = ("evaluation", "inference", "predictions")
FILES = (LAST, ".diff", ".json", ".pth", ".txt", ".yaml")  # how their names end


def why_damaged(checkpoint: Path) -> str | None:
    """Returns why a checkpoint cannot be continued; None if it is whole, to the last byte."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            if broken := archive.testzip():
                return f"its part {broken} is damaged"
    except (OSError, zipfile.BadZipFile) as error:
        return getattr(error, "strerror", None) or str(error).partition("\n")[0][:100] or "empty"
    try:
        saved = read_checkpoint(checkpoint)
    except RefusedWeightsError:
        return "to open it is to run code"
    except OSError:
        return "it is no checkpoint"
    lacks = [key for key in ("model", "iteration") if key not in saved]
    return f"it has no {lacks[0]}" if lacks else None


def repair(folder: Path) -> list[str]:
    """Moves what is damaged in a run directory into `damaged/` in it.

    Returns:
        what was done, in sentences.

    Raises:
        Refused: there are checkpoints, but no whole one.
    """
    directory = RunDirectory(folder)
    done = list(_replace_kinds(directory))
    done += _choose_checkpoint(directory)
    best = folder / BEST
    if best.exists() and (why := why_damaged(best)):
        done.append(f"{BEST} ({why}) is in {directory.set_aside(best)}: the next one is made anew")
    done += _check_records(directory)
    return done


def _replace_kinds(directory) -> Iterator[str]:
    # Folders where files have to be, files where folders have to be, and what cannot be read.
    for path in [*directory.path.iterdir(), *_list(directory.shared)]:
        if path.name in FOLDERS and path.parent == directory.path:
            is_wrong = not path.is_dir()
        else:
            is_known = path.name.endswith(FILES) and path.name != STOP_FILE
            is_wrong = is_known and not _is_readable(path)
        if is_wrong:
            yield f"{path.name} could not be read, and is in {directory.set_aside(path)}"


def _list(folder):
    return folder.iterdir() if folder.is_dir() else ()


def _is_readable(path):
    try:
        with open(path, "rb") as file:
            file.read(1)
        return True
    except OSError:
        return False


def _choose_checkpoint(directory) -> Iterator[str]:
    last = directory.last_checkpoint()
    others = [path for path in directory.path.glob("model_*.pth") if path.name != BEST]
    if not last and not others:
        return
    damaged = {}
    if last and (why := why_damaged(last)):
        damaged[last] = why
    if not last or damaged:
        whole = {}
        for path in others:
            if path not in damaged and (why := why_damaged(path)):
                damaged[path] = why
            elif path not in damaged:
                whole[read_checkpoint(path)["iteration"]] = path
        listed = "; ".join(f"{path.name}: {why}" for path, why in damaged.items())
        if not whole:
            raise Refused(
                f"no checkpoint in {directory.path} is whole ({listed}). Without --resume, "
                "training starts afresh, and this directory is moved aside."
            )
        last = whole[max(whole)]
        name = last.name.encode()
        write_atomically(directory.path / LAST, lambda file: file.write(name))
        yield f"{LAST} did not name a whole checkpoint: training goes on from {last.name}"
    for path, why in damaged.items():
        yield f"{path.name} ({why}) is in {directory.set_aside(path)}"
    yield from _forget_after(directory, read_checkpoint(last)["iteration"])


def _forget_after(directory, iteration) -> Iterator[str]:
    # What is trained again is published and evaluated again.
    forgotten = set()
    for folder, pattern in (
        (directory.shared, r"model_(\d+)\.json"),
        (directory.shared, r"claim_(\d+)_\d+\.json"),
        (directory.path, r"metrics_(\d+)\.json"),
    ):
        for path, (number,) in list_numbered(folder, pattern):
            if number > iteration:
                directory.set_aside(path)
                forgotten.add(number)
    if forgotten:
        yield f"iterations {min(forgotten)} to {max(forgotten)} are evaluated again"


def _check_records(directory) -> Iterator[str]:
    for path, (iteration,) in list_numbered(directory.path, r"metrics_(\d+)\.json"):
        if read_json(path) is None:
            yield f"{path.name} is damaged, and in {directory.set_aside(path)}"
            for claim, _ in list_numbered(directory.shared, rf"claim_0*({iteration})_\d+\.json"):
                claim.unlink(missing_ok=True)
    for path, (iteration,) in list_numbered(directory.shared, r"model_(\d+)\.json"):
        if iteration not in directory.published():
            yield f"{path.name} is damaged, and in {directory.set_aside(path)}"
            checkpoint = f"model_{iteration:07d}.pth"
            if (directory.path / checkpoint).exists():
                directory.publish(checkpoint, iteration)
    metrics = directory.path / "metrics.json"
    with contextlib.suppress(FileNotFoundError):
        lines = metrics.read_bytes().count(b"\n")  # half a line at the end is a killed process's
        if lost := max(0, lines - len(directory.metrics())):
            kept = directory.set_aside(metrics, copy=True)
            yield f"{lost} lines of metrics.json are damaged, and left out; {kept} is as it was"
