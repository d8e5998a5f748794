"""Batches in parts."""

from collections.abc import Iterator
from contextlib import nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel


def parts(model: nn.Module, batch: list[dict], number: int) -> Iterator[list[dict]]:
    """Splits a batch for `SOLVER.ACCUMULATE`.

    While its caller works on any but the last part, processes do not exchange gradients.
    """
    size = len(batch) // number
    is_distributed = isinstance(model, DistributedDataParallel)
    for start in range(0, len(batch), size):
        is_last = start + size >= len(batch)
        with model.no_sync() if is_distributed and not is_last else nullcontext():
            yield batch[start : start + size]
