"""Evaluators that have nothing to do, and trainings that fail at once."""

import json
import os
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from d2_starter.async_evaluation import command
from d2_starter.async_evaluation.curves import Curves
from d2_starter.async_evaluation.evaluator import Backlog
from d2_starter.files.atomic import read_json
from d2_starter.files.heartbeat import Heartbeat
from d2_starter.files.run_directory import RunDirectory
from d2_starter.run.launch import launch
from d2_starter.run.setup import close_log


class NoEvaluator:
    def __init__(self, *_):
        pass

    def publish_conclusions(self):
        pass

    def look(self):
        return Backlog({}, {}, [], {})


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Runs the command on `tmp_path/run`; returns its exit status."""
    monkeypatch.setattr(command, "CheckpointEvaluator", NoEvaluator)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)

    def serve(**options):
        options = {"poll": 0.05, "give-up-after": 1, "restart-within": 0} | options
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        monkeypatch.setattr(sys, "argv", ["evaluate", str(tmp_path / "run"), "--watch", *words])
        with pytest.raises(SystemExit) as end:
            command.main(lambda file, opts: SimpleNamespace())
        return end.value.code

    yield serve
    close_log()


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.shared.mkdir(parents=True)
    (directory.path / "config.yaml").touch()
    return directory


def test_makes_room_for_a_training_that_is_pending(serve, capsys):
    assert serve(**{"yield-after": 0.003}) == 75
    printed = capsys.readouterr().out
    assert "Waiting for the training to begin" in printed and "making room" in printed


def test_makes_room_for_a_training_that_was_interrupted(serve, run, capsys):
    run.write_end("interrupted", "SIGTERM; --resume goes on")
    assert serve(**{"yield-after": 0.003}) == 75
    assert "Waiting for the training, which was interrupted, to go on" in capsys.readouterr().out


def test_makes_room_when_the_training_was_killed(serve, run):
    run.trainer_file().write_text(json.dumps({"timeout": 0.2, "status": ""}))
    assert serve(**{"yield-after": 0.003}) == 75


def test_stays_beside_a_training_that_lives(serve, run):
    heartbeat = Heartbeat(run.trainer_file(), timeout=0.6)
    ends = []
    thread = threading.Thread(target=lambda: (time.sleep(2), ends.append(1), finish()))

    def finish():
        heartbeat.close(status="ended")
        run.write_end("finished")

    thread.start()
    assert serve(**{"yield-after": 0.003}) == 0 and ends
    thread.join()


def test_gives_up_in_the_end(serve, run, capsys):
    """By the disk's clock: it may have been started again and again meanwhile."""
    run.write_end("interrupted")
    old = time.time() - 100
    for file in (run.path / "ended.json", run.path / "config.yaml"):
        os.utime(file, (old, old))
    assert serve(**{"yield-after": 1}) == 1
    assert "given up" in capsys.readouterr().out


def test_training_that_failed_at_once(serve, tmp_path, capsys):
    """Also before it had a config."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.write_end("failed", "before it began: there is no config key 'SOLVER.MAX_ITR'")
    assert serve() == 1
    assert "has failed: before it began: there is no config key" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["OUTPUT_DIR {}", "train.output_dir={}"])
@pytest.mark.parametrize(
    "had, now", [(None, "failed"), ("interrupted", "failed"), ("finished", "finished")]
)
def test_mistyped_config_is_recorded(tmp_path, monkeypatch, word, had, now):
    run = RunDirectory(tmp_path / "run")
    if had:
        run.path.mkdir()
        run.write_end(had)
    words = word.format(run.path).split()
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-file", "a", "--resume", *words])

    def refuse(file, opts):
        raise ValueError("there is no config key 'SOLVER.MAX_ITR'")

    with pytest.raises(SystemExit, match="error: there is no config key"):
        launch(print, refuse)
    assert read_json(run.path / "ended.json")["status"] == now


@pytest.mark.parametrize("data", [b"", b"...", b"\x00" * 100])
def test_curves_after_a_damaged_file(run, data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for i in (4, 9):
        run.result_file(i).write_text(json.dumps({"iteration": i, "epoch": i / 5, "bbox/AP": i}))
        Curves(run).update()
    (run.shared / "events.out.tfevents.0000000002").write_bytes(data)
    run.result_file(14).write_text(json.dumps({"iteration": 14, "epoch": 2.8, "bbox/AP": 14}))
    Curves(run).update()
    events = EventAccumulator(str(run.shared)).Reload().Scalars("bbox/AP")
    assert [event.step for event in events] == [4, 9, 14]
