"""Describes a run and its project, for the files that leave the project."""

import inspect
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

from detectron2.data import transforms as T

from ..data.tiles import TileMapper
from ..run.opening import OpenedRun


def project_root(load_experiment: Callable) -> Path | None:
    """Returns the folder of the project that a function belongs to: it has a pyproject.toml."""
    file = Path(inspect.getfile(load_experiment)).resolve()
    return next((p for p in file.parents if (p / "pyproject.toml").is_file()), None)


def project_facts(load_experiment: Callable) -> dict[str, str]:
    """Returns `project`, `version` and `licence` of the project, as far as it says them."""
    root = project_root(load_experiment)
    if root is None:
        return {}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get(
        "project", {}
    )
    facts = {"project": project.get("name", root.name), "version": project.get("version", "")}
    licence = project.get("license")
    file = root / "LICENSE"
    if not isinstance(licence, str) and file.is_file():
        lines = file.read_text(encoding="utf-8").split("\n")
        lines = [" ".join(line.split()) for line in lines if line.strip()]
        # Of Apache's, the version is in the second line.
        licence = ", ".join(lines[: 2 if lines[1:2] and lines[1].startswith("Version") else 1])
    return facts | {"licence": licence if isinstance(licence, str) else "none was given"}


def commit(run: OpenedRun) -> str:
    """Returns the commit that the run was trained at, as its environment.txt says."""
    first = (run.text("environment.txt") or "").partition("\n")[0]
    return first.partition("git commit: ")[2] or "not known"


def preprocessing(mapper) -> dict:
    """Returns what the mapper does to a test image before the model gets it.

    Mean and standard deviation are no part of it: the model subtracts and divides itself.
    """
    augmentations = getattr(getattr(mapper, "augmentations", None), "augs", [])
    facts = {"channels": getattr(mapper, "image_format", "see the project's mapper")}
    if len(augmentations) == 1 and isinstance(augmentations[0], T.ResizeShortestEdge):
        resize = augmentations[0]
        facts["short_side"] = int(resize.short_edge_length[0])
        facts["longest_side"] = int(resize.max_size)
        facts["resize"] = "bilinear with antialiasing, as Pillow"
    else:
        facts["resize"] = "; ".join(map(repr, augmentations)) or "see the project's mapper"
    if isinstance(mapper, TileMapper):
        facts["tiles"] = "of {} x {} pixels, overlap {}".format(*mapper.size, mapper.overlap)
    return facts | {"orientation": "upright, by Exif", "values": "uint8, 0 to 255"}


def last_metrics(run: OpenedRun) -> dict[str, float]:
    """Returns the metrics of the checkpoint's iteration in metrics.json, else of the last there."""
    from ..files.weights import read_weights

    lines = []
    for line in (run.text("metrics.json") or "").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # cut off by a kill
            continue
    evaluated = [
        line for line in lines if any("/AP" in k or "mIoU" in k or "PQ" in k for k in line)
    ]
    iteration = read_weights(run.weights, run.trust, mmap=True).get("iteration")
    at = [line for line in evaluated if line.get("iteration") == iteration]
    if not evaluated:
        return {}
    chosen = (at or evaluated)[-1]
    return {k: v for k, v in chosen.items() if "/" in k and isinstance(v, int | float)}
