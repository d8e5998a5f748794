import json
import threading
import time

import pytest
import torch

from d2_starter.async_evaluation.evaluator import Backlog
from d2_starter.evaluation.early_stopping import Metric
from d2_starter.files import atomic
from d2_starter.files import heartbeat as heartbeats
from d2_starter.files.atomic import write_atomically, write_json
from d2_starter.files.heartbeat import Heartbeat, Watch
from d2_starter.files.run_directory import RunDirectory
from d2_starter.run.checkpoint import (
    CheckpointCleaner,
    finish_interrupted,
    make_last,
    publish_last,
)


def test_file_that_cannot_be_written_whole_is_not_there(tmp_path):
    def write(file):
        file.write(b"half")
        raise OSError("no space")

    (tmp_path / "there").write_text("before")
    for name in ("new", "there"):
        for exclusively in (True, False):
            with pytest.raises(OSError, match="no space"):
                write_atomically(tmp_path / name, write, exclusively)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "before"


@pytest.mark.parametrize("has_links", [True, False])
def test_one_of_many_writes_a_file_exclusively(tmp_path, monkeypatch, has_links):
    if not has_links:

        def link(*_):
            raise PermissionError("this file system has none")

        monkeypatch.setattr(atomic.os, "link", link)
        assert write_json(tmp_path / "result", 1, exclusive=True)
        assert not write_json(tmp_path / "result", 2, exclusive=True)
        assert json.loads((tmp_path / "result").read_text()) == 1
        return
    won = []

    def write(number):
        start.wait()
        if write_json(tmp_path / "result", number, exclusive=True):
            won.append(number)

    start = threading.Barrier(16)
    threads = [threading.Thread(target=write, args=[number]) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [json.loads((tmp_path / "result").read_text())]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_silence_is_counted_only_while_somebody_looks(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(heartbeats.time, "monotonic", lambda: clock[0])
    watch, file = Watch(), tmp_path / "claim"
    file.write_text("1")

    def silent_after(seconds):
        clock[0] += seconds
        return watch.is_silent(file, timeout=120)

    assert not silent_after(0)
    assert not silent_after(9999)  # nobody looked: a disk that was away, or a machine that slept
    assert [silent_after(40) for _ in range(3)] == [False, False, True]
    file.write_text("2")
    assert [silent_after(30) for _ in range(5)] == [False, False, False, False, True]


def test_claim_that_another_has_taken_over_is_not_written_to(tmp_path):
    folder = RunDirectory(tmp_path)
    folder.publish("model_0000009.pth", 9)
    claim = folder.claim(9, 1, timeout=60)
    assert folder.claim(9, 1, timeout=60) is None
    path = claim.path
    path.unlink()
    path.write_text("another's")
    claim.beat()
    assert not claim.is_in_place()
    claim.close(status="done")
    assert path.read_text() == "another's"


def test_heart_beats(tmp_path):
    heartbeat = Heartbeat(tmp_path / "beat", timeout=0.3)
    before = heartbeat.path.read_text()
    time.sleep(0.5)
    assert heartbeat.path.read_text() != before
    heartbeat.close()


def test_what_becomes_of_a_checkpoint(tmp_path):
    folder = RunDirectory(tmp_path)
    for iteration in range(6):
        folder.publish(f"model_{iteration:07d}.pth", iteration)
    attempts = [(0, 1, "failed"), (0, 2, "failed"), (1, 1, "failed"), (1, 2, "released")]
    attempts += [(2, 1, "running"), (3, 1, "done"), (4, 1, "running"), (4, 2, "failed")]
    for iteration, number, status in attempts:
        folder.claim(iteration, number, 60).close(status=status)
    write_json(folder.result_file(5), {"iteration": 5})
    alive = Backlog.look(folder, 2, lambda attempt: True)
    # 3 is done, but its result cannot be seen yet.
    assert (alive.open, list(alive.claimed), alive.done) == ({1: 3}, [2, 3], [5])
    assert list(alive.failed) == [0, 4]
    dead = Backlog.look(folder, 2, lambda attempt: False)
    assert (dead.open, dead.claimed, list(dead.failed)) == ({1: 3, 2: 2, 3: 2}, {}, [0, 4])
    more = Backlog.look(folder, 3, lambda attempt: False)
    assert more.open == {0: 3, 1: 3, 2: 2, 3: 2, 4: 3}


def test_checkpoints_that_are_needed_are_not_deleted(tmp_path):
    folder = RunDirectory(tmp_path)
    clean = CheckpointCleaner(tmp_path, 1, Metric(), eval_in_loop=False)
    for iteration in range(8):
        path = tmp_path / f"model_{iteration:07d}.pth"
        path.touch()
        make_last(str(path), iteration)
    (tmp_path / "model_best.pth").touch()
    for iteration, ap in ((0, 1), (1, 5), (2, 3), (3, 4)):
        write_json(folder.result_file(iteration), {"iteration": iteration, "bbox/AP": ap})
    claim = folder.claim(2, 1, timeout=60)

    def kept():
        clean()
        return [int(path.stem[6:]) for path in sorted(tmp_path.glob("model_0*"))]

    assert kept() == [1, 2, 4, 5, 6, 7]  # the best, claimed, without result, the newest
    claim.close(status="done")
    assert kept() == [1, 4, 5, 6, 7]
    clean = CheckpointCleaner(tmp_path, 1, Metric())
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    assert kept() == [1, 5, 7]
    assert (tmp_path / "model_best.pth").exists()


def test_checkpoint_of_a_trainer_that_was_killed_before_it_could_publish_it(tmp_path):
    torch.save({"iteration": 9, "model": {}}, tmp_path / "model_0000009.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    (tmp_path / ".model_0000019.abc.tmp").write_text("half")
    publish_last(tmp_path)
    assert list(RunDirectory(tmp_path).published()) == [9]
    assert not list(tmp_path.glob(".*"))


def test_run_that_ends_where_it_was_interrupted(tmp_path):
    torch.save({"iteration": 7, "model": {}}, tmp_path / "model_interrupted.pth")
    make_last(str(tmp_path / "model_interrupted.pth"), 7)
    publish_last(tmp_path)
    assert not RunDirectory(tmp_path).published()
    finish_interrupted(tmp_path)
    assert [c["checkpoint"] for c in RunDirectory(tmp_path).published().values()] == [
        "model_final.pth"
    ]
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_heart_that_has_stopped_writes_nowhere(tmp_path):
    """Its thread may be about to; the number of its file is another file's then."""
    heartbeat = Heartbeat(tmp_path / "beat", timeout=60)
    heartbeat.close(status="done")
    with open(tmp_path / "other", "wb"):
        heartbeat.beat()
    assert (tmp_path / "other").read_bytes() == b""
    assert json.loads((tmp_path / "beat").read_text())["status"] == "done"
