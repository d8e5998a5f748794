"""What went wrong in trainings of users: records, resumes, directories, in every flavour."""

import json
import os
import pty
import signal

import pytest
from projects import SMOKE, TRAINERS, ended, train_and_kill

pytestmark = pytest.mark.training

TINY = ["SOLVER.IMS_PER_BATCH", 2, "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", 2]
TINY += [
    "DATALOADER.NUM_WORKERS",
    0,
    "TEST.NUM_PICTURES",
    0,
    "SEED",
    1,
    "TEST.REPORT",
    False,
    "SOLVER.MAX_ITER",
    9,
]
TINY += ["SOLVER.CHECKPOINT_PERIOD", 4, "TEST.EVAL_PERIOD", 2, "LOG_PERIOD", 20]


@pytest.fixture(scope="module", params=TRAINERS)
def flavour(request, projects):
    return projects(request.param)


def curves(flavour, run):
    code = f"""
import json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator({run!r}).Reload()
print(json.dumps({{t: [e.step for e in events.Scalars(t)] for t in events.Tags()["scalars"]}}))
"""
    return json.loads(flavour.run("python", "-c", code).splitlines()[-1])


@pytest.fixture(scope="module")
def run(flavour):
    """A training with evaluations more often than its log, which was killed and resumed."""
    train_and_kill(flavour, 3, "output/faults", *SMOKE, *TINY)
    flavour.train(*SMOKE, "--resume", *TINY, "OUTPUT_DIR", "output/faults")
    return "output/faults"


def test_every_evaluation_is_on_record(flavour, run):
    metrics = flavour.metrics(run)
    assert list(metrics) == [1, 3, 5, 7, 8]
    assert all({"segm/AP", "val_loss/total_loss"} <= line.keys() for line in metrics.values())
    drawn = curves(flavour, run)
    assert drawn["segm/AP"] == drawn["total_loss"] == [1, 3, 5, 7, 8]
    steps = [round(1000 * line["epoch"]) for line in metrics.values()]
    assert drawn["by_epoch/segm/AP"] == drawn["by_epoch/total_loss"] == steps


def test_goes_on_with_its_config(flavour, run):
    """From the next iteration on; and what cannot be changed is refused in one line."""
    refused = flavour.train(
        *SMOKE, "--resume", *TINY, "OUTPUT_DIR", run, "SOLVER.IMS_PER_BATCH", 4, status=1
    )
    assert "cannot go on with" in refused and "Traceback" not in refused
    changes = ["SOLVER.MAX_ITER", 11, "SOLVER.BASE_LR", 0.001, "LOG_PERIOD", 1]
    said = flavour.train(*SMOKE, "--resume", *TINY, "OUTPUT_DIR", run, *changes)
    assert "Changed, from the next iteration on: " in said
    metrics = flavour.metrics(run)
    assert {metrics[i]["lr"] for i in (9, 10)} == {0.001}


def test_damaged_checkpoint(flavour, run):
    folder = flavour.folder / run
    last = folder / (folder / "last_checkpoint").read_text()
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    (folder / "model_best.pth").write_bytes(b"")
    said = flavour.train(*SMOKE, "--resume", *TINY, "OUTPUT_DIR", run)
    assert f"{last.name} (" in said and "goes on from model_0000007.pth" in said
    assert (folder / "damaged" / last.name).exists()
    assert list(flavour.metrics(run)) == [1, 3, 5, 7, 8]


def test_directory_of_a_live_training(flavour):
    run, log = "output/live", flavour.folder / "output/live/metrics.json"
    process = flavour.start(
        *SMOKE, *TINY, "SOLVER.MAX_ITER", 1000, "LOG_PERIOD", 1, "OUTPUT_DIR", run
    )
    process.wait_for(log.exists)
    for option in ([], ["--resume"]):
        refused = flavour.train(*SMOKE, *option, *TINY, "OUTPUT_DIR", run, status=1)
        assert "a training lives in output/live" in refused and "Traceback" not in refused
    assert not (flavour.folder / "output/live.1").exists()
    os.killpg(process.id, signal.SIGTERM)
    assert process.wait() == 143
    assert ended(flavour, run)["status"] == "interrupted"


def test_diverging_before_the_first_evaluation(flavour):
    """The learning rate is named, and no image."""
    said = flavour.train(
        *SMOKE, *TINY, "SOLVER.BASE_LR", 1e6, "OUTPUT_DIR", "output/diverging", status=1
    )
    assert "training diverged" in said and "learning rate" in said
    assert "ground truth" not in said
    assert ended(flavour, "output/diverging")["status"] == "failed"


TWICE = """
import argparse, sys
sys.path.insert(0, ".")
import {script} as script
for _ in range(2):
    script.main(argparse.Namespace(config_file={config!r}, opts={opts!r}, resume=False,
        eval_only=False, num_gpus=1, num_machines=1))
"""


def test_a_cell_is_run_again(flavour):
    """Each run has its own log, and lines come once."""
    command = flavour.command(*SMOKE, *TINY, "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", "output/cell")
    script, _, config, *opts = command
    code = TWICE.format(script=script.removesuffix(".py"), config=config, opts=opts)
    printed = flavour.run("python", "-c", code)
    for folder in ("output/cell", "output/cell.1"):
        log = (flavour.folder / folder / "log.txt").read_text(encoding="utf-8")
        assert log.count("Training from iteration") == 1
    assert printed.count("Training from iteration") == 2


def test_terminal_is_closed(flavour):
    run, log = "output/closed", flavour.folder / "output/closed/metrics.json"
    process, terminal = pty.fork()
    if not process:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored by nohup
        os.chdir(flavour.folder)
        command = flavour.command(
            *SMOKE, *TINY, "SOLVER.MAX_ITER", 1000, "LOG_PERIOD", 1, "OUTPUT_DIR", run
        )
        python = str(flavour.environment / "bin/python")
        os.execve(python, [python, *command], flavour.environ)
    while not log.exists():
        os.read(terminal, 10000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 128 + signal.SIGHUP
    end = ended(flavour, run)
    assert (end["status"], end["reason"][:6]) == ("interrupted", "SIGHUP")
    assert (flavour.folder / run / "last_checkpoint").read_text() == "model_interrupted.pth"
