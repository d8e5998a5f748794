"""Asynchronous evaluation: real trainings and evaluators, some of which die."""

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from projects import LONG, SMOKE, ended

pytestmark = pytest.mark.training

TOOL = "tools/evaluate_checkpoints.py"
QUICK = ["--poll", "0.2", "--claim-timeout", "3"]
BESIDE = [*SMOKE, *LONG, "TEST.EVAL_IN_LOOP", False, "TEST.EVAL_PERIOD", 5]
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
    project.train(*BESIDE, "OUTPUT_DIR", "output/beside")
    return project.folder / "output/beside"


@pytest.fixture
def run(project, trained, tmp_path):
    """Evaluators of a copy of that folder."""
    return Evaluators(project, shutil.copytree(trained, tmp_path / "run"))


BEST = """
import sys
from d2_starter.run.checkpoint import read_best
best = read_best(sys.argv[1])
print([best["iteration"], best["value"]])
"""


def best_checkpoint(project, folder) -> list:
    """The iteration and value of model_best.pth."""
    return ast.literal_eval(project.execute(BEST, folder).splitlines()[-1])


def test_same_results_as_in_the_loop(project, trained, run):
    assert "bbox/AP" not in project.metrics(trained)[39]
    project.train(*BESIDE, "TEST.EVAL_IN_LOOP", True, "OUTPUT_DIR", "output/in_loop")
    in_loop = project.metrics("output/in_loop")
    run.evaluate("--order", "newest")
    for iteration, result in run.results().items():
        logged = in_loop[iteration]
        assert {"val_loss/loss_mask", "segm/AP50", "epoch", "samples_seen"} < result.keys()
        assert result == {name: logged[name] for name in result}
    best = max(in_loop.values(), key=lambda line: line.get("segm/AP", 0))
    status = run.evaluate("--status")
    assert f"segm/AP {best['segm/AP']:.2f} at iteration {best['iteration']}" in status
    saved = [best_checkpoint(project, folder) for folder in (run.run, "output/in_loop")]
    assert saved[0] == saved[1] == [best["iteration"], best["segm/AP"]]
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


EARLY = """
import os, runpy, signal, sys
from d2_starter.files.heartbeat import Heartbeat
beat = Heartbeat.beat

def asked_to_end(self, **content):
    Heartbeat.beat = beat
    os.kill(os.getpid(), signal.SIGTERM)
    beat(self, **content)

Heartbeat.beat = asked_to_end
sys.argv[0] = "tools/evaluate_checkpoints.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_evaluator_that_is_asked_to_end_while_it_claims_a_checkpoint(run, tmp_path):
    script = tmp_path / "early.py"
    script.write_text(EARLY, encoding="utf-8")
    process = run.start(script=str(script))
    assert process.wait() == 143, process.output()
    (status,) = [claim["status"] for i in PUBLISHED for claim in run.claims(i)]
    assert status == "released"


def test_unreadable_checkpoint(run):
    (run.run / "model_0000014.pth").write_bytes(b"nothing to load")
    output = run.evaluate("--watch", "--attempts", 2, status=1)
    assert "Iteration 14 could not be evaluated in 2 attempts" in output
    run.assert_each_once([i for i in PUBLISHED if i != 14])
    claims = run.claims(14)
    assert [claim["status"] for claim in claims] == ["failed", "failed"]
    assert "Traceback" in claims[-1]["error"]
    status = run.evaluate("--status", "--attempts", 2)
    assert re.search(r"model_0000014.pth +failed .* Refused: the weights '", status)
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
import sys
from d2_starter.files.run_directory import RunDirectory
folder = RunDirectory(sys.argv[1])
for iteration in range(200):
    name = f"model_{iteration:07d}.pth"
    if not os.path.exists(folder.path / name):
        os.link(folder.path / "model_final.pth", folder.path / name)
    folder.publish(name, iteration)
"""


def test_many_checkpoints_and_evaluators_that_start_at_once(project, run):
    project.execute(PUBLISH, run.run)
    small = ["TEST.RANDOM_SUBSET_RATIO", 0.125, "TEST.VAL_LOSS", False]
    processes = [run.start("--watch", *small) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    run.assert_each_once(range(200))
    for process in processes:
        assert "Published" in process.output()


HANGS = """
import {module} as script, torch, time

def save(data, file):
    if data.get("iteration") == 24:
        file.write(b"half a checkpoint")
        file.flush()
        time.sleep(9999)
    real(data, file)

real, torch.save = torch.save, save
if __name__ == "__main__":
    script.launch(script.main, script.load_experiment)
"""


def test_trainer_that_is_killed_while_it_writes_a_checkpoint(project, tmp_path):
    run = Evaluators(project, tmp_path / "run")
    evaluators = [run.start("--watch"), run.start("--watch")]  # before there is anything
    script = project.folder / "hangs.py"
    script.write_text(HANGS.format(module=project.script.removesuffix(".py")), encoding="utf-8")
    command = project.command(*BESIDE, "OUTPUT_DIR", run.run)
    try:
        trainer = project.server.start(project, ["hangs.py", *command[1:]])
        trainer.wait_for(lambda: any(run.run.glob(".model_0000024.*")))
        trainer.wait_for(lambda: len(run.results()) == 4)
        os.killpg(trainer.id, signal.SIGKILL)
        assert trainer.wait() == -signal.SIGKILL
    finally:
        script.unlink()
    assert list(run.results()) == [4, 9, 14, 19]
    assert not any(evaluator.has_ended() for evaluator in evaluators)
    assert "Training from iteration 20 to 40" in project.train(
        "--config-file", "configs/smoke.yaml", "--resume", *command[3:]
    )
    assert [evaluator.wait() for evaluator in evaluators] == [0, 0]
    run.assert_each_once(PUBLISHED)
    assert list(project.metrics(run.run)) == list(range(40))


def test_training_that_is_gone_without_a_word(run):
    (run.run / "ended.json").unlink()
    output = run.evaluate("--watch", "--give-up-after", 0.05, status=1)
    assert "The training shows no sign of life" in output
    run.assert_each_once(PUBLISHED)
    empty = Evaluators(run.project, run.run / "nothing")
    output = empty.evaluate("--watch", "--give-up-after", 0.01, status=1)
    assert f"There is no training in {empty.run}: given up after" in output
    assert not empty.run.exists()


def test_training_that_failed_and_is_started_again_by_its_cluster(run):
    end = run.run / "ended.json"
    end.write_text('{"status": "failed", "reason": "a lost machine"}', encoding="utf-8")
    stays = run.start("--watch", "--restart-within", 10)
    run.evaluate("--watch", "--restart-within", 0.02)
    run.assert_each_once(PUBLISHED)
    assert not stays.has_ended()
    end.write_text('{"status": "finished"}', encoding="utf-8")
    assert stays.wait() == 0, stays.output()


def test_training_that_failed_and_is_resumed_while_evaluators_start(project, run):
    last = run.run / "evaluation/model_0000039.json"
    last.unlink()
    (run.run / "ended.json").write_text('{"status": "failed"}')
    evaluator = run.start("--watch")
    evaluator.wait_for(lambda: len(run.results()) == 7)
    time.sleep(1)  # five looks
    project.train(*SMOKE, "--resume", *BESIDE[2:], "OUTPUT_DIR", run.run)  # publishes the last
    assert evaluator.wait() == 0
    run.assert_each_once(PUBLISHED)


def test_convergence(project, tmp_path):
    """Found beside the training, it stops the training, which keeps the checkpoints it should."""
    run = Evaluators(project, tmp_path / "run")
    patience = ["EARLY_STOPPING.PATIENCE", 3, "EARLY_STOPPING.MIN_DELTA", 1000.0]
    patience += ["SOLVER.MAX_ITER", 99999, "SOLVER.CHECKPOINT_MAX_TO_KEEP", 2]
    trainer = project.start(*BESIDE, *patience, "OUTPUT_DIR", run.run)
    assert run.start("--watch").wait() == 0
    assert trainer.wait() == 0
    end = ended(project, run.run)
    assert end["status"] == "converged"
    expected = "training_completed.txt: converged: no improvement of segm/AP by more than 1000 in 3"
    assert end["reason"].startswith(expected)
    log = project.metrics(run.run)
    published = [*range(4, len(log), 5)]
    published += [len(log) - 1] if len(log) % 5 else []
    run.assert_each_once(published)
    best = max(run.results().values(), key=lambda result: result["segm/AP"])
    assert f"{best['segm/AP']:.2f} at iteration {best['iteration']}" in run.evaluate("--status")
    kept = {path.name for path in run.run.glob("model_*.pth")}
    newest = {f"model_{i:07d}.pth" for i in published[-2:]} | {"model_final.pth"}
    allowed = newest | {"model_best.pth", f"model_{best['iteration']:07d}.pth"}
    assert {"model_best.pth", "model_final.pth"} <= kept <= allowed


def test_another_training_in_the_same_folder(project, run):
    """Which moves aside the one that is being evaluated."""
    (run.run / "ended.json").unlink()
    evaluator = run.start("--watch")
    run.wait_for_claim(evaluator)
    project.train(*BESIDE, "SOLVER.MAX_ITER", 10, "SOLVER.STEPS", "()", "OUTPUT_DIR", run.run)
    assert evaluator.wait() == 0
    assert list(run.results()) == [4, 9]
    assert f"There is another training in {run.run} now" in evaluator.output()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 MB, which is room for three checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", disk])
    if mount.returncode:
        pytest.skip("a small tmpfs cannot be mounted here: full disks were not tested")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_full_disk(project, small_disk):
    run = Evaluators(project, small_disk / "run")
    output = project.train(*BESIDE, "OUTPUT_DIR", run.run, status=1)
    assert re.search(r"cannot write the checkpoint .*model_0000019.pth: .*No space left", output)
    assert [path.name for path in run.run.glob(".*")] == []
    assert ended(project, run.run)["status"] == "failed"
    evaluator = run.start("--watch", "--restart-within", 0)
    evaluator.wait_for(lambda: evaluator.output().count("No space left") >= 2)
    subprocess.run(["mount", "-o", "remount,size=400m", small_disk], check=True)
    assert evaluator.wait() == 0, evaluator.output()
    run.assert_each_once([4, 9, 14])
    assert "Training from iteration 15 to 40" in project.train(
        *SMOKE, "--resume", *BESIDE[2:], "OUTPUT_DIR", run.run
    )
    run.evaluate()
    run.assert_each_once(PUBLISHED)
    assert (run.run / "model_best.pth").exists()


POINTS = """
import sys, time
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
for line in sys.stdin:
    events.Reload()
    tags = events.Tags()["scalars"]
    points = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
    print(points, flush=True)
"""


class TensorBoard:
    """TensorBoard's two readers, open on the curves of a run: that of Python and the server's."""

    def __init__(self, project, run):
        folder = run / "evaluation"
        python = project.environment / "bin/python"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.python = subprocess.Popen([python, "-c", POINTS, folder], **pipes)
        command = ["tensorboard", "--logdir", run, "--port", "0", "--reload_interval", "1"]
        self.server = subprocess.Popen(
            [python, "-m", "tensorboard.main", *command[1:]],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        lines = iter(self.server.stderr.readline, "")
        self.address = next(found[0] for line in lines if (found := re.search(r"http:\S+", line)))

    def points(self) -> dict[str, list]:
        self.python.stdin.write("\n")
        self.python.stdin.flush()
        return ast.literal_eval(self.python.stdout.readline())

    def served(self, tag) -> list:
        url = f"{self.address}data/plugin/scalars/scalars?run=evaluation&tag={tag}"
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(url) as answer:
            return [(step, value) for _, step, value in json.load(answer)]
        return []

    def close(self):
        self.python.stdin.close()
        for process in (self.python, self.server):
            process.terminate()
            process.wait()


@pytest.fixture
def tensorboard(project, run):
    tensorboard = TensorBoard(project, run.run)
    yield tensorboard
    tensorboard.close()


def test_curves_of_results_that_come_late_and_out_of_order(run, tensorboard):
    """TensorBoard is open all the time."""
    seen = []
    evaluators = [run.start("--order", "newest"), run.start()]
    while not all(evaluator.has_ended() for evaluator in evaluators):
        seen.append(len(tensorboard.points().get("segm/AP", [])))
        time.sleep(0.1)
    assert len(set(seen)) > 3  # they came one after the other
    run.assert_each_once(PUBLISHED)
    results, points = run.results(), tensorboard.points()
    names = {name for result in results.values() for name in result if "/" in name}
    assert points.keys() == names | {f"by_epoch/{name}" for name in names}
    for name in names:
        having = {i: result for i, result in results.items() if name in result}
        expected = [(i, pytest.approx(result[name], 1e-6)) for i, result in having.items()]
        assert points[name] == expected
        steps = [round(1000 * result["epoch"]) for result in having.values()]
        assert [step for step, _ in points[f"by_epoch/{name}"]] == steps
        deadline = time.monotonic() + 30
        while tensorboard.served(name) != expected and time.monotonic() < deadline:
            time.sleep(0.2)
        assert tensorboard.served(name) == expected
