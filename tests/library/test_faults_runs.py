"""A run directory: one training at a time in it; damaged files; what a resumed run takes over."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_training import Killed, arguments, kill_at, train

from d2_starter.files import owner
from d2_starter.files.atomic import read_json
from d2_starter.files.heartbeat import Heartbeat
from d2_starter.files.owner import Lost, Refused
from d2_starter.files.run_directory import RunDirectory
from d2_starter.run.checkpoint import CheckpointCleaner
from d2_starter.run.setup import close_log


@pytest.fixture(autouse=True)
def closed_log():
    yield
    close_log()


def lines_of(run) -> list[dict]:
    text = (run / "metrics.json").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def kill(folder, number, **config):
    """Trains up to an iteration; nothing says then that the training has ended."""
    with pytest.raises(Killed):
        train(arguments(folder, **config), kill_at(number))
    run = folder / "run"
    (run / "ended.json").unlink()
    content = read_json(run / "evaluation/trainer.json") | {"status": "", "pid": 2**22 + 1}
    (run / "evaluation/trainer.json").write_text(json.dumps(content))
    return run


# One training at a time.


class TestTwoTrainings:
    OTHER = """
import sys, time
from pathlib import Path
from d2_starter.files.owner import take
take(Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(100)
"""

    @pytest.fixture
    def other(self, tmp_path):
        """A training in another process, which has the directory."""
        run = tmp_path / "run"
        train(arguments(tmp_path, max_iter=2))
        process = subprocess.Popen(
            [sys.executable, "-c", self.OTHER, run],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": sys.path[0] + os.pathsep + ":".join(sys.path)},
        )
        assert process.stdout.readline() == "taken\n"
        yield process
        process.kill()
        process.wait()

    @pytest.mark.parametrize("option", ["resume", "new"])
    def test_live(self, tmp_path, other, option):
        files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.*")}
        with pytest.raises(Refused, match=rf"a training lives in .*run \(process {other.pid}"):
            train(arguments(tmp_path, option))
        assert not (tmp_path / "run.1").exists()
        now = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*.*")}
        now.pop(tmp_path / "run/evaluation/trainer.json")
        assert now.items() <= files.items()

    def test_killed(self, tmp_path, other):
        """At once: on this machine, that a process is gone can be seen."""
        other.kill()
        other.wait()
        start = time.monotonic()
        train(arguments(tmp_path, "resume", max_iter=4))
        assert time.monotonic() - start < 10
        assert [line["iteration"] for line in lines_of(tmp_path / "run")][-1] == 3

    @pytest.mark.parametrize("lives", [True, False])
    def test_on_another_machine(self, tmp_path, monkeypatch, capsys, lives):
        """There, only its heartbeat is known."""
        file = RunDirectory(tmp_path).trainer_file()
        file.parent.mkdir()
        heartbeat = Heartbeat(file, timeout=1.2)
        monkeypatch.setattr("d2_starter.files.heartbeat._machine", lambda: "another")
        if not lives:
            heartbeat._closed.set()
        if lives:
            with pytest.raises(Refused):
                owner.check_free(tmp_path, print)
        else:
            owner.check_free(tmp_path, print)
        assert "waiting for up to 1.2 s" in capsys.readouterr().out

    def test_lost(self, tmp_path):
        """A training whose directory was taken all the same writes nothing into the new one."""
        run = tmp_path / "run"

        def take_away(iteration, training):
            if iteration == 6:
                run.rename(tmp_path / "mine")
                shutil.copytree(tmp_path / "mine/evaluation", run / "evaluation")

        with pytest.raises(Lost, match="taken by another training"):
            train(arguments(tmp_path), take_away)
        assert [path.name for path in run.iterdir()] == ["evaluation"]


# Damage.


def damage(path: Path, how: str):
    data = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(data[: len(data) * 2 // 3])
    elif how == "garbage":
        path.write_bytes(bytes(range(256)) * (len(data) // 256 + 1))
    elif how == "changed" and data:  # a bit, as a disk does it
        middle = len(data) // 2
        if path.suffix == ".pth":  # elsewhere, there is padding
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith("data/0")]
                middle = data.index(archive.read(names[0]))
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    elif how != "changed":
        path.unlink()
        if how == "folder":
            path.mkdir()
        else:  # unreadable, even for root
            path.symlink_to(path.name)


FILES = """last_checkpoint model_0000014.pth model_best.pth metrics.json config.yaml environment.txt
    git.diff log.txt metrics_0000014.json evaluation/trainer.json evaluation/model_0000014.json
    evaluation/claim_0000014_1.json evaluation/events.out.tfevents.0000000001 events""".split()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed at iteration 17, with its last checkpoint at 14; and a whole one."""
    folder = tmp_path_factory.mktemp("killed")
    run = kill(folder, 17, seed=5)
    close_log()
    result = {"iteration": 14, "epoch": 3.0, "bbox/AP": 50.0}
    RunDirectory(run).result_file(14).write_text(json.dumps(result))
    claim = RunDirectory(run).claim(14, 1, 60)
    claim.close(status="done")
    (run / "evaluation/events.out.tfevents.0000000001").write_bytes(b"...")
    whole = tmp_path_factory.mktemp("whole")
    weights = train(arguments(whole, seed=5))[0].state_dict()
    close_log()
    return folder, weights, lines_of(whole / "run")


@pytest.mark.parametrize("how", ["empty", "cut", "garbage", "changed", "folder", "unreadable"])
@pytest.mark.parametrize("name", FILES)
def test_damaged(tmp_path, killed, name, how):
    folder, weights, whole = killed
    shutil.copytree(folder / "run", tmp_path / "run")
    run = tmp_path / "run"
    damage(next(run.glob("events.*")) if name == "events" else run / name, how)
    model, training = train(arguments(tmp_path, "resume", seed=5))
    assert training.status == "finished"
    assert all(torch.equal(model.state_dict()[key], weights[key]) for key in weights)
    lines = {line["iteration"]: line for line in lines_of(run)}
    expected = {line["iteration"]: line for line in whole}
    if name == "metrics.json":  # what can be read is kept; from the checkpoint on, all is there
        expected = {i: line for i, line in expected.items() if i > 14 or i in lines}
        assert max(lines) == 19
        # Half a line at the end is what a killed process leaves: nothing to say of.
        assert os.path.lexists(run / "damaged/metrics.json") or how in ("empty", "cut")
    assert lines == expected
    assert json.loads((run / "ended.json").read_text()) == {"status": "finished"}
    if name.startswith("model_"):
        moved = run / "damaged" / name
        assert os.path.lexists(moved)
        log = (run / "log.txt").read_text()
        assert f"{name} " in log and "damaged" in log
    if name == "last_checkpoint":
        assert "training goes on from model_0000014.pth" in (run / "log.txt").read_text()
    assert (run / "last_checkpoint").read_text() == "model_final.pth"


def test_last_checkpoint_elsewhere(tmp_path, killed):
    shutil.copytree(killed[0] / "run", tmp_path / "run")
    shutil.copy(tmp_path / "run/model_0000009.pth", tmp_path / "x.pth")
    (tmp_path / "run/last_checkpoint").write_text("../x.pth")
    train(arguments(tmp_path, "resume", seed=5))
    assert "goes on from model_0000014.pth" in (tmp_path / "run/log.txt").read_text()


def test_no_whole_checkpoint(tmp_path, killed):
    shutil.copytree(killed[0] / "run", tmp_path / "run")
    for file in (tmp_path / "run").glob("model_*.pth"):
        damage(file, "cut")
    with pytest.raises(Refused, match=r"no checkpoint in .* is whole \(model_0000014.pth: "):
        train(arguments(tmp_path, "resume", seed=5))


def test_checkpoint_that_runs_code(tmp_path, killed):
    shutil.copytree(killed[0] / "run", tmp_path / "run")
    file = tmp_path / "run/model_0000014.pth"
    program = types.SimpleNamespace(a=1)  # anything that a pickle calls to make
    torch.save(torch.load(file, weights_only=True) | {"extra": program}, file)
    train(arguments(tmp_path, "resume", seed=5))
    log = (tmp_path / "run/log.txt").read_text()
    assert "model_0000014.pth (to open it is to run code) is in" in log
    assert "goes on from model_0000009.pth" in log


def test_what_lies_after_is_evaluated_again(tmp_path, killed):
    shutil.copytree(killed[0] / "run", tmp_path / "run")
    damage(tmp_path / "run/model_0000014.pth", "cut")
    train(arguments(tmp_path, "resume", seed=5))
    directory = RunDirectory(tmp_path / "run")
    assert set(directory.published()) == {4, 9, 14, 19}
    assert not directory.results() and not directory.attempts()


@pytest.mark.parametrize("content", ["", "enough", "folder", b"\xff\x00"])
def test_stop_file(tmp_path, content):
    """Whatever it is, it asks to stop."""

    def write(iteration, run):
        file = tmp_path / "run/training_completed.txt"
        if iteration == 6 and content == "folder":
            file.mkdir()
        elif iteration == 6:
            file.write_bytes(content if isinstance(content, bytes) else content.encode())

    assert train(arguments(tmp_path), write)[1].status == "stopped"
    assert lines_of(tmp_path / "run")[-1]["iteration"] == 6


# One process.


def test_several_trainings_in_one_process(tmp_path, capsys):
    for number in (1, 2, 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        capsys.readouterr()
        train(arguments(folder))
        logging.getLogger("d2_starter").info("last line")
    for number in (1, 2, 3):
        log = (tmp_path / str(number) / "run/log.txt").read_text()
        assert log.count("Output: ") == 1
        assert f"/{number}/run;" in log
    names = ("detectron2", "fvcore", "d2_starter")
    for name in names:
        ours = (logging.StreamHandler, logging.FileHandler)
        assert [type(h) for h in logging.getLogger(name).handlers if type(h) in ours] == [*ours]


def test_a_cell_is_run_again(tmp_path):
    """With the same directory; also after it was interrupted, or has failed before training."""
    for error in (None, KeyboardInterrupt, ValueError, None):

        def end(iteration, run, error=error):
            if error and iteration == 3:
                raise error

        if error:
            with pytest.raises(error):
                train(arguments(tmp_path), end)
        else:
            train(arguments(tmp_path), end)
    with pytest.raises(TypeError):
        train(arguments(tmp_path, batch_size="none"))
    train(arguments(tmp_path))
    ends = [read_json(run / "ended.json") for run in sorted(tmp_path.glob("run*"))]
    assert [end["status"] for end in ends].count("finished") == 3
    assert {end["status"] for end in ends} == {"finished", "stopped", "failed"}
    for run in tmp_path.glob("run*"):
        assert (run / "log.txt").read_text().count("Output: ") >= 1


# Signals, and small things.


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_signals(tmp_path, name):
    def send(iteration, run):
        if iteration == 7:
            signal.raise_signal(getattr(signal, name))

    with pytest.raises(SystemExit) as end:
        train(arguments(tmp_path), send)
    assert end.value.code == 128 + getattr(signal, name)
    end = read_json(tmp_path / "run/ended.json")
    assert end == {"status": "interrupted", "reason": f"{name}; --resume goes on"}
    assert (tmp_path / "run/last_checkpoint").read_text() == "model_interrupted.pth"
    assert "was interrupted" in (tmp_path / "run/log.txt").read_text()


def test_nohup(tmp_path):
    """What is to be ignored stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hang_up = [lambda i, run: signal.raise_signal(signal.SIGHUP)]
        assert train(arguments(tmp_path), hang_up[0])[1].status == "finished"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nothing_to_delete_yet(tmp_path, caplog):
    """Before the first checkpoint, there is nothing to warn of."""
    from d2_starter.evaluation.early_stopping import Metric

    for folder in (tmp_path, tmp_path / "missing"):
        CheckpointCleaner(str(folder), 2, Metric(), eval_in_loop=False)()
    assert not caplog.records


def test_repository_without_commits(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    train(arguments(tmp_path))
    environment = (tmp_path / "run/environment.txt").read_text()
    assert environment.startswith("git commit: none\nstarted: 20")
    assert (tmp_path / "run/git.diff").read_text() == ""


def test_claims_are_exclusive(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.shared.mkdir()
    first = directory.claim(4, 1, 60)
    assert first and not directory.claim(4, 1, 60)
    first.close()


def test_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(Refused, match=r"cannot be used as the run directory.*mkdir -p"):
        train(arguments(tmp_path))


def test_failure_before_training_is_recorded(tmp_path):
    with pytest.raises(TypeError):
        train(arguments(tmp_path, batch_size="none"))
    end = read_json(tmp_path / "run/ended.json")
    assert end["status"] == "failed" and "before it began: TypeError" in end["reason"]


# What a resumed run takes from where.


def resumed(tmp_path, **changes):
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    common = {"max_iter": 8, "log_period": 1, "seed": 3, "eval_period": 0}
    train(arguments(tmp_path, **common))
    train(arguments(tmp_path, "resume", **(common | {"max_iter": 12} | changes)))
    return lines_of(tmp_path / "run"), (tmp_path / "run/log.txt").read_text()


def test_learning_rate_is_that_of_the_config(tmp_path):
    lines, log = resumed(tmp_path, base_lr=0.002, steps=[10])
    rates = [round(line["lr"], 6) for line in lines]
    assert rates == [0.1] * 8 + [0.002] * 2 + [0.0002] * 2
    assert (
        "Changed, from the next iteration on: base_lr 0.002 (was 0.1); max_iter 12 (was 8)" in log
    )
    assert "base_lr: 0.002" in (tmp_path / "run/config.yaml").read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 4},
        {"seed": 4},
        {"images": 11},
        {"train_names": "[c]"},
        {"test_names": "[c]"},
        {"train_subset_ratio": 0.5, "train_subset_seed": 1},
        {"test_subset_ratio": 0.5},
        {"pixel_mean": 2.0},
    ],
)
def test_refused(tmp_path, change):
    with pytest.raises(Refused, match=f"cannot go on with .*{next(iter(change))}"):
        resumed(tmp_path, **change)
    assert "max_iter: 8" in (tmp_path / "run/config.yaml").read_text()  # as it was


def test_seed_that_was_drawn_is_kept(tmp_path):
    common = {"max_iter": 8}
    train(arguments(tmp_path, **common))
    had = (tmp_path / "run/config.yaml").read_text()
    train(arguments(tmp_path, "resume", max_iter=10, weights="elsewhere.pth"))
    assert (tmp_path / "run/config.yaml").read_text() == had.replace("max_iter: 8", "max_iter: 10")


def test_ema_switched(tmp_path):
    """On: the average starts from the weights. Off: training goes on with the trained weights."""
    whole, _ = train(arguments(tmp_path, seed=1, max_iter=12, eval_period=0))
    shutil.rmtree(tmp_path / "run")
    train(arguments(tmp_path, seed=1, max_iter=8, eval_period=0, ema_decay=0.9))
    off, _ = train(arguments(tmp_path, "resume", seed=1, max_iter=12, eval_period=0))
    assert torch.equal(off.weight, whole.weight)
