"""metrics.json and TensorBoard: every evaluation once and in order, whatever was killed."""

import json
import os
import random
import sys

import pytest
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from d2_starter.config.experiment import Schedule
from d2_starter.evaluation import rehearse
from d2_starter.evaluation.early_stopping import EarlyStopping
from d2_starter.files.run_directory import RunDirectory
from d2_starter.run.writers import build_writers, latest_scalars

ITERATIONS = 60


def schedule(**changes) -> Schedule:
    values = dict(max_iter=ITERATIONS, batch_size=2, images_per_epoch=10, log_period=20)
    values |= dict(eval_period=3, eval_in_loop=True, checkpoint_period=7)
    return Schedule(**values | changes)


def ap(iteration):
    return 50 + iteration * 7919 % 31


def train(folder, plan: Schedule, start, end, rule=None):
    """What the loops do, without a model; it is killed after the iteration before `end`."""
    folder.mkdir(exist_ok=True)
    writers = build_writers(str(folder), plan, start)
    with EventStorage(start) as storage:
        for iteration in range(start, end):
            storage.iter = iteration
            storage.put_scalars(total_loss=1 / (1 + iteration), time=0.1, data_time=0.1, lr=0.1)
            storage.put_scalars(**plan.progress(iteration), smoothing_hint=False)
            done = iteration + 1
            if done % 7 == 0:
                storage.put_scalar("own/norm", done)  # by a hook of the user's
            is_due = plan.is_evaluation_due(done, done == plan.max_iter)
            if is_due:
                storage.put_scalars(**{"bbox/AP": ap(iteration)}, smoothing_hint=False)
                if rule:
                    rule.update(latest_scalars(plan.log_period), iteration)
            if is_due or done % plan.log_period == 0:
                for writer in writers:
                    writer.write()
            if rule and rule.should_stop:
                break
    for number, file in enumerate(sorted(folder.glob("events.*"), key=os.path.getctime)):
        file.rename(folder / f"events.out.tfevents.{number:010d}")  # a second has many here
    return iteration


def curves(folder) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


@pytest.mark.parametrize("images_per_epoch", [10, 20000])  # an epoch of 5, or of 10,000 iterations
@pytest.mark.parametrize("seed", range(3))
def test_after_kills(tmp_path, images_per_epoch, seed):
    plan, start, dice = schedule(images_per_epoch=images_per_epoch), 0, random.Random(seed)
    while start < ITERATIONS:
        end = dice.randint(start + 1, ITERATIONS)
        train(tmp_path, plan, start, end)
        start = end if end == ITERATIONS else end // 7 * 7  # from the last checkpoint on
    evaluated = list(range(2, ITERATIONS, 3))
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    iterations = [line["iteration"] for line in lines]
    assert iterations == sorted(set(iterations))
    on_record = {line["iteration"]: line["bbox/AP"] for line in lines if "bbox/AP" in line}
    assert on_record == {i: ap(i) for i in evaluated}
    drawn = curves(tmp_path)
    assert drawn["bbox/AP"] == [(i, ap(i)) for i in evaluated]
    for tag, points in drawn.items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), tag
        name = tag.removeprefix("by_epoch/")
        if tag == name:
            assert steps == [line["iteration"] for line in lines if name in line], tag
    steps = [round(1000 * plan.progress(i)["epoch"]) for i in evaluated]
    assert [step for step, _ in drawn["by_epoch/bbox/AP"]] == sorted(set(steps))


@pytest.mark.parametrize("patience", [2, 4, 9])
def test_rehearsal_agrees(tmp_path, monkeypatch, capsys, patience):
    """With the training itself, whose evaluations come more often than its log."""
    stopped = train(tmp_path / "a", schedule(), 0, ITERATIONS, EarlyStopping("", "", patience))
    train(tmp_path / "b", schedule(), 0, ITERATIONS)
    run = str(tmp_path / "b")
    monkeypatch.setattr(sys, "argv", ["rehearse", run, "--patience", str(patience)])
    rehearse.main()
    row = capsys.readouterr().out.splitlines()[2].split()
    assert row[1] == (str(stopped) if stopped + 1 < ITERATIONS else "never")


def test_rehearsal_with_late_results(tmp_path, monkeypatch, capsys):
    """Of an asynchronous evaluation, in whatever order they came; and with a damaged log."""
    train(tmp_path, schedule(eval_in_loop=False), 0, ITERATIONS)
    with open(tmp_path / "metrics.json", "a") as file:
        file.write('{"iteration": 3, "bbo\n\x00\x01\n[1]\n{}\n')
    evaluated = list(range(2, ITERATIONS, 3))
    random.Random(0).shuffle(evaluated)
    directory, rule = RunDirectory(tmp_path), EarlyStopping("", "", 2)
    for i in evaluated:
        result = {"iteration": i, "epoch": i / 5, "bbox/AP": ap(i)}
        directory.result_file(i).write_text(json.dumps(result))
    rule.update_from_results(directory.results())
    assert rule.should_stop
    monkeypatch.setattr(sys, "argv", ["rehearse", str(tmp_path), "--patience", "2"])
    rehearse.main()
    output = capsys.readouterr().out
    seen = [i for i in sorted(evaluated)][: rule.evaluations]
    assert output.splitlines()[2].split()[1] == str(seen[-1])
    assert f"{len(evaluated)} evaluations" in output
