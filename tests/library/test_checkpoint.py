"""What a training starts from: a run that is resumed, or a new one from weights."""

import pytest
import torch
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import CosineParamScheduler

from d2_starter import EMA, Checkpointer

STEPS = 10


def build(lr, weight_decay=0.0):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 2)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": 2 * lr}]
    optimizer = torch.optim.SGD(groups, lr, momentum=0.9, weight_decay=weight_decay)
    return model, optimizer, LRMultiplier(optimizer, CosineParamScheduler(1.0, 0.0), STEPS)


def train(model, optimizer, scheduler, steps):
    rates = []
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


def checkpointer_of(folder, model, optimizer, scheduler, **options):
    return Checkpointer(model, str(folder), optimizer=optimizer, scheduler=scheduler, **options)


@pytest.fixture
def checkpoint(tmp_path):
    """A run directory with a checkpoint of four iterations at a learning rate of 0.1."""
    parts = build(0.1)
    train(*parts, 4)
    checkpointer_of(tmp_path, *parts).save("model_0000003", iteration=3)
    return tmp_path / "model_0000003.pth"


def test_new_run_from_ones_own_weights_starts_at_iteration_0(checkpoint, tmp_path):
    """With weights alone: momentum and schedule are its own."""
    parts = build(0.5)
    checkpointer = checkpointer_of(tmp_path / "new", *parts)
    assert checkpointer.start(str(checkpoint), False, *parts[1:]) == 0
    assert torch.equal(parts[0].weight, torch.load(checkpoint)["model"]["weight"])
    assert not parts[1].state_dict()["state"]
    rates = train(*parts, STEPS)
    assert rates == train(*build(0.5), STEPS)


def test_resumed_run_goes_on_as_a_whole_one(checkpoint, tmp_path):
    whole, parts = build(0.1), build(0.1)
    rates = train(*whole, STEPS)
    assert checkpointer_of(tmp_path, *parts).start("", True, *parts[1:]) == 4
    assert train(*parts, STEPS - 4) == rates[4:]
    assert torch.equal(parts[0].weight, whole[0].weight)


def test_resumed_run_has_the_hyper_parameters_of_its_own_config(checkpoint, tmp_path):
    """Learning rate, groups, weight decay; the momentum that was gathered stays."""
    parts = build(0.02, weight_decay=0.3)
    assert checkpointer_of(tmp_path, *parts).start("", True, *parts[1:]) == 4
    assert [group["weight_decay"] for group in parts[1].param_groups] == [0.3, 0.3]
    assert parts[1].state_dict()["state"]
    assert train(*parts, STEPS - 4) == train(*build(0.02), STEPS)[4:]


def test_resume_without_a_checkpoint_starts_from_the_weights(checkpoint, tmp_path):
    parts = build(0.1)
    checkpointer = checkpointer_of(tmp_path / "empty", *parts)
    assert checkpointer.start(str(checkpoint), True, *parts[1:]) == 0
    assert torch.equal(parts[0].weight, torch.load(checkpoint)["model"]["weight"])


def test_ema_goes_on_after_a_resume(tmp_path):
    """From the average and from the weights that are trained."""

    def run(steps, resume):
        parts = build(0.1)
        ema = EMA(parts[0], 0.9)
        checkpointer = checkpointer_of(tmp_path, *parts, ema=ema)
        start = checkpointer.start("", resume, *parts[1:])
        for _ in range(start, steps):
            train(*parts, 1)
            ema.update()
        checkpointer.save("model_final", iteration=steps - 1)
        return [p.clone() for p in (ema.model.weight, parts[0].weight)]

    whole = run(8, resume=False)
    (tmp_path / "last_checkpoint").unlink()
    run(4, resume=False)
    resumed = run(8, resume=True)
    assert all(map(torch.equal, whole, resumed))
    assert not torch.equal(*whole)
