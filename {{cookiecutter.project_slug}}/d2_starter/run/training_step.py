"""Computes one training step: forward and backward passes, with gradient accumulation."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..config.experiment import amp_dtype
from ..data.loader import seed_all


class MixedPrecision:
    """Provides autocast and a gradient scaler, which do nothing where they are not needed.

    Args:
        device: of the model.
        enabled: whether to compute in mixed precision.
    """

    def __init__(self, device: str, enabled: bool):
        dtype = amp_dtype(device)
        kind = torch.device(device).type
        self.autocast = torch.amp.autocast(kind, dtype=dtype, enabled=enabled)
        self.scaler = torch.amp.GradScaler(kind, enabled=enabled and dtype == torch.float16)


def seed_step(seed: int, iteration: int):
    """Seeds the random numbers of one iteration: a resumed run draws the same as a whole one."""
    seed_all(seed, iteration, comm.get_rank())


def micro_batches(model: nn.Module, batch: list[dict], number: int) -> Iterator[list[dict]]:
    """Splits a batch for gradient accumulation.

    Processes exchange gradients only while the caller works on the last one.
    """
    size = len(batch) // number
    is_distributed = isinstance(model, DistributedDataParallel)
    for start in range(0, len(batch), size):
        is_last = start + size >= len(batch)
        with model.no_sync() if is_distributed and not is_last else nullcontext():
            yield batch[start : start + size]


def compute_gradients(
    model: nn.Module,
    batch: list[dict],
    iteration: int,
    precision: MixedPrecision,
    accumulate: int = 1,
) -> dict[str, float]:
    """Adds the gradients of a batch, and returns its losses, means over all ranks.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    losses = defaultdict(float)
    for micro_batch in micro_batches(model, batch, accumulate):
        with precision.autocast:
            loss = compute_loss(model, micro_batch, iteration, losses, accumulate)
        precision.scaler.scale(loss / accumulate).backward()
    return {"total_loss": sum(losses.values()), **losses}


def compute_loss(model: nn.Module, batch: list[dict], iteration: int, losses: dict, number: int):
    """Computes the loss of one of `number` micro-batches.

    Args:
        losses: to which its share of each loss is added, means over all ranks.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    try:
        loss_dict = model(batch)
    except FloatingPointError as error:  # detectron2's heads raise it
        raise diverged(iteration, error) from None
    for name, value in comm.reduce_dict(loss_dict).items():
        losses[name] += value.item() / number
    loss = sum(loss_dict.values())
    if not torch.isfinite(loss):
        raise diverged(iteration, dict(losses))
    return loss


def diverged(iteration: int, what) -> FloatingPointError:
    """Returns the error to raise when losses or predictions are not finite any more."""
    return FloatingPointError(
        f"training diverged at iteration {iteration}: {what}. Lower the learning rate (in "
        "proportion to the batch size), warm up for longer, or clip the gradients. The last "
        "checkpoint is as it was: with another learning rate, --resume goes on from it."
    )
