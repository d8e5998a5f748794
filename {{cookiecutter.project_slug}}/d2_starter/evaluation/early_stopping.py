"""Which model is the best so far, and when training that improves no more stops."""

import logging
import re
from collections.abc import Collection, Mapping

from detectron2.utils import comm

logger = logging.getLogger(__name__)

# What `EARLY_STOPPING.METRIC ""` is: the first of these that an evaluation has.
MAIN_METRICS = ("panoptic_seg/PQ", "keypoints/AP", "segm/AP", "bbox/AP", "sem_seg/mIoU")
# The last parts of the names of metrics of which less, or more, is better.
LESS = re.compile(r"(total_)?loss(_.*)?")
MORE = re.compile(r"A[PR]\w*(@\d+)?(-.*)?|[PSR]Q(_th|_st)?|[mp]ACC|ACC-.*|\w*IoU\w*(-.*)?")


class Metric:
    """A logged metric, and which of its values are better.

    Args:
        name: as in metrics.json, such as "bbox/AP"; "" is the first of `MAIN_METRICS` there is.
        mode: "max", "min", or "" for what follows from the name.
    """

    def __init__(self, name: str = "", mode: str = ""):
        self.name = name
        self.mode = mode

    def find(self, logged: Mapping[str, float]) -> float | None:
        """Its value among all that is logged; None if no name was given and nothing fits.

        Raises:
            ValueError: it is not there, or its mode does not follow from its name.
        """
        if not self.name:
            names = [name for main in MAIN_METRICS for name in logged if name.endswith(main)]
            names += [name for name in logged if name.endswith("val_loss/total_loss")]
            self.name = names[0] if names else ""
        if not self.name:
            return None
        if self.name not in logged:
            raise ValueError(
                f"there is no metric '{self.name}' (EARLY_STOPPING.METRIC). "
                f"There are: {', '.join(sorted(logged))}."
            )
        last = self.name.rpartition("/")[2]
        if not self.mode and (LESS.fullmatch(last) or MORE.fullmatch(last)):
            self.mode = "min" if LESS.fullmatch(last) else "max"
        if not self.mode:
            raise ValueError(
                f"whether more or less of '{self.name}' is better is not known: give "
                "EARLY_STOPPING.MODE max or min."
            )
        return float(logged[self.name])

    def is_better(self, value: float, than: float | None, by: float = 0.0) -> bool:
        """Whether it is better by more than `by`. NaN never is; anything else is, than None."""
        if value != value or than is None:
            return value == value
        return value > than + by if self.mode == "max" else value < than - by


def best_of(metric: Metric, results: Mapping[int, Mapping[str, float]]) -> int | None:
    """The iteration of the best of these results, by iteration; of equals, the first.

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

    Its state is part of a checkpoint, so that a resumed run counts on.

    Args:
        patience: evaluations in a row without improvement that end the training; 0: never.
        min_delta: an improvement is one by more than this over the last improvement.
        warmup_evals: evaluations at the start that are not looked at.
    """

    STATE = ("evaluations", "best", "best_iteration", "waited")

    def __init__(
        self, metric: Metric, patience: int = 0, min_delta: float = 0.0, warmup_evals: int = 0
    ):
        self.metric = metric
        self.patience = patience
        self.min_delta = min_delta
        self.warmup_evals = warmup_evals
        self.evaluations = 0
        self.best = None  # value at the last improvement
        self.best_iteration = None
        self.waited = 0  # evaluations since then

    @classmethod
    def from_config(cls, cfg):
        given = cfg.EARLY_STOPPING
        metric = Metric(given.METRIC, given.MODE)
        return cls(metric, given.PATIENCE, given.MIN_DELTA, given.WARMUP_EVALS)

    def check(self, names: Collection[str]):
        """Before training, whether evaluations will have the metric. All names are known then but
        those of the training itself, which have no slash.

        Raises:
            ValueError: as `Metric.find`.
        """
        if "/" in self.metric.name or not self.metric.name:
            self.metric.find(dict.fromkeys(names, 0.0))

    def update(self, logged: Mapping[str, float], iteration: int):
        """Takes note of an evaluation. All ranks must call it; what rank 0 gives counts.

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

    def judge(self, results: Mapping[int, Mapping[str, float] | None]):
        """Takes note of evaluations elsewhere, by iteration; one that has no result yet is None.

        That may turn out to be an improvement, so that patience begins anew after it: in whatever
        order results come, training is stopped only where it would have been in their own order.

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
        return 0 < self.patience <= self.waited

    @property
    def reason(self) -> str:
        """Since when nothing has improved, in words."""
        best = "none"
        if self.best is not None:
            best = f"{self.best:.4g} at iteration {self.best_iteration}"
        return (
            f"no improvement of {self.metric.name} by more than {self.min_delta:g} in "
            f"{self.waited} evaluations (best: {best}; patience: {self.patience or 'none'})"
        )

    def end(self) -> dict[str, str]:
        """What the end marker of a run says: whether it has converged, and why."""
        return {"status": "converged", "reason": self.reason} if self.should_stop else {}

    def state_dict(self) -> dict:
        return {"metric": self.metric.name, **{key: getattr(self, key) for key in self.STATE}}

    def load_state_dict(self, state: dict):
        if self.metric.name not in ("", state["metric"]):
            logger.warning(
                f"The checkpoint watched {state['metric']}: early stopping by {self.metric.name} "
                "starts afresh."
            )
            return
        self.metric.name = state["metric"]
        for key in self.STATE:
            setattr(self, key, state[key])
