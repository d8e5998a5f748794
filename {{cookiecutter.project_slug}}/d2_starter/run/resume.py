"""Compares the config of a run that is resumed with the one that it had."""

import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..config.experiment import Experiment
from ..data.catalog import get_metadata
from ..files.atomic import read_json
from ..files.owner import Refused
from .opening import METADATA

# What says which images come next, or what the weights mean: a run that went on with another would
# be neither of both. docs/resume.md of the template has the whole table.
FIXED = (
    "batch_size",
    "images_per_epoch",
    "seed",
    "test_names",
    "test_subset_ratio",
    "test_subset_seed",
    "train_names",
    "train_subset_ratio",
    "train_subset_seed",
)
FIXED_KEYS = re.compile(
    r"(?i).*(anchor_generator|aspect_ratio_grouping|num_classes|num_keypoints|pixel_mean|"
    r"pixel_std|meta_architecture|sampler_train|image_format|input\.format|input_format|mask_on|"
    r"keypoint_on|model\._target_).*"
)
# What no resumed run reads, or what says nothing of the run itself.
KEPT = ("output_dir", "weights")


END = "# The end.\n"  # of config.yaml; one that was cut is not compared

logger = logging.getLogger(__name__)


def read_earlier(
    path: Path, load_experiment: Callable[[str, list[str]], Experiment]
) -> Experiment | None:
    """Reads config.yaml of an earlier training; returns None if it cannot be read."""
    if not path.exists():
        return None
    try:
        if not path.read_bytes().endswith(END.encode()):
            raise ValueError("its end is missing")
        return load_experiment(str(path), [])
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        logger.warning(
            "%s of the run that is resumed cannot be read (%s): what has changed since is not known, "
            "and seeds that were drawn are drawn anew.",
            path,
            error,
        )
        return None


def _changed_classes(experiment):
    # Also where their number is the same.
    had = read_json(Path(experiment.output_dir, METADATA)) or {}
    for name in experiment.train_names:
        for kind in ("thing_classes", "stuff_classes"):
            before, now = had.get(name, {}).get(kind), get_metadata(name).get(kind)
            if before is not None and before != list(now or ()):
                yield f"{kind} of {name} {list(now or ())} (were {before})"


def check_changes(
    experiment: Experiment,
    had: Experiment,
    load_experiment: Callable[[str, list[str]], Experiment],
):
    """Logs what is another in the config than it was, and holds from the next iteration on.

    What is not read by a run that is resumed, as the weights, is as it was afterwards.

    Args:
        had: the experiment before.

    Raises:
        Refused: the run cannot go on with it.
    """
    if had.weights != experiment.weights:
        experiment.weights = had.weights
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        experiment.save(file)  # then both are spelled alike
        now = load_experiment(str(file), []).flat()
    before = had.flat()
    kept = {experiment.name_of(name) for name in KEPT}
    changed = {
        key: f"{key} {now.get(key, 'none')!r} (was {before.get(key, 'none')!r})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in kept
    }
    fixed = {experiment.name_of(name) for name in FIXED}
    refused = [text for key, text in changed.items() if key in fixed or FIXED_KEYS.fullmatch(key)]
    refused += _changed_classes(experiment)
    if refused:
        number = experiment.name_of("images_per_epoch")
        reason = f" {number}: images were added, or removed." if number in changed else ""
        raise Refused(
            f"the run in {experiment.output_dir} cannot go on with {'; '.join(refused)}.{reason} "
            "Give what it had, or start a new run from its weights, by "
            f"{experiment.name_of('weights')} and another {experiment.name_of('output_dir')}."
        )
    if changed:
        logger.info("Changed, from the next iteration on: %s", "; ".join(changed.values()))
