"""What every trainer does: each test runs for all four."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios

import pytest
from projects import LONG, SMOKE, STOP, ended, train_and_kill

pytestmark = pytest.mark.training

STOP_FILE = "training_completed.txt"
TOGETHER = [*SMOKE, "--num-gpus", 2, *STOP, "TEST.EVAL_PERIOD", 2]
TOGETHER += ["DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"]


def stopped_together(project, run):
    assert list(project.metrics(run)) == list(range(8))
    assert ended(project, run)["status"] == "converged"
    logs = [(project.folder / run / name).read_text() for name in ("log.txt", "log.txt.rank1")]
    counted = r"segm/AP is \S+: no improvement .* in (\d) evaluations"
    waits = [re.findall(counted, log) for log in logs]
    assert waits[0] == waits[1] == ["1", "2", "3"]
    assert project.metrics(run)[7]["epoch"] == pytest.approx(8 * 4 / 24)


TIMES = {"data_time", "time", "eta_seconds"}


def timeless(metrics: dict[int, dict]) -> dict[int, dict]:
    """Without what is measured by a clock."""
    return {i: {k: v for k, v in line.items() if k not in TIMES} for i, line in metrics.items()}


SAME_WEIGHTS = """
import sys, torch
one, other = (torch.load(f"{run}/model_final.pth")["model"] for run in sys.argv[1:])
assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
print("SAME")
"""

AVERAGES = """
import sys, torch
before, after, best = (torch.load(f"output/ema/{name}.pth") for name in sys.argv[1:])
assert "trained_model" not in best
sums = [0.0, 0.0]
for name, average in after["model"].items():
    trained = after["trained_model"][name]
    if name.endswith((".weight", ".bias")):
        expected = 0.9 * before["model"][name] + 0.1 * trained
        torch.testing.assert_close(average, expected)
        for i, key in enumerate(("trained_model", "model")):
            sums[i] += (trained - before[key][name]).square().sum().item()
print("MOVED", *sums)
"""

SUBSET_AP = """
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth = COCO("{truth}")
evaluation = COCOeval(truth, truth.loadRes("{found}"), "bbox")
evaluation.params.imgIds = {ids}
evaluation.evaluate()
evaluation.accumulate()
evaluation.summarize()
print("AP50", evaluation.stats[1])
"""


ONLY_ON_RANK_0 = """
from d2_starter.config.experiment import Experiment
from detectron2.utils import comm
import plain_train_net as script

def evaluate(self, *arguments, **options):
    metrics = real(self, *arguments, **options)
    return metrics if comm.get_rank() == 0 else {}

real, Experiment.evaluate = Experiment.evaluate, evaluate
if __name__ == "__main__":
    script.launch(script.main, script.load_experiment)
"""


def test_two_processes_stop_together_if_only_one_has_metrics(project):
    (project.folder / "only_on_rank_0.py").write_text(ONLY_ON_RANK_0, encoding="utf-8")
    run = "output/together_by_rank_0"
    try:
        project.train(*TOGETHER, "OUTPUT_DIR", run, script="only_on_rank_0.py")
    finally:
        (project.folder / "only_on_rank_0.py").unlink()
    stopped_together(project, run)


HOOK = """
import torch
from detectron2.engine import HookBase

class LogWeights(HookBase):
    def __init__(self, model, period):
        self.model, self.period = model, period

    def after_step(self):
        if self.trainer.iter % self.period == 0:
            weights = [p.detach().norm() for p in self.model.parameters()]
            self.trainer.storage.put_scalar("weights", torch.stack(weights).norm().item())

"""


BUILD_HOOKS = """
    def build_hooks(self):
        *others, writer = super().build_hooks()
        return [*others, LogWeights(self.model, 20), writer]
"""


def test_hook_of_your_own(projects):
    """Before the last of the library's, which writes."""
    project = projects("train_net")
    script = (project.folder / "train_net.py").read_text(encoding="utf-8")
    script = script.replace("\nclass Trainer", f"\n{HOOK}\nclass Trainer", 1)
    script = script.replace("    mapper = Mapper\n", f"    mapper = Mapper\n{BUILD_HOOKS}", 1)
    (project.folder / "with_hook.py").write_text(script, encoding="utf-8")
    short = [*LONG, "SOLVER.MAX_ITER", 21, "SOLVER.STEPS", "()", "OUTPUT_DIR", "output/hook"]
    try:
        project.train(*SMOKE, *short, script="with_hook.py")
    finally:
        (project.folder / "with_hook.py").unlink()
    metrics = project.metrics("output/hook")
    assert [i for i, line in metrics.items() if line.get("weights", 0) > 0] == [0, 20]


CALLBACK = """
from lightning.pytorch.callbacks import Callback

class Mine(Callback):
    def on_train_batch_end(self, trainer, module, *_):
        module.log("mine", float(trainer.global_step))

    def on_validation_end(self, trainer, module):
        print("SEEN", trainer.callback_metrics["val_loss/total_loss"].item())
"""


def test_callback_of_your_own(projects):
    """What it logs is in metrics.json, and all metrics are there for it."""
    project = projects("lightning")
    script = (project.folder / "lightning_train_net.py").read_text(encoding="utf-8")
    script = script.replace("\nlogger = ", f"{CALLBACK}\nlogger = ", 1)
    script = script.replace("callbacks=[", "callbacks=[Mine(), ")
    (project.folder / "with_callback.py").write_text(script, encoding="utf-8")
    short = [*LONG, "SOLVER.MAX_ITER", 6, "SOLVER.STEPS", "()", "LOG_PERIOD", 3]
    run = ["OUTPUT_DIR", "output/callback"]
    try:
        output = project.train(*SMOKE, *short, *run, script="with_callback.py")
    finally:
        (project.folder / "with_callback.py").unlink()
    metrics = project.metrics("output/callback")
    assert list(metrics) == [2, 5]
    assert [line["mine"] for line in metrics.values()] == [2, 5]  # medians of 1 to 3, and 4 to 6
    seen = float(re.search(r"SEEN (\S+)", output)[1])
    assert seen == pytest.approx(metrics[5]["val_loss/total_loss"])


class EachTrainer:
    @pytest.fixture
    def each(self, projects):
        return projects(self.trainer)

    def test_its_own_tests_pass(self, each):
        assert " passed" in each.run("pytest", "-q")

    @pytest.fixture
    def whole(self, each):
        """The metrics of an uninterrupted training without workers, in output/whole."""
        if not (each.folder / "output/whole").exists():
            each.train(*SMOKE, *LONG, "OUTPUT_DIR", "output/whole")
        return timeless(each.metrics("output/whole"))

    def test_killed_and_resumed_run_equals_a_whole_one(self, each, whole):
        """Bit by bit, in weights and records, with any number of workers: 4, then 1; whole 0."""
        run = "output/killed"
        killed_at = train_and_kill(each, 17, run, *SMOKE, *LONG, "DATALOADER.NUM_WORKERS", 4)
        assert killed_at < 40
        with (each.folder / run / "metrics.json").open("a", encoding="utf-8") as file:
            file.write('{"iteration": 3')  # as if killed in the middle of a line

        workers = ["DATALOADER.NUM_WORKERS", 1]
        output = each.train(*SMOKE, "--resume", *LONG, *workers, "OUTPUT_DIR", run)
        start = int(re.search(r"Training from iteration (\d+) to 40", output)[1])
        assert 10 <= start <= killed_at
        resumed = timeless(each.metrics(run))
        assert list(resumed) == list(whole) == list(range(40))
        assert resumed == whole
        assert "SAME" in each.execute(SAME_WEIGHTS, "output/whole", run)

    def test_new_run_from_weights_of_ones_own_starts_at_iteration_0(self, each, whole):
        short = [*LONG, "SOLVER.MAX_ITER", 6, "SOLVER.STEPS", "()"]
        weights = ["MODEL.WEIGHTS", "output/whole/model_final.pth", "OUTPUT_DIR", "output/own"]
        output = each.train(*SMOKE, *short, *weights)
        assert "Training from iteration 0 to 6" in output
        metrics = each.metrics("output/own")
        rates = [whole[i]["lr"] for i in range(6)]
        assert [line["lr"] for line in metrics.values()] == pytest.approx(rates)
        assert metrics[0]["total_loss"] < 0.7 * whole[0]["total_loss"]

    def test_training_stops_early_and_says_so(self, each):
        output = each.train(*SMOKE, *STOP, "OUTPUT_DIR", "output/stop")
        metrics = each.metrics("output/stop")
        assert list(metrics) == list(range(20))
        end = ended(each, "output/stop")
        assert end["status"] == "converged"
        assert "no improvement of segm/AP by more than 1000 in 3 evaluations" in end["reason"]
        assert end["reason"] in output
        folder = each.folder / "output/stop"
        assert (folder / "last_checkpoint").read_text() == "model_final.pth"
        assert metrics[19]["epoch"] == pytest.approx(20 * 4 / 24)
        assert metrics[19]["samples_seen"] == 80

        # The best checkpoint is the best, and what is resumed is not that but the last.
        best = max((m["segm/AP"], -i) for i, m in metrics.items() if "segm/AP" in m)
        assert f"segm/AP {best[0]:.2f} at iteration {-best[1]}" in output
        output = each.train(
            *SMOKE, "--eval-only", *STOP, "OUTPUT_DIR", "output/stop",
            "MODEL.WEIGHTS", "output/stop/model_best.pth",
        )  # fmt: skip
        assert re.search(rf"segm/AP +{best[0]:.2f}\n", output)
        output = each.train(*SMOKE, "--resume", *STOP, "OUTPUT_DIR", "output/stop")
        assert "Nothing to train: 20 of 40 iterations are done" in output
        assert ended(each, "output/stop")["status"] == "converged"
        assert list(each.metrics("output/stop")) == list(range(20))
        more = ["EARLY_STOPPING.PATIENCE", 4]
        each.train(*SMOKE, "--resume", *STOP, *more, "OUTPUT_DIR", "output/stop")
        assert list(each.metrics("output/stop")) == list(range(25))

    def test_killed_while_it_waits_for_an_improvement(self, each):
        """After two evaluations without one, of three: it stops where the other run did."""
        assert train_and_kill(each, 16, "output/patience", *SMOKE, *STOP) < 20
        output = each.train(*SMOKE, "--resume", *STOP, "OUTPUT_DIR", "output/patience")
        assert "Training from iteration 15 to 40" in output
        assert list(each.metrics("output/patience")) == list(range(20))
        assert ended(each, "output/patience")["status"] == "converged"

    def test_two_processes_stop_together(self, each):
        output = each.train(*TOGETHER, "OUTPUT_DIR", "output/together")
        assert "device: cpu x 2" in output
        stopped_together(each, "output/together")

    @pytest.mark.parametrize("processes", [1, 2])
    def test_stop_file(self, each, processes):
        run = f"output/stop_file_{processes}"
        log, file = (each.folder / run / name for name in ("metrics.json", STOP_FILE))
        arguments = [*SMOKE, "--num-gpus", processes, *LONG, "OUTPUT_DIR", run]
        arguments += ["SOLVER.MAX_ITER", 9999, "SOLVER.CHECKPOINT_PERIOD", 9999]
        process = each.start(*arguments)
        process.wait_for(lambda: log.exists() and log.read_text().count("\n") >= 4)
        file.write_text("it is good enough\n", encoding="utf-8")
        assert process.wait() == 0, process.output()
        metrics = each.metrics(run)
        assert len(metrics) < 200
        assert metrics[len(metrics) - 1]["bbox/AP"] >= 0
        reason = f"{STOP_FILE}: it is good enough"
        assert ended(each, run) == {"status": "stopped", "reason": reason}
        assert f"The training was stopped: {reason}" in process.output()
        assert (each.folder / run / "last_checkpoint").read_text() == "model_final.pth"
        if processes == 1:  # while the file is there
            output = each.train("--resume", *arguments)
            assert (
                f"Nothing to train: {len(metrics)} of 9999 iterations are done. {reason}" in output
            )

    def test_interrupted_by_the_user(self, each):
        log = each.folder / "output/interrupted/metrics.json"
        process = each.start(*SMOKE, *LONG, "OUTPUT_DIR", "output/interrupted")
        process.wait_for(lambda: log.exists() and log.read_text().count("\n") >= 2)
        os.kill(process.id, signal.SIGINT)
        assert process.wait() != 0
        end = {"status": "stopped", "reason": "KeyboardInterrupt()"}
        assert ended(each, "output/interrupted") == end

    @pytest.mark.parametrize("processes", [1, 2])
    def test_interrupted_by_the_cluster(self, each, processes):
        """Which tells all processes, the workers of loaders too; or only the one it has started."""
        run = f"output/signal_{processes}"
        log = each.folder / run / "metrics.json"
        arguments = [*SMOKE, "--num-gpus", processes, *LONG, "SOLVER.MAX_ITER", 9999]
        arguments += ["DATALOADER.NUM_WORKERS", 1, "SOLVER.CHECKPOINT_PERIOD", 9999]
        process = each.start(*arguments, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", run)
        process.wait_for(lambda: log.exists() and log.read_text().count("\n") >= 4)
        kill, name = (os.killpg, "SIGTERM") if processes == 1 else (os.kill, "SIGUSR1")
        kill(process.id, getattr(signal, name))
        assert process.wait() == 128 + getattr(signal, name), process.output()
        assert ended(each, run) == {"status": "interrupted", "reason": f"{name}; --resume goes on"}
        done = len(each.metrics(run))
        assert "bbox/AP" not in each.metrics(run)[done - 1]
        assert (each.folder / run / "last_checkpoint").read_text() == "model_interrupted.pth"
        more = ["SOLVER.MAX_ITER", done + 2, "SOLVER.STEPS", "()", "OUTPUT_DIR", run]
        output = each.train(*SMOKE, "--resume", *LONG, *more)
        assert f"Training from iteration {done} to {done + 2}" in output
        assert list(each.metrics(run)) == list(range(done + 2))
        assert ended(each, run) == {"status": "finished"}
        published = (each.folder / run / "evaluation").glob("model_*.json")
        assert done - 1 not in {int(path.stem[6:]) for path in published}

    def test_torchrun_and_asynchronous_evaluation(self, each):
        """The same losses as with detectron2's launcher, and the same metrics as in the loop."""
        short = [*LONG, "SOLVER.MAX_ITER", 6, "SOLVER.STEPS", "(5,)", "TEST.EVAL_PERIOD", 3]
        short += ["MODEL.DEVICE", "cpu"]
        each.train(*SMOKE, "--num-gpus", 2, *short, "OUTPUT_DIR", "output/launch")
        beside = [*short, "TEST.EVAL_IN_LOOP", False, "OUTPUT_DIR", "output/torchrun"]
        each.run("torchrun", "--nproc-per-node", 2, *each.command(*SMOKE, *beside))
        expected, logged = each.metrics("output/launch"), each.metrics("output/torchrun")
        assert [line["total_loss"] for line in logged.values()] == [
            line["total_loss"] for line in expected.values()
        ]
        evaluator = each.server.start(each, ["tools/evaluate_checkpoints.py", "output/torchrun"])
        assert evaluator.wait() == 0, evaluator.output()
        for iteration in (2, 5):
            file = each.folder / f"output/torchrun/metrics_{iteration:07d}.json"
            result = json.loads(file.read_text())
            line = expected[iteration]
            # Two processes share out the images: sums in another order.
            assert result == pytest.approx({name: line[name] for name in result}, rel=1e-6)
            assert result["bbox/AP"] == line["bbox/AP"] and "val_loss/total_loss" in result

    def test_progress_bar(self, each):
        """In a terminal, and only there, with the log above it."""
        terminal, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        more = ["SOLVER.MAX_ITER", 6, "SOLVER.STEPS", "()", "OUTPUT_DIR", "output/bar"]
        command = ["uv", "run", *each.command(*SMOKE, *LONG, *more)]
        process = subprocess.Popen(
            command, cwd=each.folder, env=each.environ, stdout=end, stderr=end
        )
        os.close(end)
        output = b""
        with contextlib.suppress(OSError):  # when the other end is closed
            while chunk := os.read(terminal, 65536):
                output += chunk
        os.close(terminal)
        output = output.decode()
        assert process.wait() == 0, output
        bars = [line for line in re.split(r"[\r\n]", output) if re.search(r"%\|.* 6/6 ", line)]
        loss = "total_loss" if each.trainer == "lightning" else "epoch=1, loss"
        assert re.search(rf"{loss}=[\d.]+, bbox/AP=[\d.]+, segm/AP=[\d.]+", bars[-1])
        assert not re.search(r"d2.utils.events\S*:  epoch", output)  # which the bar replaces
        for line in re.split(r"[\r\n]+", output):
            assert line.count("]:") <= 1 or "it/s" not in line  # log and bar are not on one line

    def test_metric_that_does_not_exist_is_said_before_training(self, each):
        wrong = ["EARLY_STOPPING.METRIC", "bbox/mAP", "OUTPUT_DIR", "output/wrong"]
        output = each.train(*SMOKE, *LONG, *wrong, status=1)
        assert re.search(r"no metric 'bbox/mAP'.* There are: bbox/AP, bbox/AP-circle, ", output)
        assert not (each.folder / "output/wrong/metrics.json").exists()
        assert ended(each, "output/wrong")["status"] == "failed"

    def test_epochs_become_iterations(self, each):
        epochs = ["SOLVER.MAX_EPOCHS", 2, "SOLVER.STEPS_EPOCHS", "(1,1.5)"]
        epochs += ["SOLVER.WARMUP_EPOCHS", 0.5, "SOLVER.CHECKPOINT_PERIOD_EPOCHS", 0.5]
        epochs += ["TEST.EVAL_PERIOD_EPOCHS", 1, "SOLVER.GAMMA", 0.5, "SOLVER.WARMUP_FACTOR", 0.1]
        rest = ["LOG_PERIOD", 1, "TEST.NUM_PICTURES", 0, "OUTPUT_DIR", "output/epochs"]
        output = each.train(*SMOKE, *epochs, "SOLVER.IMS_PER_BATCH", 3, *rest)
        metrics = each.metrics("output/epochs")
        assert list(metrics) == list(range(16))  # 24 images, 3 a batch, twice
        assert [i for i, line in metrics.items() if "bbox/AP" in line] == [7, 15]
        assert [round(line["epoch"], 6) for line in metrics.values()] == [
            i / 8 for i in range(1, 17)
        ]
        rates = [line["lr"] / 0.04 for line in metrics.values()]
        expected = [0.1, 0.325, 0.55, 0.775, *[1] * 4, *[0.5] * 4, *[0.25] * 4]
        assert rates == pytest.approx(expected)
        checkpoints = sorted(f.name for f in (each.folder / "output/epochs").glob("model_0*.pth"))
        assert checkpoints == [f"model_{i:07d}.pth" for i in (3, 7, 11, 15)]
        assert ended(each, "output/epochs") == {"status": "finished"}
        assert " epoch: 2.00 " in output
        config = "output/epochs/config.yaml"  # what was used can be used again
        more = each.command("SOLVER.MAX_ITER", 1, "OUTPUT_DIR", "output/reused")[1:]
        each.run(each.script, "--config-file", config, *more)

    def test_ema(self, each):
        """It is evaluated and saved; a resumed run goes on from it and from the weights."""
        run = [*SMOKE, *LONG, "SOLVER.EMA_DECAY", 0.9, "SOLVER.CHECKPOINT_PERIOD", 1]
        run += ["TEST.EVAL_PERIOD", 12, "OUTPUT_DIR", "output/ema", "SOLVER.STEPS", "()"]
        each.train(*run, "SOLVER.MAX_ITER", 12)
        metrics = each.metrics("output/ema")[11]
        each.execute(AVERAGES, "model_0000010", "model_0000011", "model_best")
        for resume in (["--eval-only", "--resume"], ["--resume"]):
            output = each.train(*resume, *run, "SOLVER.MAX_ITER", 12)
            assert re.search(rf"segm/AP +{metrics['segm/AP']:.2f}\n", output)
            assert re.search(
                rf"val_loss/total_loss +{metrics['val_loss/total_loss']:.4f}\n", output
            )
        each.train("--resume", *run, "SOLVER.MAX_ITER", 13)
        output = each.execute(AVERAGES, "model_0000011", "model_0000012", "model_best")
        from_trained, from_average = map(float, re.search(r"MOVED (\S+) (\S+)", output).groups())
        assert from_trained < 0.5 * from_average

    def test_random_subsets(self, each):
        """Of the training set: another in each run, but not when it is resumed. Of the test set."""
        subsets = ["DATALOADER.RANDOM_SUBSET_RATIO", 0.5, "TEST.RANDOM_SUBSET_RATIO", 0.4]
        short = ["SOLVER.IMS_PER_BATCH", 4, "TEST.NUM_PICTURES", 0, "LOG_PERIOD", 1, "SEED", -1]
        short += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]  # something is found
        chosen, seeds = [], []
        for run, resume in (("a", []), ("b", []), ("a", ["--resume"])):
            output = f"output/subset_{run}"
            more = ["SOLVER.MAX_EPOCHS", 1 + len(resume)]
            each.train(*SMOKE, *resume, *short, *subsets, *more, "OUTPUT_DIR", output)
            files = [f"{output}/subset_shapes_{split}.json" for split in ("train", "val")]
            chosen.append([json.loads((each.folder / file).read_text()) for file in files])
            config = (each.folder / output / "config.yaml").read_text(encoding="utf-8")
            seeds.append(re.findall(r"\b(?:random_subset_)?seed: \d+", config, re.IGNORECASE))
        assert list(each.metrics("output/subset_a")) == list(
            range(6)
        )  # 12 images, 4 a batch, twice
        assert [len(ids) for ids in chosen[0]] == [12, 3]
        (train_a, val_a), (train_b, val_b), (resumed, _) = chosen
        assert set(train_a) == set(resumed) != set(train_b)
        assert val_a == val_b
        assert len(seeds[0]) == 3  # all that were drawn are on record, and that of the test set
        assert seeds[0] == seeds[2] != seeds[1]

        # pycocotools by itself, on these images alone.
        folder = each.folder / "output/subset_a/inference/shapes_val"
        script = SUBSET_AP.format(
            truth=each.datasets / "shapes/annotations/instances_val.json",
            found=folder / "coco_instances_results.json", ids=val_a,
        )  # fmt: skip
        expected = float(re.search(r"AP50 (\S+)", each.execute(script))[1])
        assert each.metrics("output/subset_a")[5]["bbox/AP50"] == pytest.approx(100 * expected)

    def test_loss_that_is_not_finite_ends_the_run(self, each):
        output = each.train(
            *SMOKE, *LONG, "SOLVER.BASE_LR", "1e8", "OUTPUT_DIR", "output/nan", status=1
        )
        assert re.search(r"FloatingPointError: training diverged at iteration \d+: ", output)
        assert ended(each, "output/nan")["status"] == "failed"

    def test_diverged_run_keeps_its_last_good_checkpoint(self, each):
        """The weights are broken by iteration 25, whose own loss is fine."""
        run = [*SMOKE, *LONG, "SOLVER.STEPS", "(25,)", "OUTPUT_DIR", "output/diverged"]
        output = each.train(*run, "SOLVER.GAMMA", "1e30", status=1)
        assert re.search(r"training diverged at iteration 26: .*(\bnan\b|Inf/NaN)", output)
        assert "training diverged at iteration 26" in ended(each, "output/diverged")["reason"]
        folder = each.folder / "output/diverged"
        assert (folder / "last_checkpoint").read_text() == "model_0000019.pth"
        checkpoints = {"model_0000009.pth", "model_0000019.pth"}
        assert {file.name for file in folder.glob("*.pth")} == checkpoints
        output = each.train("--resume", *run)
        assert "Training from iteration 20 to 40" in output
        assert list(each.metrics("output/diverged")) == list(range(40))
        assert ended(each, "output/diverged") == {"status": "finished"}


class TestPlain(EachTrainer):
    trainer = "plain"


class TestTrainNet(EachTrainer):
    trainer = "train_net"


class TestLazyConfig(EachTrainer):
    trainer = "lazyconfig"


class TestLightning(EachTrainer):
    trainer = "lightning"
