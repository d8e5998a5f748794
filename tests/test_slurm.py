"""The files in slurm/: by what reads shell scripts, and in a real Slurm with two nodes."""

import json
import os
import re
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from lazy import translate
from projects import LONG, TRAINERS, ended
from slurm import Cluster, what_is_missing

TRAIN, EVALUATE = "slurm/train.sbatch", "slurm/evaluate.sbatch"
# The settings at the top, for this machine: two nodes with a process each, no GPUs.
SMALL = {"#SBATCH --gpus-per-node=": None, "#SBATCH --cpus-per-task=": "1"}
TWO_NODES = {"#SBATCH --nodes=": "2", "#SBATCH --ntasks-per-node=": "1"}
STATE = ("JobState", "Restarts")


def settings(file: Path, changes: dict[str, str | None]):
    """Changes what follows words with which a line begins, above the line; None removes it."""
    top, rule, script = file.read_text(encoding="utf-8").partition("# -----")
    for words, value in changes.items():
        line = "" if value is None else f"{words}{value}\n"
        top, number = re.subn(rf"(?m)^ *{re.escape(words)}.*\n", lambda _, line=line: line, top)
        assert number == 1, words
    file.write_text(top + rule + script, encoding="utf-8")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_scripts_are_sound(render, trainer):
    project = render(trainer=trainer, cluster="slurm")
    for name in (TRAIN, EVALUATE):
        text = (project / name).read_text(encoding="utf-8")
        assert "{{" not in text and "\ue000" not in text
        assert "#SBATCH" not in text[text.index("CONFIG=" if name == TRAIN else "RUN=") :]  # unread
        for checker in (["bash", "-n"], ["shellcheck"]):
            if shutil.which(checker[0]):
                check = subprocess.run(
                    [*checker, name], cwd=project, capture_output=True, text=True
                )
                assert (check.returncode, check.stdout + check.stderr) == (0, "")
        config = re.search(r"(?m)^CONFIG=(.*)", text)
        assert not config or (project / config[1]).is_file()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if missing := what_is_missing():
        reason = f"no Slurm can be started: {missing}; slurm/ was not tested"
        if os.environ.get("REQUIRE_SLURM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


# What takes the place of a training which saves a checkpoint when it is interrupted.
INTERRUPTED = """
if [ -e $run/last_checkpoint ]; then exit; fi
end() { sleep 5; touch $run/last_checkpoint; echo '{"status": "interrupted"}' > $run/ended.json; }
trap "end; exit 143" TERM
touch $run/ready$RANK
sleep 60 & wait
"""


def are_ready(project):
    return all((project / f"output/run/ready{rank}").exists() for rank in (0, 1))


@pytest.mark.training
class TestWithStandIn:
    """The files with a program that only pretends to train or evaluate."""

    @pytest.fixture
    def submit(self, cluster, render):
        def submit(name, changes, commands) -> tuple[str, Path]:
            project = render(cluster="slurm")
            python = project / "python"
            commands = f"#!/bin/bash\nrun=output/run\nmkdir -p $run\n{commands}"
            python.write_text(commands, encoding="utf-8")
            python.chmod(0o755)
            settings(project / name, {"PYTHON=": "./python", "RUN=": "output/run"} | changes)
            return cluster.submit(name, cwd=project), project

        return submit

    def test_settings_as_they_come(self, cluster, submit):
        """A process for each of the four GPUs of a node, and one GPU for each evaluator."""
        said = 'echo "$RANK $WORLD_SIZE $LOCAL_RANK $GROUP_RANK $CUDA_VISIBLE_DEVICES: $*" > $run/'
        job, project = submit(TRAIN, {}, said + "$RANK")
        cluster.wait_for(job)
        assert cluster.about(job, "JobState") == [["COMPLETED"]]
        for rank in range(4):
            output = (project / f"output/run/{rank}").read_text(encoding="utf-8")
            ours, _, command = output.strip().partition(": ")
            assert ours == f"{rank} 4 {rank} 0 0,1,2,3"
            config = "configs/faster_rcnn_R_50_FPN.yaml"
            assert command.startswith(f"plain_train_net.py --config-file {config} --resume SOLVER.")
            assert command.endswith(" SOLVER.CHECKPOINT_MAX_TO_KEEP 3 OUTPUT_DIR output/run")
        job, project = submit(EVALUATE, {}, said + "$SLURM_ARRAY_TASK_ID; sleep 2")
        cluster.wait_for(job)
        assert cluster.about(job, "JobState") == [["COMPLETED"]] * 2
        outputs = [(project / f"output/run/{i}").read_text(encoding="utf-8") for i in (0, 1)]
        assert sorted(output.split(":")[0].strip() for output in outputs) == ["0", "1"]

    def test_evaluator_is_interrupted(self, cluster, submit):
        """It alone is requeued, also the one whose number is that of the array."""
        commands = """task=$run/$SLURM_ARRAY_TASK_ID; echo >> $task
            [ "$(wc -l < $task)" = 1 ] || exit 0; sleep 60 & wait"""
        job, project = submit(EVALUATE, SMALL | {"#SBATCH --array=": "0-2"}, commands)
        starts = [project / f"output/run/{i}" for i in range(3)]
        cluster.wait_until(lambda: all(file.exists() for file in starts))
        (number,) = [i for n, i in cluster.about(job, "JobId", "ArrayTaskId") if n == job]
        cluster("scancel", "--signal=TERM", f"{job}_{number}")
        state = ["COMPLETED", "1", number]
        cluster.wait_until(lambda: state in cluster.about(job, *STATE, "ArrayTaskId"))
        cluster("scancel", job)
        cluster.wait_for(job)
        expected = {number: ["COMPLETED", "1"]}
        states = {i: state for *state, i in cluster.about(job, *STATE, "ArrayTaskId")}
        assert states == {i: expected.get(i, ["CANCELLED", "0"]) for i in "012"}

    def test_failed(self, cluster, submit):
        """Not requeued; its status is theirs. One of them may take longer than the other."""
        commands = """if [ $RANK = 1 ]; then exit 3; fi
            sleep 2; echo '{"status": "failed"}' > $run/ended.json; exit 1"""
        job, project = submit(TRAIN, SMALL | TWO_NODES, commands)
        cluster.wait_for(job)
        assert cluster.about(job, *STATE, "ExitCode") == [["FAILED", "0", "3:0"]]
        assert (project / "output/run/ended.json").exists()

    def test_cancelled(self, cluster, submit):
        """Not requeued, although they could go on. They get the time to save a checkpoint."""
        job, project = submit(TRAIN, SMALL | TWO_NODES, INTERRUPTED)
        cluster.wait_until(partial(are_ready, project))
        cluster("scancel", job)
        cluster.wait_for(job)
        assert cluster.about(job, *STATE) == [["CANCELLED", "0"]]
        assert "interrupted" in (project / "output/run/ended.json").read_text()

    @pytest.mark.parametrize("command", ["scancel --signal=TERM", "scontrol requeue"])
    def test_interrupted(self, cluster, submit, command):
        """It saves a checkpoint and continues, be it requeued by itself or by Slurm."""
        job, project = submit(TRAIN, SMALL | TWO_NODES, INTERRUPTED)
        cluster.wait_until(partial(are_ready, project))
        cluster(*command.split(), job)
        cluster.wait_for(job)
        assert cluster.about(job, *STATE) == [["COMPLETED", "1"]]
        assert (project / "output/run/last_checkpoint").exists()

    def test_interrupted_before_the_first_iteration(self, cluster, submit):
        """Requeued, but not for ever."""
        commands = 'echo "$RANK of $WORLD_SIZE" >> $run/started; kill -TERM $$'
        job, project = submit(TRAIN, SMALL | TWO_NODES, commands)
        cluster.wait_for(job)
        assert cluster.about(job, *STATE, "ExitCode") == [["FAILED", "2", "143:0"]]
        started = (project / "output/run/started").read_text().splitlines()
        assert sorted(started) == ["0 of 2"] * 3 + ["1 of 2"] * 3
        (log,) = project.glob("slurm-*.out")
        assert "Interrupted 3 times without an iteration: not requeued." in log.read_text()


@pytest.mark.training
class TestTraining:
    @pytest.fixture
    def submit(self, cluster):
        """Submits both files, or one, in the order given; returns the numbers of the jobs."""

        def submit(project, *names):
            return [
                cluster.submit(name, cwd=project.folder, environ=project.environ) for name in names
            ]

        return submit

    def test_evaluated_while_it_runs(self, make_project, cluster, submit):
        """Two evaluators, which wait for a training on two nodes, evaluate each checkpoint once."""
        project, run = make_project(cluster="slurm"), "output/cluster"
        prepare(project, run)
        evaluation, training = submit(project, EVALUATE, TRAIN)
        logs = partial(log_of, project)
        for job in (training, evaluation):
            cluster.wait_for(job)
            ends = cluster.about(job, *STATE, "ExitCode")
            assert ends == [["COMPLETED", "0", "0:0"]] * len(ends), logs(job)
        assert len(ends) == 2
        assert "cpu x 2" in logs(training)
        assert ended(project, run) == {"status": "finished"}
        assert list(project.metrics(run)) == list(range(40))
        checkpoints = {"0000009", "0000019", "0000029", "0000039"}
        folder = project.folder / run
        results = {file.stem.removeprefix("metrics_") for file in folder.glob("metrics_*.json")}
        assert results == checkpoints
        claims = sorted((folder / "evaluation").glob("claim_*.json"))
        assert [claim.stem for claim in claims] == [f"claim_{i}_1" for i in sorted(checkpoints)]
        assert {json.loads(claim.read_text())["status"] for claim in claims} == {"done"}
        published = re.findall(r"Published metrics_(\d+)\.json", logs(evaluation))
        assert sorted(published) == sorted(checkpoints)

    def test_preempted(self, make_project, cluster, submit):
        """By a job that takes both nodes: it saves, waits in the queue, and goes on from there."""
        project, run = make_project(trainer="lazyconfig", cluster="slurm"), "output/preempted"
        prepare(project, run, "SOLVER.MAX_ITER", 60, "SOLVER.STEPS", "(50,)")
        (job,) = submit(project, TRAIN)
        log = project.folder / run / "metrics.json"
        cluster.wait_until(lambda: log.exists() and log.read_text().count("\n") >= 5, 300)
        whole = ["--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 1"]
        cluster.wait_for(cluster.submit(*whole, cwd=project.folder))
        interrupted = ended(project, run)
        cluster.wait_for(job)
        output = log_of(project, job)
        assert cluster.about(job, *STATE) == [["COMPLETED", "1"]], output
        assert (interrupted["status"], ended(project, run)["status"]) == ("interrupted", "finished")
        (start,) = re.findall(r"Training from iteration ([1-9]\d*) to 60", output)
        assert 5 <= int(start) < 60
        assert list(project.metrics(run)) == list(range(60))  # each of them once

    def test_one_gpu(self, make_project, cluster, submit):
        """The evaluators that get it while a pre-empted training is held give it back."""
        project, run = make_project(cluster="slurm"), "output/one_gpu"
        prepare(project, run, "SOLVER.MAX_ITER", 60, "SOLVER.STEPS", "(50,)")
        one = {"#SBATCH --cpus-per-task=": "1 --nodelist=n1 --gpus-per-node=1"}
        settings(project.folder / TRAIN, one | {"#SBATCH --nodes=": "1"})
        settings(project.folder / EVALUATE, one)
        urgent = ["--partition=urgent", "--nodelist=n1"]
        others = cluster.submit(
            *urgent, "--gpus-per-node=3", "--wrap=sleep 900", cwd=project.folder
        )
        training, evaluation = submit(project, TRAIN, EVALUATE)
        log = project.folder / run / "metrics.json"
        cluster.wait_until(lambda: log.exists() and log.read_text().count("\n") >= 25, 300)
        assert {s for (s,) in cluster.about(evaluation, "JobState")} == {"PENDING"}
        cluster.wait_for(
            cluster.submit(*urgent, "--gpus-per-node=1", "--wrap=sleep 1", cwd=project.folder)
        )
        assert ended(project, run)["status"] == "interrupted"
        for job in (training, evaluation):
            cluster.wait_for(job, 600)
        cluster("scancel", others)
        output = log_of(project, evaluation)
        assert cluster.about(training, *STATE) == [["COMPLETED", "1"]]
        assert {s for (s,) in cluster.about(evaluation, "JobState")} == {"COMPLETED"}
        assert "Nothing to evaluate" in output and "making room" in output
        assert list(project.metrics(run)) == list(range(60))
        published = re.findall(r"Published metrics_(\d+)\.json", output)
        assert len(published) == len(set(published)) >= 6


def prepare(project, run, *arguments):
    """Writes settings into both files: those of a short training, and of this machine."""
    options, is_lazy = [*LONG, "TEST.EVAL_PERIOD", 10, *arguments], project.trainer == "lazyconfig"
    options = translate(options) if is_lazy else map(str, options)
    batch = "dataloader.train.total_batch_size=" if is_lazy else "SOLVER.IMS_PER_BATCH "
    train = {"CONFIG=": f"configs/smoke.{'py' if is_lazy else 'yaml'}"}
    train[batch] = f"4 {shlex.join(options)}"
    common = SMALL | {"RUN=": run, "PYTHON=": str(project.environment / "bin/python")}
    settings(project.folder / TRAIN, common | TWO_NODES | train)
    settings(project.folder / EVALUATE, common | {"GIVE_UP_AFTER=": "5"})
    project.run("python", "--version")  # installs it into the environment, which others share


def log_of(project, job) -> str:
    """What it wrote, or all jobs of an array."""
    files = sorted(project.folder.glob(f"slurm-*-{job}*.out"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)
