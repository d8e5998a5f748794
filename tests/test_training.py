"""Rendered projects with real detectron2: installed, trained, killed, resumed, evaluated.

All share one environment, made by `uv` as for a user. Without access to detectron2's repository
they skip, or fail if REQUIRE_DETECTRON2=1.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytestmark = pytest.mark.training

# For the configs of real models: no download, small images, batch normalization that can learn.
SMALL = ["MODEL.WEIGHTS", "", "MODEL.RESNETS.NORM", "BN", "MODEL.DEVICE", "cpu"]
SMALL += ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", 64, "SOLVER.BASE_LR", 0.0001]
SMALL += ["SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "LOG_PERIOD", 1]
SMALL += ["DATALOADER.NUM_WORKERS", 0, "TEST.NUM_PICTURES", 2]
SMOKE = ["--config-file", "configs/smoke.yaml"]
IN_PROJECT = Path(__file__).parent / "in_project"


@pytest.fixture(scope="session")
def repository():
    """The line of pyproject.toml that installs detectron2 can be followed."""
    pyproject = Path(__file__).parents[1] / "{{cookiecutter.project_slug}}/pyproject.toml"
    url = re.search(r"git\+(\S+?)@", pyproject.read_text(encoding="utf-8"))[1]
    try:
        found = subprocess.run(["git", "ls-remote", url, "HEAD"], capture_output=True, timeout=60)
        reached = found.returncode == 0
    except subprocess.TimeoutExpired:
        reached = False
    if not reached:
        reason = f"{url} cannot be reached: nothing that trains was tested"
        if os.environ.get("REQUIRE_DETECTRON2") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


class Project:
    """A rendered project, its commands run by `uv` in the shared environment."""

    def __init__(self, folder: Path, environment: Path, datasets: Path | None = None):
        self.folder = folder
        self.environment = environment
        self.datasets = datasets or folder / "datasets"
        self.environ = os.environ | {"UV_PROJECT_ENVIRONMENT": str(environment)}
        self.environ.pop("VIRTUAL_ENV", None)
        if datasets:
            self.environ["DETECTRON2_DATASETS"] = str(datasets)

    def start(self, *command, **options) -> subprocess.Popen:
        command = [os.environ.get("UV", "uv"), "run", *map(str, command)]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
        )  # fmt: skip

    def run(self, *command, status=0) -> str:
        process = self.start(*command)
        output, _ = process.communicate()
        assert process.returncode == status, output[-8000:]
        return output

    def train(self, *arguments, status=0) -> str:
        return self.run("plain_train_net.py", *arguments, status=status)

    def metrics(self, run: str | Path) -> dict[int, dict]:
        """The scalars of a run by iteration; there must be one line for each."""
        text = (self.folder / run / "metrics.json").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        by_iteration = {line["iteration"]: line for line in lines}
        assert len(by_iteration) == len(lines)
        return by_iteration


@pytest.fixture(scope="session")
def make_project(repository, render, tmp_path_factory):
    environment = tmp_path_factory.mktemp("environment") / ".venv"
    datasets = tmp_path_factory.mktemp("datasets")

    def make_project(**answers) -> Project:
        project = Project(render(**answers), environment, datasets)
        first = next(iter(made.values()), None)
        if first:  # its lock file spares the others to resolve the same dependencies
            (project.folder / "uv.lock").write_bytes((first.folder / "uv.lock").read_bytes())
        made[project.folder] = project
        return project

    made = {}
    return make_project


FEWER_SHAPES = """
from detectron2.data import DatasetCatalog
from my_detector.data import shapes
shapes.SPLITS = {"train": 24, "val": 8}
shapes.register_shapes()
DatasetCatalog.get("shapes_train")
"""


@pytest.fixture(scope="session")
def project(make_project):
    """The project of the default answers, with a data set that is evaluated in a second."""
    project = make_project()
    project.run("python", "-c", FEWER_SHAPES)
    return project


@pytest.fixture(scope="session")
def smoke(project):
    """The first command of the README, word for word, and what it prints."""
    project = Project(project.folder, project.environment)
    return project, project.train(*SMOKE)


def test_smoke_run_learns_and_says_where_everything_is(smoke):
    project, output = smoke
    last = project.metrics("output/smoke")[299]
    assert last["bbox/AP50"] > 60
    assert last["segm/AP50"] > 50
    done = output[output.index("Done.") :]
    for what, file in (
        ("checkpoint", "output/smoke/model_final.pth"),
        ("metrics", "output/smoke/metrics.json"),
        ("log", "output/smoke/log.txt"),
        ("pictures", "output/smoke/predictions"),
    ):
        assert re.search(rf"{what} +{file}\n", done)
        assert (project.folder / file).exists()
    assert len(list((project.folder / "output/smoke/predictions").glob("*.jpg"))) == 8
    assert list((project.folder / "output/smoke").glob("events.out.tfevents.*"))
    assert "\r" not in output  # no progress bar where there is no terminal


def test_eval_only_gives_the_metrics_of_the_training(smoke):
    project, _ = smoke
    last = project.metrics("output/smoke")[299]
    file = ["MODEL.WEIGHTS", "output/smoke/model_final.pth"]
    for weights in (["--resume"], file, [*file, "TEST.IMS_PER_BATCH", 8]):
        output = project.train(*SMOKE, "--eval-only", *weights)
        assert re.search(rf"val_loss/total_loss +{last['val_loss/total_loss']:.4f}\n", output)
        assert re.search(rf"bbox/AP50 +{last['bbox/AP50']:.2f}\n", output)
        assert re.search(rf"segm/AP50 +{last['segm/AP50']:.2f}\n", output)


@pytest.mark.parametrize("name", [path.name for path in sorted(IN_PROJECT.glob("test_*.py"))])
def test_in_project(project, name):
    """What runs inside of a project, but is of no use to those who render one."""
    copy = project.folder / "tests" / name
    shutil.copy(IN_PROJECT / name, copy)
    try:
        assert " passed" in project.run("pytest", "-q", copy)
    finally:
        copy.unlink()


def test_projects_own_tests_and_linter_pass(project):
    assert " passed" in project.run("pytest", "-q")
    project.run("ruff", "check")
    project.run("ruff", "format", "--check")


@pytest.mark.parametrize(
    "config, metrics",
    {
        "faster_rcnn_R_50_FPN": {"bbox/AP"},
        "retinanet_R_50_FPN": {"bbox/AP"},
        "mask_rcnn_R_50_FPN": {"bbox/AP", "segm/AP"},
        "keypoint_rcnn_R_50_FPN": {"bbox/AP", "keypoints/AP"},
        "panoptic_fpn_R_50": {"bbox/AP", "segm/AP", "sem_seg/mIoU", "panoptic_seg/PQ"},
        "semantic_R_50_FPN": {"sem_seg/mIoU"},
        "pointrend_R_50_FPN": {"bbox/AP", "segm/AP"},
    }.items(),
)
def test_every_config_trains_and_evaluates(project, config, metrics):
    project.train("--config-file", f"configs/{config}.yaml", *SMALL)
    last = project.metrics(f"output/{config}")[1]
    assert metrics <= last.keys()
    assert last["total_loss"] > 0
    assert len(list((project.folder / f"output/{config}/predictions").glob("*.jpg"))) == 2


LONG = ["SOLVER.MAX_ITER", 40, "SOLVER.STEPS", "(35,)", "SOLVER.CHECKPOINT_PERIOD", 10]
LONG += ["SOLVER.WARMUP_ITERS", 5, "LOG_PERIOD", 1, "TEST.EVAL_PERIOD", 0]
LONG += ["SOLVER.IMS_PER_BATCH", 4, "TEST.NUM_PICTURES", 0]


def train_and_kill(project, after, run, *arguments) -> int:
    """Kills a training after a number of iterations, and returns how many it has logged."""
    log = project.folder / run / "metrics.json"
    process = project.start(
        "plain_train_net.py", *arguments, "OUTPUT_DIR", run, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not (log.exists() and log.read_text(encoding="utf-8").count("\n") >= after):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not log.with_name("ended.json").exists()
    return log.read_text(encoding="utf-8").count("\n")


def test_killed_run_resumes_where_it_was(project):
    project.train(*SMOKE, *LONG, "OUTPUT_DIR", "output/whole")
    killed_at = train_and_kill(project, 17, "output/killed", *SMOKE, *LONG)
    assert killed_at < 40
    with (project.folder / "output/killed/metrics.json").open("a", encoding="utf-8") as file:
        file.write('{"iteration": 3')  # as if killed in the middle of a line

    output = project.train(*SMOKE, "--resume", *LONG, "OUTPUT_DIR", "output/killed")
    start = int(re.search(r"Training from iteration (\d+) to 40", output)[1])
    assert 10 <= start <= killed_at
    whole, resumed = (project.metrics(f"output/{run}") for run in ("whole", "killed"))
    assert list(resumed) == list(whole) == list(range(40))
    assert [m["lr"] for m in resumed.values()] == [m["lr"] for m in whole.values()]
    # What it sees after the kill is what the uninterrupted run saw: alike but for the random
    # proposals, and nothing like the losses at the start.
    assert resumed[start]["total_loss"] == pytest.approx(whole[start]["total_loss"], rel=0.25)
    assert resumed[start]["total_loss"] < 0.7 * whole[0]["total_loss"]


REFERENCE = '''
"""A minimal loop of detectron2's public API: no line of the project's."""
import json, sys
from detectron2.config import get_cfg
from detectron2.data import build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

config, annotations, images = sys.argv[1:]
register_coco_instances("reference", {}, annotations, images)
cfg = get_cfg()
cfg.set_new_allowed(True)  # the project's own keys mean nothing here
cfg.merge_from_file(config)
cfg.DATASETS.TRAIN = ("reference",)
seed_all_rng(cfg.SEED)
model = build_model(cfg)
model.train()
optimizer = build_optimizer(cfg, model)
scheduler = build_lr_scheduler(cfg, optimizer)
losses = []
with EventStorage(0):
    for _, data in zip(range(cfg.SOLVER.MAX_ITER), build_detection_train_loader(cfg)):
        loss = sum(model(data).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
print("LOSSES", json.dumps(losses))
'''


def test_same_losses_as_a_minimal_loop_of_detectron2(project, tmp_path):
    # A Mask R-CNN whose parts are all detectron2's.
    overrides = """
        MODEL.BACKBONE.NAME build_resnet_fpn_backbone MODEL.RESNETS.DEPTH 18
        MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.RESNETS.NORM BN MODEL.BACKBONE.FREEZE_AT 0
        INPUT.MIN_SIZE_TRAIN (96,128,160) SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.01
        SOLVER.WARMUP_ITERS 10 SOLVER.MAX_ITER 20 SOLVER.STEPS (15,)
        LOG_PERIOD 1 TEST.EVAL_PERIOD 0 OUTPUT_DIR output/parity
    """.split()
    project.train(*SMOKE, *overrides)
    ours = [line["total_loss"] for line in project.metrics("output/parity").values()]
    script = tmp_path / "reference.py"
    script.write_text(REFERENCE, encoding="utf-8")
    shapes = project.datasets / "shapes"
    annotations, images = shapes / "annotations/instances_train.json", shapes / "images_train"
    output = project.run("python", script, "output/parity/config.yaml", annotations, images)
    theirs = json.loads(re.search(r"LOSSES (.*)", output)[1])
    assert len(ours) == len(theirs) == 20
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_two_processes_on_the_cpu(project):
    short = [*LONG, "SOLVER.MAX_ITER", 4, "SOLVER.STEPS", "()", "OUTPUT_DIR", "output/two"]
    short += ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "TEST.NUM_PICTURES", 1]
    output = project.train(*SMOKE, "--num-gpus", 2, *short)
    assert "device: cpu x 2" in output
    metrics = project.metrics("output/two")
    assert list(metrics) == [0, 1, 2, 3]
    assert "bbox/AP" in metrics[3]


def ended(project, run) -> dict:
    return json.loads((project.folder / run / "ended.json").read_text(encoding="utf-8"))


# Nothing is an improvement but the first evaluation: a patience of 3 ends the run at the fourth.
STOP = [*LONG, "TEST.EVAL_PERIOD", 5, "SOLVER.CHECKPOINT_PERIOD", 5]
STOP += ["EARLY_STOPPING.PATIENCE", 3, "EARLY_STOPPING.MIN_DELTA", 1000.0]


def test_training_stops_early_and_says_so(project):
    output = project.train(*SMOKE, *STOP, "OUTPUT_DIR", "output/stop")
    metrics = project.metrics("output/stop")
    assert list(metrics) == list(range(20))
    end = ended(project, "output/stop")
    assert end["status"] == "converged"
    assert "no improvement of segm/AP by more than 1000 in 3 evaluations" in end["reason"]
    assert end["reason"] in output
    folder = project.folder / "output/stop"
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    assert metrics[19]["epoch"] == pytest.approx(20 * 4 / 24)
    assert metrics[19]["samples_seen"] == 80

    # The best checkpoint is the best, and what is resumed is not that but the last.
    best = max((m["segm/AP"], -i) for i, m in metrics.items() if "segm/AP" in m)
    assert f"segm/AP {best[0]:.2f} at iteration {-best[1]}" in output
    output = project.train(
        *SMOKE, "--eval-only", *STOP, "OUTPUT_DIR", "output/stop",
        "MODEL.WEIGHTS", "output/stop/model_best.pth",
    )  # fmt: skip
    assert re.search(rf"segm/AP +{best[0]:.2f}\n", output)
    output = project.train(*SMOKE, "--resume", *STOP, "OUTPUT_DIR", "output/stop")
    assert "Nothing to train: 20 of 40 iterations are done" in output
    assert ended(project, "output/stop")["status"] == "converged"
    assert list(project.metrics("output/stop")) == list(range(20))
    more = ["EARLY_STOPPING.PATIENCE", 4]
    project.train(*SMOKE, "--resume", *STOP, *more, "OUTPUT_DIR", "output/stop")
    assert list(project.metrics("output/stop")) == list(range(25))


def test_killed_while_it_waits_for_an_improvement(project):
    """After two evaluations without one, of three: the resumed run stops where the other did."""
    assert train_and_kill(project, 16, "output/patience", *SMOKE, *STOP) < 20
    output = project.train(*SMOKE, "--resume", *STOP, "OUTPUT_DIR", "output/patience")
    assert "Training from iteration 15 to 40" in output
    assert list(project.metrics("output/patience")) == list(range(20))
    assert ended(project, "output/patience")["status"] == "converged"


ONLY_ON_RANK_0 = """
from detectron2.utils import comm
import plain_train_net

def evaluate(cfg, model):
    metrics = real(cfg, model)
    return metrics if comm.get_rank() == 0 else {}

real, plain_train_net.evaluate = plain_train_net.evaluate, evaluate
if __name__ == "__main__":
    plain_train_net.run(plain_train_net.main)
"""


@pytest.mark.parametrize("script", ["plain_train_net.py", "only_on_rank_0.py"])
def test_two_processes_stop_together(project, script):
    (project.folder / "only_on_rank_0.py").write_text(ONLY_ON_RANK_0, encoding="utf-8")
    run = f"output/together_{script.partition('.')[0]}"
    short = [*STOP, "TEST.EVAL_PERIOD", 2, "DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu"]
    try:
        project.run(script, *SMOKE, "--num-gpus", 2, *short, "OUTPUT_DIR", run)
    finally:
        (project.folder / "only_on_rank_0.py").unlink()
    assert list(project.metrics(run)) == list(range(8))
    assert ended(project, run)["status"] == "converged"
    logs = [(project.folder / run / name).read_text() for name in ("log.txt", "log.txt.rank1")]
    counted = r"segm/AP is \S+: no improvement .* in (\d) evaluations"
    waits = [re.findall(counted, log) for log in logs]
    assert waits[0] == waits[1] == ["1", "2", "3"]
    assert project.metrics(run)[7]["epoch"] == pytest.approx(8 * 4 / 24)


def test_metric_that_does_not_exist_is_said_before_training(project):
    wrong = ["EARLY_STOPPING.METRIC", "bbox/mAP", "OUTPUT_DIR", "output/wrong"]
    output = project.train(*SMOKE, *LONG, *wrong, status=1)
    assert re.search(r"no metric 'bbox/mAP'.* There are: bbox/AP, bbox/AP-circle, ", output)
    assert not (project.folder / "output/wrong/metrics.json").exists()
    assert ended(project, "output/wrong")["status"] == "failed"


def test_epochs_become_iterations(project):
    epochs = ["SOLVER.MAX_EPOCHS", 2, "SOLVER.STEPS_EPOCHS", "(1,1.5)"]
    epochs += ["SOLVER.WARMUP_EPOCHS", 0.5, "SOLVER.CHECKPOINT_PERIOD_EPOCHS", 0.5]
    epochs += ["TEST.EVAL_PERIOD_EPOCHS", 1, "SOLVER.GAMMA", 0.5, "SOLVER.WARMUP_FACTOR", 0.1]
    rest = ["LOG_PERIOD", 1, "TEST.NUM_PICTURES", 0, "OUTPUT_DIR", "output/epochs"]
    output = project.train(*SMOKE, *epochs, "SOLVER.IMS_PER_BATCH", 3, *rest)
    metrics = project.metrics("output/epochs")
    assert list(metrics) == list(range(16))  # 24 images, 3 a batch, twice
    assert [i for i, line in metrics.items() if "bbox/AP" in line] == [7, 15]
    assert [round(line["epoch"], 6) for line in metrics.values()] == [i / 8 for i in range(1, 17)]
    rates = [line["lr"] / 0.04 for line in metrics.values()]
    expected = [0.1, 0.325, 0.55, 0.775, *[1] * 4, *[0.5] * 4, *[0.25] * 4]
    assert rates == pytest.approx(expected)
    checkpoints = sorted(f.name for f in (project.folder / "output/epochs").glob("model_0*.pth"))
    assert checkpoints == [f"model_{i:07d}.pth" for i in (3, 7, 11, 15)]
    assert ended(project, "output/epochs") == {"status": "finished"}
    assert " epoch: 2.00 " in output
    config = "output/epochs/config.yaml"  # what was used can be used again
    project.train("--config-file", config, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", "output/reused")


def test_random_subsets(project):
    """Of the training set: another in each run, the same when it is resumed. Of the test set."""
    subsets = ["DATALOADER.RANDOM_SUBSET_RATIO", 0.5, "TEST.RANDOM_SUBSET_RATIO", 0.4]
    short = ["SOLVER.IMS_PER_BATCH", 4, "TEST.NUM_PICTURES", 0, "LOG_PERIOD", 1, "SEED", -1]
    chosen, seeds = [], []
    for run, resume in (("a", []), ("b", []), ("a", ["--resume"])):
        output = f"output/subset_{run}"
        more = ["SOLVER.MAX_EPOCHS", 1 + len(resume)]
        project.train(*SMOKE, *resume, *short, *subsets, *more, "OUTPUT_DIR", output)
        files = [f"{output}/subset_shapes_{split}.json" for split in ("train", "val")]
        chosen.append([json.loads((project.folder / file).read_text()) for file in files])
        config = (project.folder / output / "config.yaml").read_text(encoding="utf-8")
        seeds.append(re.findall(r"^SEED: \d+$|RANDOM_SUBSET_SEED: \d+$", config, re.MULTILINE))
    assert list(project.metrics("output/subset_a")) == list(range(6))  # 12 images, 4 a batch, twice
    assert [len(ids) for ids in chosen[0]] == [12, 3]
    (train_a, val_a), (train_b, val_b), (resumed, _) = chosen
    assert set(train_a) == set(resumed) != set(train_b)
    assert val_a == val_b
    assert len(seeds[0]) == 3  # all that were drawn are on record, and that of the test set
    assert seeds[0] == seeds[2] and seeds[0][1] != seeds[1][1]

    # pycocotools by itself, on these images alone.
    folder = project.folder / "output/subset_a/inference/shapes_val"
    script = SUBSET_AP.format(
        truth=project.datasets / "shapes/annotations/instances_val.json",
        found=folder / "coco_instances_results.json", ids=val_a,
    )  # fmt: skip
    expected = float(re.search(r"AP50 (\S+)", project.run("python", "-c", script))[1])
    assert project.metrics("output/subset_a")[5]["bbox/AP50"] == pytest.approx(100 * expected)


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

BY_EPOCH = """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
for run in {runs}:
    events = EventAccumulator(run).Reload()
    for tag in ("bbox/AP", "by_epoch/bbox/AP", "by_epoch/total_loss"):
        print(run, tag, [event.step for event in events.Scalars(tag)])
"""


def test_epochs_are_the_same_axis_for_any_batch_size(project):
    runs = [f"output/batch_{size}" for size in (2, 8)]
    common = ["SOLVER.MAX_EPOCHS", 3, "TEST.EVAL_PERIOD_EPOCHS", 1, "LOG_PERIOD", 3]
    common += ["SOLVER.CHECKPOINT_PERIOD_EPOCHS", 1, "TEST.NUM_PICTURES", 0]
    for size, run in zip((2, 8), runs, strict=True):
        project.train(*SMOKE, *common, "SOLVER.IMS_PER_BATCH", size, "OUTPUT_DIR", run)
    # As if the second had been interrupted in its last epoch.
    (project.folder / runs[1] / "last_checkpoint").write_text("model_0000005.pth")
    again = ["SOLVER.IMS_PER_BATCH", 8, "OUTPUT_DIR", runs[1]]
    project.train(*SMOKE, "--resume", *common, *again)
    output = project.run("python", "-c", BY_EPOCH.format(runs=runs))
    steps = dict(re.findall(r"^(\S+ \S+) (\[.*\])$", output, re.MULTILINE))
    assert steps["output/batch_2 bbox/AP"] == "[11, 23, 35]"
    assert steps["output/batch_8 bbox/AP"] == "[2, 5, 8]"
    for run in runs:
        assert steps[f"{run} by_epoch/bbox/AP"] == "[1000, 2000, 3000]"
    assert steps[f"{runs[0]} by_epoch/total_loss"] == str([250 * i for i in range(1, 13)])
    assert steps[f"{runs[1]} by_epoch/total_loss"] == "[1000, 2000, 3000]"


def test_another_run_leaves_the_earlier_one_alone(project):
    short = [*LONG, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()", "OUTPUT_DIR", "output/again"]
    project.train(*SMOKE, *short)
    earlier = (project.folder / "output/again/metrics.json").read_bytes()
    output = project.train(*SMOKE, *short)
    assert "An earlier run was in output/again: it is in output/again.1 now." in output
    assert (project.folder / "output/again.1/metrics.json").read_bytes() == earlier
    assert list(project.metrics("output/again")) == [0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config-file", "configs/smok.yaml"], "there is no config file 'configs/smok.yaml'"),
        ([], "--config-file is missing"),
        ([*SMOKE, "SOLVER.MAX_ITERS", "5"], "Did you mean SOLVER.MAX_ITER?"),
        (
            [*SMOKE, "SOLVER.MAX_EPOCHS", "2", "SOLVER.MAX_ITER", "9"],
            "SOLVER.MAX_ITER 9 and SOLVER.MAX_EPOCHS 2 contradict each other: remove one of them "
            "from the command line",
        ),
        ([*SMOKE, "--num-gpus", "3"], "SOLVER.IMS_PER_BATCH 8 cannot be split evenly over 3"),
        (
            [*SMOKE, "OUTPUT_DIR", "configs", "MODEL.WEIGHTS", "configs/base.yaml"],
            "lies in OUTPUT_DIR",
        ),
        ([*SMOKE, "--eval-only", "OUTPUT_DIR", "none"], "there is nothing to evaluate"),
        ([*SMOKE, "--eval-only", "--resume", "OUTPUT_DIR", "none"], "no checkpoint to evaluate"),
    ],
)
def test_mistakes_on_the_command_line_are_named(project, arguments, message):
    output = project.train(*arguments, status=1)
    assert message in output
    assert "Traceback" not in output
    assert not (project.folder / "none").exists()


def test_output_folder_above_the_project_is_no_reason_to_refuse(project):
    short = [*LONG, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()", "OUTPUT_DIR", ".."]
    assert "Done." in project.train(*SMOKE, *short)


def test_loss_that_is_not_finite_stops_the_run(project):
    output = project.train(*SMOKE, *LONG, "SOLVER.BASE_LR", "1e8", "OUTPUT_DIR", "nan", status=1)
    assert re.search(r"FloatingPointError: training diverged at iteration \d+: ", output)
    assert ended(project, "nan")["status"] == "failed"


def test_weights_that_are_not_there_are_named(project):
    output = project.train(*SMOKE, "MODEL.WEIGHTS", "gone.pth", "OUTPUT_DIR", "gone", status=1)
    assert "cannot load the weights 'gone.pth'" in output


SHORT = ["SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 0, "LOG_PERIOD", 1]
TINY = ["--config-file", "configs/tiny.yaml", *SHORT]


def boxes_only(project, name):
    """A config in the project: the smoke run's model, without masks, on the user's data set."""
    text = f'_BASE_: smoke.yaml\nDATASETS:\n  TRAIN: ("{name}_train",)\n  TEST: ("{name}_val",)\n'
    text += "MODEL:\n  MASK_ON: False\n"
    (project.folder / "configs/tiny.yaml").write_text(text, encoding="utf-8")


def write_voc(shapes: Path, root: Path):
    """The shapes as Pascal VOC, with one box of no height and one that leaves the image."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = {1: "circle", 2: "square", 3: "triangle"}
    for split in ("train", "val"):
        content = json.loads((shapes / f"annotations/instances_{split}.json").read_text())
        images = content["images"]
        stems = [f"{split}_{image['id']}" for image in images]
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems))
        for image, stem in zip(images, stems, strict=True):
            source = shapes / f"images_{split}" / image["file_name"]
            (root / f"JPEGImages/{stem}.jpg").write_bytes(source.read_bytes())
            xml = ET.Element("annotation")
            size = ET.SubElement(xml, "size")
            for key in ("width", "height"):
                ET.SubElement(size, key).text = str(image[key])
            objects = [
                (names[a["category_id"]], [round(v) for v in a["bbox"]])
                for a in content["annotations"]
                if a["image_id"] == image["id"]
            ]
            if stem == "train_1":
                objects += [("circle", [10, 10, 20, -1]), ("square", [100, 100, 60, 20])]
            for name, (x, y, width, height) in objects:
                element = ET.SubElement(xml, "object")
                ET.SubElement(element, "name").text = name
                box = ET.SubElement(element, "bndbox")
                corners = (x + 1, y + 1, x + width, y + height)
                for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                    ET.SubElement(box, key).text = str(value)
            ET.ElementTree(xml).write(root / f"Annotations/{stem}.xml")


def test_voc_project_trains_on_voc_files(project, make_project):
    write_voc(project.datasets / "shapes", project.datasets / "cells")
    voc = make_project(dataset_format="voc", dataset_name="cells", package_name="voc_cells")
    boxes_only(voc, "cells")
    output = voc.train(*TINY)
    assert "cells_train: 1 boxes dropped as empty" in output
    assert "cells_train: 1 boxes clipped to their image" in output
    metrics = voc.metrics("output/tiny")[2]
    assert {"bbox/AP", "bbox/AP-circle", "bbox/AP-square", "bbox/AP-triangle"} <= metrics.keys()
    assert " passed" in voc.run("pytest", "-q", "tests/test_config.py", "tests/test_dataset.py")


def test_voc_project_says_which_folder_is_missing(project, make_project):
    voc = make_project(dataset_format="voc", dataset_name="nowhere", package_name="voc_nowhere")
    boxes_only(voc, "nowhere")
    output = voc.train(*TINY, status=1)
    assert re.search(
        r"data set 'nowhere' needs \S+/nowhere/Annotations, which is not there", output
    )


def test_coco_project_trains_on_coco_files(project, make_project):
    root, shapes = project.datasets / "coins", project.datasets / "shapes"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        os.symlink(shapes / f"images_{split}", root / split)
        text = (shapes / f"annotations/instances_{split}.json").read_text()
        (root / f"annotations/{split}.json").write_text(text.replace("circle", "coin"))
    coco = make_project(dataset_format="coco", dataset_name="coins", package_name="coco_coins")
    boxes_only(coco, "coins")
    coco.train(*TINY, "MODEL.MASK_ON", True)
    assert {"bbox/AP-coin", "segm/AP-coin"} <= coco.metrics("output/tiny")[2].keys()


def test_custom_project_says_what_to_fill_in_and_then_trains(project, make_project):
    custom = make_project(dataset_format="custom", dataset_name="mine", package_name="custom_mine")
    boxes_only(custom, "mine")
    output = custom.train(*TINY, status=1)
    assert "data set 'mine': fill in load() and CLASSES in" in output

    file = custom.folder / "custom_mine/data/dataset.py"
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^CLASSES = .*", 'CLASSES = ("ring", "box", "tent")', text)
    text = re.sub(r"raise NotImplementedError.*", 'return DatasetCatalog.get("shapes_val")', text)
    text = text.replace(
        "from .catalog", "from detectron2.data import DatasetCatalog\n\nfrom .catalog", 1
    )
    file.write_text(text, encoding="utf-8")
    custom.train(*TINY)
    assert {"bbox/AP-ring", "bbox/AP-tent"} <= custom.metrics("output/tiny")[2].keys()


def test_predictions_on_photographs(smoke, tmp_path):
    project, _ = smoke
    image = next((project.datasets / "shapes/images_val").glob("*.jpg"))
    project.run("tools/predict.py", "output/smoke", image, "--output", tmp_path / "found")
    assert (tmp_path / "found" / image.name).stat().st_size > 0
    output = project.run("tools/predict.py", "output/smoke", "gone.jpg", status=2)
    assert "no such image: gone.jpg" in output
