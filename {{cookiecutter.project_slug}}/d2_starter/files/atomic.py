"""Atomic writing of files, also on network disks."""

import json
import os
import re
import secrets
from pathlib import Path


def write_atomically(path: str | Path, write, exclusive: bool = False) -> bool:
    """Writes a file atomically: a reader sees the complete file, or none.

    Args:
        write: called with the binary file to fill.
        exclusive: keeps a file that exists already.

    Returns:
        whether the file at `path` is the one written here.
    """
    path = Path(path)
    # Nobody else's; and not the whole name, in which TensorBoard looks for "tfevents".
    temporary = path.with_name(f".{path.name.partition('.')[0]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if not exclusive:
            os.replace(temporary, path)
            return True
        return _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content, exclusive: bool = False) -> bool:
    """Writes an object as JSON, as `write_atomically` does."""
    text = json.dumps(content) + "\n"
    return write_atomically(path, lambda file: file.write(text.encode()), exclusive)


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
    """Reads a JSON object; returns None if the file is missing, damaged, or holds no object."""
    try:
        content = json.JSONDecoder().raw_decode(Path(path).read_text(encoding="utf-8"))[0]
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def list_numbered(folder: Path, pattern: str) -> list[tuple[Path, tuple[int, ...]]]:
    """Returns the files whose names match, with the numbers in their names, sorted by number."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    matches = [match for name in names if (match := re.fullmatch(pattern, name))]
    found = [(folder / match[0], tuple(map(int, match.groups()))) for match in matches]
    return sorted(found, key=lambda file: file[1])
