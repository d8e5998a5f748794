"""Evaluation off the training loop: real trainings and evaluators, some of which die."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from projects import LONG, SMOKE, ended

pytestmark = pytest.mark.training

TOOL = "tools/evaluate_checkpoints.py"
QUICK = ["--poll", "0.2", "--claim-timeout", "3"]
OFF = [*SMOKE, *LONG, "TEST.EVAL_IN_LOOP", False, "TEST.EVAL_PERIOD", 5]
PUBLISHED = list(range(4, 40, 5))


class Evaluators:
    """Runs evaluators of one run of a project."""

    def __init__(self, project, run: Path):
        self.project = project
        self.run = run
        self.started = []

    def start(self, *options, script=TOOL):
        command = [script, str(self.run), *QUICK, *map(str, options)]
        self.started.append(self.project.server.start(self.project, command))
        return self.started[-1]

    def evaluate(self, *options, status=0) -> str:
        process = self.start(*options)
        assert process.wait() == status, process.output()
        return process.output()

    def results(self) -> dict[int, dict]:
        files = sorted(self.run.glob("metrics_*.json"))
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        assert [f"metrics_{r['iteration']:07d}.json" for r in results] == [f.name for f in files]
        return {result["iteration"]: result for result in results}

    def claims(self, iteration) -> list[dict]:
        files = sorted((self.run / "evaluation").glob(f"claim_{iteration:07d}_*.json"))
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def wait_for_claim(self, process) -> int:
        """Until the process evaluates a checkpoint; returns its iteration."""

        def claimed():
            for file in (self.run / "evaluation").glob("claim_*.json"):
                text = file.read_text(encoding="utf-8")
                if f'"pid": {process.id},' in text and '"running"' in text:
                    found.append(int(file.name.split("_")[1]))
            return found

        found = []
        process.wait_for(claimed)
        return found[-1]

    def assert_each_once(self, iterations):
        """All are evaluated, each was published by one process, and nothing is left behind."""
        assert list(self.results()) == list(iterations)
        outputs = "".join(process.output() for process in self.started)
        published = re.findall(r"Published metrics_(\d+).json", outputs)
        assert sorted(map(int, published)) == list(iterations)
        assert not [path for path in self.run.rglob(".*") if path.is_file()]


@pytest.fixture(scope="module")
def trained(project):
    """The folder of a training without evaluation, with eight checkpoints."""
    project.train(*OFF, "OUTPUT_DIR", "output/off")
    return project.folder / "output/off"


@pytest.fixture
def run(project, trained, tmp_path):
    """Evaluators of a copy of that folder."""
    return Evaluators(project, shutil.copytree(trained, tmp_path / "run"))


def test_same_results_as_in_the_loop(project, trained, run):
    assert "bbox/AP" not in project.metrics(trained)[39]
    project.train(*OFF, "TEST.EVAL_IN_LOOP", True, "OUTPUT_DIR", "output/in_loop")
    in_loop = project.metrics("output/in_loop")
    run.evaluate("--order", "newest")
    for iteration, result in run.results().items():
        logged = in_loop[iteration]
        assert {"val_loss/loss_mask", "segm/AP50", "epoch", "samples_seen"} < result.keys()
        assert result == {name: logged[name] for name in result}
    best = re.escape("".join(re.findall("model_best.pth (.*)", "")))
    status = run.evaluate("--status")
    assert best in status
    assert "8 published: 8 done, 0 claimed, 0 open, 0 failed" in status


def test_killed_evaluator(run):
    """In the middle of a checkpoint, with two others running."""
    victim = run.start("--watch")
    iteration = run.wait_for_claim(victim)
    others = [run.start("--watch"), run.start("--watch", "--order", "newest")]
    os.kill(victim.id, signal.SIGKILL)
    assert [other.wait() for other in others] == [0, 0]
    run.assert_each_once(PUBLISHED)
    assert [claim["status"] for claim in run.claims(iteration)] == ["running", "done"]


def test_evaluator_that_is_asked_to_end_releases_its_checkpoint(run):
    process = run.start("--watch", "--claim-timeout", 9999)
    iteration = run.wait_for_claim(process)
    os.kill(process.id, signal.SIGTERM)
    assert process.wait() == 143
    run.evaluate("--watch")
    run.assert_each_once(PUBLISHED)
    assert [claim["status"] for claim in run.claims(iteration)] == ["released", "done"]


def test_unreadable_checkpoint(run):
    (run.run / "model_0000014.pth").write_bytes(b"nothing to load")
    output = run.evaluate("--watch", "--attempts", 2, status=1)
    assert "Iteration 14 could not be evaluated in 2 attempts" in output
    run.assert_each_once([i for i in PUBLISHED if i != 14])
    claims = run.claims(14)
    assert [claim["status"] for claim in claims] == ["failed", "failed"]
    assert "Traceback" in claims[-1]["error"]
    assert re.search(r"model_0000014.pth +failed .*Error", run.evaluate("--status", "--attempts", 2))
    shutil.copy(run.run / "model_0000019.pth", run.run / "model_0000014.pth")
    run.evaluate("--attempts", 3)
    run.assert_each_once(PUBLISHED)


SHIFTED = """
import runpy, sys, time
real, shift = time.time, float(sys.argv.pop())
time.time = lambda: real() + shift
sys.argv[0] = "tools/evaluate_checkpoints.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_clocks_that_disagree(project, run, tmp_path):
    """By an hour, and one of the evaluators dies."""
    script = tmp_path / "shifted.py"
    script.write_text(SHIFTED, encoding="utf-8")
    late, early = (run.start("--watch", shift, script=str(script)) for shift in (-3600, 3600))
    run.wait_for_claim(late)
    os.kill(late.id, signal.SIGKILL)
    third = run.start("--watch", 1800, script=str(script))
    assert early.wait() == 0, early.output()
    assert third.wait() == 0, third.output()
    run.assert_each_once(PUBLISHED)


PUBLISH = """
import os
from my_detector.engine.run_folder import RunFolder
folder = RunFolder({run!r})
for iteration in range(200):
    name = f"model_{{iteration:07d}}.pth"
    if not os.path.exists(folder.path / name):
        os.link(folder.path / "model_final.pth", folder.path / name)
    folder.publish(name, iteration)
"""


def test_many_checkpoints_and_evaluators_that_start_at_once(project, run):
    project.run("python", "-c", PUBLISH.format(run=str(run.run)))
    small = ["TEST.RANDOM_SUBSET_RATIO", 0.125, "TEST.VAL_LOSS", False]
    processes = [run.start("--watch", *small) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    run.assert_each_once(range(200))
    for process in processes:
        assert "Published" in process.output()
