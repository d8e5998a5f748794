"""Rendered projects with real detectron2: their configs, their tests, their command line."""

import re

import pytest
from projects import LONG, SMALL, SMOKE

pytestmark = pytest.mark.training


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
def test_every_config_trains_and_evaluates(projects, config, metrics):
    """The one in YAML and the one in Python alike."""
    losses = []
    few = ["TEST.DETECTIONS_PER_IMAGE", 5] if {"segm/AP", "keypoints/AP"} & metrics else []
    for project in (projects("plain"), projects("lazyconfig")):
        project.train("--config-file", f"configs/{config}.yaml", *SMALL, *few)
        lines = project.metrics(f"output/{config}")
        assert metrics <= lines[1].keys()
        assert len(list((project.folder / f"output/{config}/predictions").glob("*.jpg"))) == 2
        losses.append([line["total_loss"] for line in lines.values()])
    assert losses[0] == losses[1] and min(losses[0]) > 0


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
    output = project.execute(BY_EPOCH.format(runs=runs))
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
    assert "An earlier run was in output/again: it is in output/again.1 now" in output
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
            "SOLVER.MAX_ITER 9 and SOLVER.MAX_EPOCHS 2 contradict each other in the command line",
        ),
        ([*SMOKE, "--num-gpus", "3"], "SOLVER.IMS_PER_BATCH is 8. That cannot be split"),
        (
            [*SMOKE, "OUTPUT_DIR", "configs", "MODEL.WEIGHTS", "configs/base.yaml"],
            "lies in configs, which a new run moves aside",
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


def test_run_directory_above_the_project_is_no_reason_to_refuse(project):
    short = [*LONG, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()", "OUTPUT_DIR", ".."]
    assert "Done." in project.train(*SMOKE, *short)


def test_weights_that_are_not_there_are_named(project):
    output = project.train(*SMOKE, "MODEL.WEIGHTS", "gone.pth", "OUTPUT_DIR", "gone", status=1)
    assert "cannot load the weights 'gone.pth'" in output
    assert "Traceback" not in output
