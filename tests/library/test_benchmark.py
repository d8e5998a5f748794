import re
import time

import pytest
import torch
from conftest import load_lazy, load_yaml

from d2_starter.benchmark import measure
from d2_starter.benchmark.command import conclude, main
from d2_starter.benchmark.measure import PARTS, alternate, load_model
from d2_starter.data.loader import SeededDataset

QUICK = ["--rounds", "2", "--iterations", "1"]
SMALL = ["SOLVER.IMS_PER_BATCH", "1", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"]
LAZY = ["dataloader.train.total_batch_size=1", "dataloader.train.num_workers=0"]
LAZY += ["train.device=cpu"]


@pytest.fixture
def run(capsys, tmp_path):
    """`run(words)` gives what the command prints, with YAML configs or with Python ones."""

    def run(words, is_lazy=False, status=None):
        load, small = (load_lazy, LAZY) if is_lazy else (load_yaml, SMALL)
        config = load.__defaults__[0]
        output = f"train.output_dir={tmp_path}" if is_lazy else f"OUTPUT_DIR {tmp_path}"
        words = ["--config-file", str(config), *words, *small, *output.split(" ")]
        if status is None:
            main(load, words)
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as stopped:
            main(load, words)
        assert stopped.value.code == status
        return capsys.readouterr().err

    return run


@pytest.fixture
def slow(monkeypatch):
    """Makes loading an image take 1 s, and a step 5 microseconds for each pixel.

    So what is found does not depend on what else the machine does.
    """

    def load(*args, load=SeededDataset.__getitem__):
        time.sleep(1)
        return load(*args)

    def compute(model, batch, *_):
        time.sleep(5e-6 * sum(image["image"][0].numel() for image in batch))
        return {"total_loss": 0.0}

    monkeypatch.setattr(SeededDataset, "__getitem__", load)
    monkeypatch.setattr(measure, "compute_gradients", compute)


def rates(output):
    return {name: float(rate) for name, rate in re.findall(r"(?m)^(\w+) +([\d.]+) \(", output)}


@pytest.mark.parametrize("is_lazy", [False, True])
def test_what_limits_is_found(run, slow, is_lazy):
    output = run(QUICK, is_lazy)
    speeds = rates(output)
    assert speeds.keys() == PARTS.keys()
    assert max(speeds["loading"], speeds["loop"]) < 1.01 < speeds["model"]
    assert "What limits: loading." in output
    change = "dataloader.train.num_workers=2" if is_lazy else "'DATALOADER.NUM_WORKERS 2'"
    assert output.endswith(f"To see what is faster, add: --compare {change}\n")


def test_a_slower_setting_is_seen_in_a_comparison(run, slow):
    larger = ["--compare", "INPUT.MIN_SIZE_TRAIN (512,)", "--compare", "SEED 1"]
    output = run([*QUICK, "--part", "model", *larger])
    found = re.findall(r"(?m)^  (.+?)  +[\d.]+ \(.*?\)(?: +([\d.]+) \(.*\))?$", output)
    assert [name for name, _ in found] == ["the config", *larger[1::2]]
    assert found[0][1] == ""
    assert float(found[1][1]) < 0.4 < float(found[2][1])  # it has 16 times the pixels


def test_measuring_leaves_the_weights_as_they_are(load):
    experiment = load("SOLVER.IMS_PER_BATCH", 2, "SOLVER.EMA_DECAY", 0.9)
    experiment.set_epoch_length()
    model = load_model(experiment)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    images = [PARTS[name](experiment, model)(2)[0] for name in ("model", "loop", "evaluation")]
    assert images == [4, 4, 4]
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert any(parameter.grad is not None for parameter in model.parameters())


def test_parts_take_turns():
    log = []

    def part(name, rate):
        return lambda iterations: (log.append((name, iterations)), (rate * iterations, 1.0))[1]

    assert alternate([part("a", 3), part("b", 5)], 2, 10).tolist() == [[30, 50], [30, 50]]
    assert log == [("a", 1), ("b", 1), *[("a", 10), ("b", 10)] * 2]


def test_evaluation_limits_where_training_waits_for_it(load):
    experiment = load("TEST.EVAL_PERIOD", 1, "SOLVER.IMS_PER_BATCH", 2)
    speeds = {"loading": 9.0, "model": 2.0, "loop": 2.0, "evaluation": 2.0}
    lines = "\n".join(conclude(experiment, speeds))
    # 8 images at 2 a second, after each second of training
    assert "What limits: evaluation." in lines and "waits for evaluations 80% of the time" in lines
    assert "--part evaluation --compare 'TEST.IMS_PER_BATCH 8'" in lines
    experiment.eval_in_loop = False
    assert "What limits: model." in conclude(experiment, speeds)[0]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--rounds", "0"], "'0' is not a number above 0"),
        (["--part", "eval"], "invalid choice: 'eval'"),
        (["MODEL.WEIGHTS", "gone.pth"], "cannot load the weights 'gone.pth'"),
        (["--compare", "LOG_PERIOD"], "config overrides are pairs"),
        (["--part", "evaluation", "DATASETS.TEST", "()"], "nothing to evaluate: DATASETS.TEST"),
    ],
)
def test_mistakes_are_named(run, words, message):
    assert message in run([*QUICK, *words], status=2)
