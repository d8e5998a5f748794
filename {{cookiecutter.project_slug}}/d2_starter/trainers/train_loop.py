"""Runs detectron2's trainers with hooks so that they can stop early, on any device."""

import time

from detectron2.engine import SimpleTrainer as _SimpleTrainer
from detectron2.engine import TrainerBase
from detectron2.utils.events import EventStorage, get_event_storage

from ..run.run import Run
from ..run.training_step import MixedPrecision, compute_gradients, seed_step


class StoppableTrainer(TrainerBase):
    """Trains as detectron2's TrainerBase does, until `max_iter` or until the run is stopped.

    A hook that raises an exception to stop would be reported as a failure, and would keep the hooks
    after it from finishing.

    Attributes:
        run: the state of the run.
        metrics: of the evaluation in the current iteration, or None.
    """

    run: Run
    metrics: dict[str, float] | None = None

    @property
    def is_last_iteration(self) -> bool:
        """Whether no iteration follows the current one."""
        return self.iter + 1 == self.max_iter or self.run.is_stopping

    def train(self, start_iter: int, max_iter: int):
        """Runs the iterations from `start_iter` on, with all hooks."""
        self.iter, self.start_iter, self.max_iter = start_iter, start_iter, max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):  # noqa: B020
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self.is_last_iteration:
                        break
                self.iter += 1
            finally:
                self.after_train()


class SimpleTrainer(StoppableTrainer, _SimpleTrainer):
    """Runs iterations as detectron2's SimpleTrainer and AMPTrainer do, with gradient accumulation.

    Args:
        model: returns a dict of losses.
        data_loader: may be None, and set later.
        seed: every random number of iteration i follows from the seed and i.
    """

    def __init__(self, model, data_loader, optimizer, precision: MixedPrecision, accumulate, seed):
        _SimpleTrainer.__init__(self, model, data_loader, optimizer)
        self.precision = precision
        self.accumulate = accumulate
        self.seed = seed

    def run_step(self):
        """Computes one iteration."""
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        seed_step(self.seed, self.iter)
        self.optimizer.zero_grad()
        losses = compute_gradients(self.model, data, self.iter, self.precision, self.accumulate)
        self.after_backward()
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        storage = get_event_storage()
        storage.put_scalar("data_time", data_time)
        storage.put_scalars(**losses)

    def state_dict(self):
        """Returns the state for a checkpoint."""
        return super().state_dict() | {"grad_scaler": self.precision.scaler.state_dict()}

    def load_state_dict(self, state_dict):
        """Restores the state."""
        super().load_state_dict(state_dict)
        self.precision.scaler.load_state_dict(state_dict["grad_scaler"])
