"""Finds the best model so far, and stops a training that does not improve any more."""

import logging
import re
from collections.abc import Collection, Mapping

from detectron2.utils import comm

logger = logging.getLogger(__name__)

# The metric, if none is named: the first of these that an evaluation has.
MAIN_METRICS = ("panoptic_seg/PQ", "keypoints/AP", "segm/AP", "bbox/AP", "sem_seg/mIoU")
# Names of metrics, without what is before the last slash: lower is better, higher is better.
LOWER = re.compile(r"(total_)?loss(_.*)?")
HIGHER = re.compile(r"A[PR]\w*(@\d+)?(-.*)?|[PSR]Q(_th|_st)?|[mp]ACC|ACC-.*|\w*IoU\w*(-.*)?")


class Metric:
    """Names a logged metric, and compares its values.

    Args:
        name: as in metrics.json, such as "bbox/AP"; "" is the first of `MAIN_METRICS` there is.
        mode: "max", "min", or "" for what follows from the name.
    """

    def __init__(self, name: str = "", mode: str = ""):
        self.name = name
        self.mode = mode

    def find(self, logged: Mapping[str, float]) -> float | None:
        """Returns the value among all that is logged; None if no name was given and nothing fits.

        Raises:
            ValueError: the metric is not logged, or its mode does not follow from its name.
        """
        if not self.name:
            names = [name for main in MAIN_METRICS for name in logged if name.endswith(main)]
            names += [name for name in logged if name.endswith("val_loss/total_loss")]
            self.name = names[0] if names else ""
        if not self.name:
            return None
        if self.name not in logged:
            raise ValueError(
                f"there is no metric '{self.name}' to watch for early stopping. "
                f"There are: {', '.join(sorted(logged))}."
            )
        last = self.name.rpartition("/")[2]
        if not self.mode and (LOWER.fullmatch(last) or HIGHER.fullmatch(last)):
            self.mode = "min" if LOWER.fullmatch(last) else "max"
        if not self.mode:
            raise ValueError(
                f"whether a higher or a lower '{self.name}' is better is not known: give early "
                "stopping the mode max or min."
            )
        return float(logged[self.name])

    def is_better(self, value: float, than: float | None, by: float = 0.0) -> bool:
        """Returns whether `value` is better by more than `by`; NaN never is, others beat None."""
        if value != value or than is None:
            return value == value
        return value > than + by if self.mode == "max" else value < than - by


def best_of(metric: Metric, results: Mapping[int, Mapping[str, float]]) -> int | None:
    """Returns the iteration of the best of these results; of equals, the first.

    Raises:
        ValueError: as `Metric.find`.
    """
    best = than = None
    for iteration, logged in sorted(results.items()):
        value = metric.find(logged)
        if value is not None and metric.is_better(value, than):
            best, than = iteration, value
    return best


class EarlyStopping:
    """Counts evaluations without improvement, alike on all ranks.

    The state is part of a checkpoint, so that a resumed run counts on.

    Args:
        metric, mode: see `Metric`.
        patience: evaluations in a row without improvement that end the training; 0: never.
        min_delta: an improvement is one by more than this over the last improvement.
        warmup_evals: evaluations at the start that are not looked at.
    """

    STATE = ("evaluations", "best", "best_iteration", "waited")

    def __init__(
        self,
        metric: str = "",
        mode: str = "",
        patience: int = 0,
        min_delta: float = 0.0,
        warmup_evals: int = 0,
    ):
        self.metric = Metric(metric, mode)
        self.patience = patience
        self.min_delta = min_delta
        self.warmup_evals = warmup_evals
        self.evaluations = 0
        self.best = None  # value at the last improvement
        self.best_iteration = None
        self.waited = 0  # evaluations since then

    def check(self, names: Collection[str]):
        """Checks before training that evaluations will have the metric.

        Args:
            names: of what evaluations return. Metrics of the training itself, whose names have no
                slash, are not known yet, and are not checked.

        Raises:
            ValueError: as `Metric.find`.
        """
        if "/" in self.metric.name or not self.metric.name:
            self.metric.find(dict.fromkeys(names, 0.0))

    def update(self, logged: Mapping[str, float], iteration: int):
        """Counts an evaluation. All ranks must call it; the values of rank 0 decide.

        Raises:
            ValueError: as `Metric.find`.
        """
        value = self.metric.find(comm.all_gather(dict(logged))[0])
        if value is None:
            return
        self._count(value, iteration, self.min_delta)
        if self.waited:
            logger.info("%s is %.4g: %s", self.metric.name, value, self.reason)

    def _count(self, value, iteration, min_delta):
        self.evaluations += 1
        if self.evaluations <= self.warmup_evals:
            return
        if value is None:
            self.waited = 0
        elif self.metric.is_better(value, self.best, min_delta):
            self.best, self.best_iteration, self.waited = value, iteration, 0
        else:
            self.waited += 1

    def update_from_results(self, results: Mapping[int, Mapping[str, float] | None]):
        """Counts asynchronous evaluations.

        A missing result may turn out to be an improvement, so patience begins anew after it: in
        whatever order results come, training stops only where their own order would stop it.

        Args:
            results: by iteration; None for one that is still missing.

        Raises:
            ValueError: as `Metric.find`.
        """
        min_delta = self.min_delta
        for iteration, logged in sorted(results.items()):
            if self.should_stop:
                return
            if logged is None:
                # The best may be one that is missing, and so be worse by this than another.
                min_delta = 0.0
            value = None if logged is None else self.metric.find(logged)
            self._count(value, iteration, min_delta)

    @property
    def should_stop(self) -> bool:
        """Whether patience is exhausted."""
        return 0 < self.patience <= self.waited

    @property
    def reason(self) -> str:
        """The state in words: since when nothing has improved."""
        best = "none"
        if self.best is not None:
            best = f"{self.best:.4g} at iteration {self.best_iteration}"
        return (
            f"no improvement of {self.metric.name} by more than {self.min_delta:g} in "
            f"{self.waited} evaluations (best: {best}; patience: {self.patience or 'none'})"
        )

    def state_dict(self) -> dict:
        """Returns the state for a checkpoint: Python numbers and texts."""
        return {"metric": self.metric.name, **{key: getattr(self, key) for key in self.STATE}}

    def load_state_dict(self, state: dict):
        """Restores the state, unless another metric was watched."""
        if self.metric.name not in ("", state["metric"]):
            logger.warning(
                f"The checkpoint watched {state['metric']}: early stopping by {self.metric.name} "
                "starts afresh."
            )
            return
        self.metric.name = state["metric"]
        for key in self.STATE:
            setattr(self, key, state[key])
