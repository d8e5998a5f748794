"""tools/benchmark.py, as its user sees it, with both kinds of configs."""

import json
import re
import shlex

import numpy as np
import pytest
from lazy import translate
from projects import SMOKE

pytestmark = pytest.mark.training

QUICK = ["--rounds", 2, "--iterations", 2]
SMALL = ["SOLVER.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", 0]
# As if the annotations of each image took this long.
SLOW = """
import runpy, sys, time
from my_detector.data.dataset_mapper import Mapper

def slow(*args, instances=Mapper._instances):
    time.sleep(0.3)
    return instances(*args)

Mapper._instances = slow
sys.argv.pop(0)
runpy.run_path("tools/benchmark.py", run_name="__main__")
"""


def benchmark(project, options, overrides, slow=False, status=0) -> str:
    """What the tool prints, given the words of YAML configs."""
    words = [*options, *map(str, overrides)]
    if project.trainer == "lazyconfig":
        words = [str(option).replace(".yaml", ".py") for option in options]
        words += translate(tuple(overrides))
    tool = ["tools/benchmark.py", *map(str, words)]
    if slow:
        (project.folder / "slow.py").write_text(SLOW)
        tool.insert(0, "slow.py")
    process = project.server.start(project, tool)
    assert process.wait() == status, process.output()[-8000:]
    return process.output()


@pytest.fixture(scope="module", params=["plain", "lazyconfig"])
def measured(projects, request):
    """A project whose annotations are slow, what the tool says of it, and its numbers."""
    project = projects(request.param)
    output = benchmark(project, [*SMOKE, *QUICK], [*SMALL, "OUTPUT_DIR", "output/slow"], slow=True)
    results = json.loads((project.folder / "output/slow/benchmark.json").read_text())
    return project, output, results


def test_what_limits_is_found(measured):
    _, output, results = measured
    assert results["limit"] == "loading" and results["slowest"] == "annotations"
    assert "What limits: loading." in output
    assert results["ms_per_image"]["loading"]["annotations"] >= 300
    assert results["waiting"] > 0.2


def test_numbers_agree_with_each_other(measured):
    project, output, results = measured
    speeds = results["images_per_second"]
    assert speeds.keys() == {"loading", "model", "loop", "evaluation"}
    for part, rates in speeds.items():
        assert len(rates) == 2
        assert sum(results["ms_per_image"][part].values()) == pytest.approx(
            np.mean(1000 / np.array(rates)), rel=0.15
        )
        label = "loading, 0 workers" if part == "loading" else part
        shown = re.search(rf"^{label} +([\d.]+) \(", output, re.MULTILINE)
        assert float(shown[1]) == pytest.approx(np.median(rates), abs=0.06)
    assert results["workers"]["0"] == speeds["loading"]
    assert (project.folder / "output/slow/benchmark.png").stat().st_size > 10000


def test_the_recommended_command_runs(measured):
    project, output, results = measured
    (line,) = re.findall(r"^  uv run (\S+train_net.py .*)$", output, re.MULTILINE)
    command = shlex.split(line)
    assert command == results["command"][2:]
    assert re.search(r"num_workers[= ][1-9]", line.lower())  # in the words of its configs
    short = ["SOLVER.MAX_ITER", 1, "TEST.EVAL_PERIOD", 0, "TEST.NUM_PICTURES", 0]
    short += ["TEST.EVAL_IN_LOOP", False, "OUTPUT_DIR", "output/recommended"]
    if project.trainer == "lazyconfig":
        command += translate(tuple(short))
    else:
        command += [*map(str, short), "SOLVER.STEPS", "()"]
    process = project.server.start(project, command)
    assert process.wait() == 0, process.output()[-8000:]
    config = (project.folder / "output/recommended/config.yaml").read_text()
    assert re.search(r"num_workers: [1-9]", config.lower())


def test_what_is_slower_is_seen_in_a_comparison(measured):
    project = measured[0]
    size = ["INPUT.MIN_SIZE_TRAIN", "(512,)"]
    if project.trainer == "lazyconfig":
        size = translate(tuple(size))
    larger = shlex.join(map(str, size))
    output = benchmark(project, [*SMOKE, *QUICK, "--compare", "", larger], SMALL)
    ratio = re.search(r"B / A +([\d.]+) \(([\d.]+) to ([\d.]+)\)", output)
    median, low, high = map(float, ratio.groups())
    assert low <= median <= high and median < 0.8  # it has 16 times the pixels


def test_cost_of_the_validation_loss(measured):
    project = measured[0]
    output = benchmark(project, [*SMOKE, *QUICK, "--parts", "losses"], SMALL)
    one, two = (
        float(re.search(rf"with losses, {passes} +([\d.]+)", output)[1])
        for passes in ("one pass", "two passes")
    )
    assert one > 0.5 and two > 0.5
    assert re.search(r"predictions only +1.00 \(1.00 to 1.00\)", output)


@pytest.mark.parametrize(
    "options, overrides, message",
    [
        ([], [], "the following arguments are required: --config-file"),
        (["--config-file", "configs/smok.yaml"], [], "there is no config file 'configs/smok."),
        ([*SMOKE, "--rounds", 0], [], "--rounds and --iterations are positive numbers"),
        ([*SMOKE, "--parts", "loop,eval"], [], "eval is not among loading,model,loop"),
        ([*SMOKE, "--compare", "", "", "--parts", "trials"], [], "not trials"),
        (SMOKE, ["MODEL.WEIGHTS", "gone.pth"], "cannot load the weights 'gone.pth'"),
        ([*SMOKE, "--compare", "LOG_PERIOD", ""], [], "config overrides are "),
    ],
)
def test_mistakes_are_named(measured, options, overrides, message):
    output = benchmark(measured[0], options, overrides, status=2)
    assert message in output[output.index("benchmark.py: error: ") :]
    assert "Traceback" not in output
