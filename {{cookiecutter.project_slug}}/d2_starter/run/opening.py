"""Opens what a training left, to use its model: a run directory, or a file that was made of one."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.data import Metadata
from torch import nn

from ..data.catalog import get_metadata, recorded_metadata
from ..files.weights import read_weights, to_checkpoint

METADATA = "metadata.json"  # in a run directory and in packed files: of each dataset
PACKED = "packed"  # in the dict of a packed file: its other files, as text by name
KEPT = (
    "thing_classes",
    "thing_colors",
    "stuff_classes",
    "stuff_colors",
    "keypoint_names",
    "keypoint_flip_map",
    "keypoint_connection_rules",
    "thing_dataset_id_to_contiguous_id",
    "stuff_dataset_id_to_contiguous_id",
    "ignore_label",
    "label_divisor",
)


@dataclass
class OpenedRun:
    """An experiment, the file of its weights, and what its classes are called.

    Attributes:
        files: the texts of a packed file by name, such as "metrics.json"; {} of a run directory.
    """

    path: Path
    experiment: object
    weights: str
    metadata: Metadata
    files: dict[str, str]
    trust: bool = False

    def build_model(self, device: str | None = None) -> nn.Module:
        """Builds the model with its weights, in evaluation mode.

        Raises:
            ValueError: the weights are not of this model.
        """
        model = self.experiment.build_model().eval()
        load_weights(model, self.weights, self.trust)
        return model.to(device) if device else model

    def text(self, name: str) -> str | None:
        """Returns the text of one of the run's files, None if it has no such file."""
        if self.files:
            return self.files.get(name)
        file = self.path / name
        return file.read_text(encoding="utf-8") if file.is_file() else None


def open_run(
    path: str | Path,
    load_experiment: Callable,
    weights: str | None = None,
    overrides: Sequence[str] = (),
    trust: bool = False,
) -> OpenedRun:
    """Opens a run directory or a packed file, from any folder.

    The data need not be there if the run has recorded its classes, as packed files have.

    Args:
        load_experiment: of the project, which reads its config.
        weights: a file, also one in the run directory; default: the best checkpoint, if there is
            one, else the last.
        overrides: of keys of its config, as on the command line of a training.
        trust: opens weights that run code, see `files.weights`.

    Raises:
        OSError: there is no such run, or its weights are not there or damaged.
        RefusedWeightsError: the weights would run code.
        ValueError: its config cannot be read, or would run code.
    """
    path = Path(path)
    if path.is_dir():
        config, files = path / "config.yaml", {}
        if not config.is_file():
            raise FileNotFoundError(
                f"'{path}' is no run directory: it has no config.yaml. Give the output folder of a "
                "training, such as output/smoke, or a file made by tools/pack.py."
            )
        recorded = path / METADATA
        recorded = recorded.read_text(encoding="utf-8") if recorded.is_file() else None
        experiment = _load(load_experiment, config, overrides, recorded, trust)
        weights = str(_weights_of(path, weights))
    elif path.is_file():
        files = read_weights(path, trust, mmap=True).get(PACKED)
        if not isinstance(files, dict):
            raise ValueError(
                f"'{path}' has weights, but not the config that they need: it was not made by "
                "tools/pack.py. Give the run directory that it comes from."
            )
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "config.yaml")
            config.write_text(files["config.yaml"], encoding="utf-8")
            experiment = _load(load_experiment, config, overrides, files.get(METADATA), trust)
        weights = weights or str(path)
    else:
        raise FileNotFoundError(
            f"there is no run directory and no packed file '{path}' in {os.getcwd()}."
        )
    name = (*experiment.test_names, *experiment.train_names)[0]
    if path.is_file():
        known = _from_json(files[METADATA]).get(name) or {}
    else:
        known = get_metadata(name).as_dict()
    metadata = Metadata(**{k: v for k, v in known.items() if k != "name"})
    return OpenedRun(path, experiment, weights, metadata, files, trust)


def load_weights(model: nn.Module, path: str, trust: bool = False):
    """Loads all parameters of a model from a file.

    Raises:
        ValueError: some are not in the file, or have another shape.
    """
    state = to_checkpoint(read_weights(path, trust, mmap=True), path)["model"]
    state = {name: torch.as_tensor(value) for name, value in state.items()}
    own = model.state_dict()
    missing = [name for name in own if name not in state and not name.startswith("pixel_")]
    other = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or other:
        such = [f" (such as {names[0]})" if names else "" for names in (missing, other)]
        raise ValueError(
            f"the weights '{path}' are not of this model: they lack {len(missing)} of its "
            f"parameters{such[0]}, and {len(other)} have another shape{such[1]}. Give a checkpoint "
            "that was trained by the config.yaml of this run."
        )
    model.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def metadata_json(names: Sequence[str]) -> str:
    """Returns what drawing and files of results need to know of some datasets, as JSON."""
    found = {name: get_metadata(name).as_dict() for name in names}
    return json.dumps(
        {name: {k: known[k] for k in KEPT if k in known} for name, known in found.items()},
        default=lambda value: getattr(value, "tolist", lambda: str(value))(),
    )


def _load(load_experiment, config, overrides, recorded, trust):
    with recorded_metadata(_from_json(recorded) if recorded else {}):
        return load_experiment(str(config), list(overrides))


def _from_json(text):
    found = json.loads(text)
    for metadata in found.values():
        for key, value in metadata.items():
            if key.endswith("_to_contiguous_id"):  # JSON has no numbers as keys
                metadata[key] = {int(k): v for k, v in value.items()}
    return found


def _weights_of(folder, weights):
    if weights:
        file = folder / weights
        return file if file.is_file() else Path(weights)
    tag = folder / "last_checkpoint"
    last = tag.read_text(encoding="utf-8").strip() if tag.is_file() else ""
    names = [folder / "model_best.pth", folder / Path(last).name if last else folder / "none"]
    found = [file for file in names if file.is_file()]
    if not found:
        raise FileNotFoundError(f"'{folder}' has no checkpoint yet. Name a file of weights.")
    return found[0]
