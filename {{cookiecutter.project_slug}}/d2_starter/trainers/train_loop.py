"""The loop of the trainers with hooks: detectron2's, which can stop early, on any device."""

import time
from collections import defaultdict

import torch
from detectron2.engine import SimpleTrainer as _SimpleTrainer
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage

from ..config import amp_dtype
from .accumulate import parts
from .run import diverged


def train(trainer: TrainerBase, start_iter: int, max_iter: int, end: dict):
    """`TrainerBase.train`, until `max_iter` or until a hook has called `stop`.

    A hook that raises an exception to stop would be reported as a failure, and would keep the hooks
    after it from finishing.

    Args:
        end: of the run's end marker, with the status "finished".
    """
    trainer.start_iter, trainer.max_iter, trainer.end = start_iter, max_iter, end
    with EventStorage(start_iter) as trainer.storage:
        try:
            trainer.before_train()
            for trainer.iter in range(start_iter, max_iter):  # noqa: B020
                trainer.before_step()
                trainer.run_step()
                trainer.after_step()
                if is_last(trainer):
                    break
            trainer.iter += 1
        finally:
            trainer.after_train()


def stop(trainer: TrainerBase, status: str, reason: str, **more):
    """Makes the current iteration the last; the hooks after the one that calls it see that."""
    trainer.end.update(status=status, reason=reason, **more)


def is_last(trainer: TrainerBase) -> bool:
    """Whether the current iteration is the last."""
    return trainer.iter + 1 == trainer.max_iter or trainer.end["status"] != "finished"


class SimpleTrainer(_SimpleTrainer):
    """detectron2's SimpleTrainer and AMPTrainer in one, for CPUs too, with errors in words."""

    def __init__(self, cfg, model, data_loader, optimizer):
        super().__init__(model, data_loader, optimizer)
        self.accumulate = cfg.SOLVER.ACCUMULATE
        enabled, dtype = cfg.SOLVER.AMP.ENABLED, amp_dtype(cfg)
        self.autocast = torch.amp.autocast(cfg.MODEL.DEVICE, dtype=dtype, enabled=enabled)
        self.grad_scaler = torch.amp.GradScaler(enabled=enabled and dtype == torch.float16)

    def run_step(self):
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        losses = defaultdict(float)
        for part in parts(self.model, data, self.accumulate):
            try:
                with self.autocast:
                    loss_dict = self.model(part)
                    loss = sum(loss_dict.values()) / self.accumulate
            except FloatingPointError as error:  # detectron2's heads raise it
                raise diverged(self.iter, error) from error
            for name, value in comm.reduce_dict(loss_dict).items():
                losses[name] += value.item() / self.accumulate
            if not torch.isfinite(loss):
                raise diverged(self.iter, dict(losses))
            self.grad_scaler.scale(loss).backward()
        self.after_backward()
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        storage = get_event_storage()
        storage.put_scalar("data_time", data_time)
        storage.put_scalars(total_loss=sum(losses.values()), **losses)

    def state_dict(self):
        return super().state_dict() | {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
