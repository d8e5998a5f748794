import json
import sys
from random import Random

import pytest
import torch

from d2_starter.evaluation.early_stopping import EarlyStopping, Metric
from d2_starter.evaluation.rehearse import main
from d2_starter.run.checkpoint import Checkpointer, read_best

NAN = float("nan")


def stops_at(values, metric="bbox/AP", **settings):
    """The index of the evaluation that ends the training, or None."""
    early_stopping = EarlyStopping(metric, **settings)
    for index, value in enumerate(values):
        early_stopping.update({metric: value}, index)
        if early_stopping.should_stop:
            return index
    return None


@pytest.mark.parametrize(
    "values, settings, expected",
    [
        ([1, 2, 2, 2, 9], {"patience": 2}, 3),
        ([1, 2, 2, 3, 3, 9], {"patience": 2}, None),
        ([1, 2, 2, 2, 2], {"patience": 0}, None),
        ([1, 1.4, 1.8, 2.2], {"patience": 2, "min_delta": 0.5}, None),  # small steps add up
        ([1, 1.4, 1.5, 2.2], {"patience": 2, "min_delta": 0.5}, 2),
        ([5, 1, 1, 1, 9], {"patience": 2, "warmup_evals": 1}, 3),
        ([NAN, NAN, 1], {"patience": 2}, 1),
        ([1, NAN, NAN], {"patience": 2}, 2),
        ([5, 4, 4, 4], {"patience": 2, "metric": "val_loss/loss_cls"}, 3),
    ],
)
def test_patience(values, settings, expected):
    assert stops_at(values, **settings) == expected


def test_resumed_counts_on():
    values = [3, 2, 2, 2, 4]
    whole = EarlyStopping("bbox/AP", patience=3)
    for index, value in enumerate(values[:3]):
        whole.update({"bbox/AP": value}, index)
    resumed = EarlyStopping(patience=3)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert not resumed.should_stop
    resumed.update({"bbox/AP": values[3], "segm/AP": 99}, 3)
    assert resumed.should_stop
    assert "no improvement of bbox/AP" in resumed.reason
    assert "best: 3 at iteration 0" in resumed.reason


def test_another_metric_starts_afresh():
    by_ap = EarlyStopping("bbox/AP", patience=1)
    for index in range(2):
        by_ap.update({"bbox/AP": 1}, index)
    by_loss = EarlyStopping("val_loss/total_loss", patience=1)
    by_loss.load_state_dict(by_ap.state_dict())
    assert by_ap.should_stop and not by_loss.should_stop


@pytest.mark.parametrize(
    "names, expected",
    [
        (["bbox/AP", "segm/AP", "val_loss/total_loss"], ("segm/AP", "max")),
        (["cells/bbox/AP50", "cells/bbox/AP"], ("cells/bbox/AP", "max")),
        (["val_loss/loss_cls", "val_loss/total_loss"], ("val_loss/total_loss", "min")),
    ],
)
def test_metric_that_is_not_named(names, expected):
    metric = Metric()
    metric.find(dict.fromkeys(names, 1.0))
    assert (metric.name, metric.mode) == expected


def test_results_elsewhere_stop_training_only_where_it_would_have_stopped_in_their_own_order():
    """Whatever of them is still missing, and whatever it turns out to be."""

    def stops_with(values):
        for number in range(len(values) + 1):
            early_stopping = EarlyStopping("bbox/AP", patience=3, min_delta=min_delta)
            shown = enumerate(values[:number])
            early_stopping.update_from_results(
                {i: v if v is None else {"bbox/AP": v} for i, v in shown}
            )
            if early_stopping.should_stop:
                return number - 1
        return 999

    random = Random(0)
    stopped = 0
    for _ in range(500):
        values = [random.randint(0, 20) / 10 for _ in range(12)]
        min_delta = random.choice([0.0, 0.5])
        some = [value if random.random() < 0.8 else None for value in values]
        whole = stops_at(values, patience=3, min_delta=min_delta)
        assert stops_with(values) == (999 if whole is None else whole)
        assert stops_with(some) >= stops_with(values), (values, some, min_delta)
        stopped += stops_with(some) < 999
    assert stopped > 50
    # A result that is missing may be an improvement, after which patience begins anew.
    for results, stops in (
        ({0: 10, 10: 9, 20: 9, 30: 9}, True),
        ({0: 10, 10: 9, 20: None, 30: 9, 40: 9}, False),
        ({0: None, 10: 9, 20: 8, 30: 8, 40: 8}, True),
        ({30: 9, 0: 10, 20: 9, 10: 9}, True),
    ):
        early_stopping = EarlyStopping("bbox/AP", patience=3)
        early_stopping.update_from_results({i: v and {"bbox/AP": v} for i, v in results.items()})
        assert early_stopping.should_stop == stops, results


@pytest.fixture
def rehearse(monkeypatch, capsys):
    def rehearse(*arguments) -> str:
        """What the command prints."""
        monkeypatch.setattr(sys, "argv", ["rehearse", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return rehearse


def test_rehearsal_of_a_training_that_was_evaluated_elsewhere(tmp_path, rehearse):
    for iteration, ap in ((9, 10.0), (19, 20.0), (29, 19.0), (39, 18.0)):
        result = {"iteration": iteration, "epoch": iteration / 10, "bbox/AP": ap}
        (tmp_path / f"metrics_{iteration:07d}.json").write_text(json.dumps(result))
    (tmp_path / "metrics.json").write_text('{"iteration": 9, "epoch": 0.9, "total_loss": 1.0}\n')
    printed = rehearse(tmp_path, "--patience", "2")
    assert "39 (epoch 3.9)" in printed
    assert "4 evaluations; the best bbox/AP of the training is 20.00" in printed


def test_metric_that_is_not_there_or_not_known():
    with pytest.raises(ValueError, match=r"no metric 'bbox/mAP'.* There are: bbox/AP, segm/AP."):
        EarlyStopping("bbox/mAP").check(["segm/AP", "bbox/AP"])
    with pytest.raises(ValueError, match=r"give early stopping the mode max or min"):
        Metric("speed").find({"speed": 3})


def test_best_checkpoint_never_gets_worse(tmp_path):
    def run(values):
        """Each life of a run has a checkpointer of its own."""
        checkpointer = Checkpointer(model, str(tmp_path))
        for iteration, value in enumerate(values):
            model.weight.data.fill_(value)
            checkpointer.save_best(Metric("bbox/AP"), {"bbox/AP": value}, iteration)
        return read_best(tmp_path), torch.load(tmp_path / "model_best.pth")["model"]["weight"]

    model = torch.nn.Linear(1, 1)
    for values, best in (([1, 3, 2], 3), ([2, NAN], 3), ([4], 4)):
        saved, weight = run(values)
        assert saved["value"] == weight.item() == best
    assert not (tmp_path / "last_checkpoint").exists()


def test_rehearsal(tmp_path, rehearse):
    lines = [
        {"iteration": i, "epoch": i / 10, "bbox/AP": ap, "val_loss/total_loss": loss}
        for i, ap, loss in [(9, 10, 3), (19, 20, 2), (29, 19, 1), (39, 18, 4), (49, 30, 5)]
    ]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    for metric, expected in (
        ("bbox/AP", ["2 39 (epoch 3.9) 20% 19: 20 10.00", "3 never 0% 49: 30 0.00"]),
        ("val_loss/total_loss", ["2 49 (epoch 4.9) 0% 29: 1 11.00", "3 never 0% 29: 1 11.00"]),
    ):
        printed = rehearse(tmp_path, "--patience", "2", "3", "--metric", metric)
        table = [" ".join(line.split()) for line in printed.splitlines()]
        assert table[2:4] == expected


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = torch.nn.Linear(2, 2)
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.save("good", iteration=0)
    model.weight.data[0, 1] = NAN
    with pytest.raises(FloatingPointError, match="1 weights are not finite any more, such as weig"):
        checkpointer.save("bad", iteration=1)
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["good.pth"]
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "good.pth")
