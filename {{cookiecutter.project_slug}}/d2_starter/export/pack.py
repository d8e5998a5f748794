"""One file of a run: weights, config, classes, environment, metrics, model card."""

from collections.abc import Callable
from pathlib import Path

import torch

from ..files.atomic import write_atomically
from ..files.weights import read_weights
from ..run.opening import METADATA, PACKED, OpenedRun, metadata_json
from .about import project_root
from .model_card import model_card

CARD = "README.md"
TEXTS = ("config.yaml", "environment.txt", "git.diff", "metrics.json", "ended.json")
TEXTS += ("thresholds.json", "intervals.json")
OTHERS = (METADATA, "uv.lock", CARD)


def pack(run: OpenedRun, load_experiment: Callable, file: Path, for_resume: bool = False):
    """Writes the packed file. It is a checkpoint, too: whatever loads weights can load it.

    Args:
        for_resume: with the state of optimizer and schedule, as the checkpoint has it.

    Raises:
        OSError: it cannot be written.
    """
    checkpoint = read_weights(run.weights, run.trust)
    if not for_resume:
        kept = ("model", "iteration", "metric", "value")
        checkpoint = {k: v for k, v in checkpoint.items() if k in kept}
    elif "optimizer" not in checkpoint:
        raise ValueError(
            f"{run.weights} has the model alone: nothing goes on from it. Give --weights and the "
            "checkpoint that is to be resumed."
        )
    texts = {name: text for name in TEXTS if (text := run.text(name)) is not None}
    names = (*run.experiment.test_names, *run.experiment.train_names)
    texts[METADATA] = run.text(METADATA) or metadata_json(names)
    root = project_root(load_experiment)
    if root and (root / "uv.lock").is_file():
        texts["uv.lock"] = (root / "uv.lock").read_text(encoding="utf-8")
    texts[CARD] = model_card(run, load_experiment)
    content = {**checkpoint, PACKED: texts}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda opened: torch.save(content, opened))


def unpack(file: Path, folder: Path) -> list[str]:
    """Makes a run directory of a packed file, and returns the names of its files.

    Raises:
        FileExistsError: there is something in the folder.
        OSError, ValueError: the file cannot be read, or is no packed file.
    """
    checkpoint = read_weights(file)
    texts = checkpoint.pop(PACKED, None)
    if not isinstance(texts, dict):
        raise ValueError(f"'{file}' was not made by tools/pack.py: there is no config in it.")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"there are files in {folder}: give a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in (*TEXTS, *OTHERS) if isinstance(texts.get(name), str)]  # and no paths
    for name in names:
        (folder / name).write_text(texts[name], encoding="utf-8")
    if "optimizer" in checkpoint:
        name = f"model_{int(checkpoint.get('iteration', 0)):07d}.pth"
        (folder / "last_checkpoint").write_text(name, encoding="utf-8")
    else:
        name = "model_best.pth"
    write_atomically(folder / name, lambda opened: torch.save(checkpoint, opened))
    return [*names, name]


def packed_card(file: Path) -> str:
    """Returns the model card in a packed file."""
    return read_weights(file, mmap=True)[PACKED][CARD]
