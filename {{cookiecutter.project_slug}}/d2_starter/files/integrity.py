"""Finds the files of the library that differ from those that came with the template.

uv run tools/check_library.py

The exit status is 1 if there are any. An update replaces the library whole, and with it such files.
"""

import argparse
import hashlib
import sys
from pathlib import Path

from .. import __version__
from .atomic import read_json

LIBRARY = Path(__file__).parents[1]
MANIFEST = "MANIFEST.json"


def hash_files(folder: Path = LIBRARY) -> dict[str, str]:
    """Returns the SHA-256 of each file by its path in the folder, whatever its line endings are."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes().replace(b"\r\n", b"\n")
        ).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.name != MANIFEST
    }


def compare(folder: Path = LIBRARY) -> dict[str, list[str]]:
    """Returns the paths of the files that are `edited`, `missing` and `extra`.

    Raises:
        FileNotFoundError: there is no manifest to compare with.
    """
    expected, found = read_json(folder / MANIFEST), hash_files(folder)
    if expected is None:
        raise FileNotFoundError(
            f"{folder / MANIFEST} is missing or damaged: restore it from git, or update."
        )
    both = expected.keys() & found.keys()
    return {
        "edited": sorted(name for name in both if expected[name] != found[name]),
        "missing": sorted(expected.keys() - found.keys()),
        "extra": sorted(found.keys() - expected.keys()),
    }


def main():
    """Runs the command."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    try:
        changes = compare()
    except FileNotFoundError as error:
        sys.exit(str(error))
    for how, names in changes.items():
        for name in names:
            print(f"{how:8} {LIBRARY.name}/{name}")
    if any(changes.values()):
        sys.exit(1)
    print(f"{LIBRARY.name} {__version__} is as it came with the template.")
