import time

import pytest
import torch

from my_detector.config import epochs_to_iterations
from my_detector.engine.benchmark import Evaluating, Loop, ModelAlone, Part, largest, largest_batch
from my_detector.experiment import get_config


@pytest.fixture
def cfg(tmp_path):
    words = ["OUTPUT_DIR", str(tmp_path), "SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu"]
    cfg = get_config("configs/smoke.yaml", [*words, "DATALOADER.NUM_WORKERS", "0"])
    epochs_to_iterations(cfg, 100)
    return cfg


@pytest.mark.parametrize("start", [1, 3, 8])
@pytest.mark.parametrize("number", range(20))
def test_largest_number_that_fits(number, start):
    tried = []

    def fits(n):
        tried.append(n)
        return n <= number

    assert largest(fits, start) == number
    assert max(tried) <= max(start, 2 * number) and len(tried) == len(set(tried)) < 12


def test_what_always_fits_ends_the_search():
    assert largest(lambda n: True, 5, limit=64) == 64


def test_batches_are_not_searched_on_a_cpu(cfg):
    with pytest.raises(ValueError, match="not searched on a CPU"):
        largest_batch(cfg, None, 1)


def test_a_stage_is_told_apart_from_what_it_calls(cfg):
    class Mapper:
        def read(self):
            time.sleep(0.02)

    read, part = Mapper.read, Part(cfg)
    with part.inside("rest", {"read": [(Mapper, "read"), (Mapper, "missing")]}):
        Mapper().read()
        Mapper().read()
        time.sleep(0.01)
    part.images = 2
    assert list(part.stages()) == ["read", "rest"]
    assert part.stages()["read"] == pytest.approx(20, abs=5)
    assert part.stages()["rest"] == pytest.approx(5, abs=4)
    assert Mapper.read is read


def test_measuring_leaves_the_model_as_it_was(cfg):
    part = ModelAlone(cfg)
    model = part.model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert part.turn(2) > 0 and part.images == 4
    loop = Loop(cfg, model)
    assert loop.turn(2) > 0 and loop.images == 4
    evaluation = Evaluating(cfg, model)
    assert evaluation.turn(1) > 0 and evaluation.images == 2
    assert {"inference", "losses", "post-processing", "matching"} <= evaluation.stages().keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    assert any(parameter.grad is not None for parameter in model.parameters())
