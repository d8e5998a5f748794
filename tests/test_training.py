"""Rendered projects with real detectron2: their configs, their tests, their command line."""

import re

import pytest
from conftest import TEMPLATE
from projects import LONG, SMOKE

pytestmark = pytest.mark.training


CONFIGS = TEMPLATE / "{{cookiecutter.project_slug}}/configs"
OWN = {"base", "smoke", "tiny"}  # without a model, or with a small one that other tests train
MASKS = {"bbox/AP", "segm/AP"}
METRICS = {
    "faster_rcnn_R_50_FPN": {"bbox/AP"},
    "retinanet_R_50_FPN": {"bbox/AP"},
    "fcos_R_50_FPN": {"bbox/AP"},
    "mask_rcnn_R_50_FPN": MASKS,
    "mask_rcnn_R_50_FPN_lsj": MASKS,
    "mask_rcnn_convnext_tiny_FPN": MASKS,
    "mask_rcnn_vitdet_b": MASKS,
    "cascade_mask_rcnn_R_50_FPN": MASKS,
    "pointrend_R_50_FPN": MASKS,
    "keypoint_rcnn_R_50_FPN": {"bbox/AP", "keypoints/AP"},
    "panoptic_fpn_R_50": {*MASKS, "sem_seg/mIoU", "panoptic_seg/PQ"},
    "semantic_R_50_FPN": {"sem_seg/mIoU"},
    "deeplab_v3plus_R_103": {"sem_seg/mIoU"},
}
# The loss of the first images in the model that detectron2 builds of what a run has saved.
FIRST_LOSS = """
import sys
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from d2_starter import seed_step
from my_detector.experiment import load_experiment

file, weights, trainer = sys.argv[1:]
experiment = load_experiment(file)
seed_all_rng(experiment.seed)
if trainer == "lazyconfig":
    model = instantiate(LazyConfig.load(file).model)
else:
    cfg = get_cfg()
    cfg.set_new_allowed(True)  # the library's own keys mean nothing here
    cfg.merge_from_file(file)
    model = build_model(cfg)
if experiment.weights:
    model.load_state_dict(torch.load(experiment.weights))
torch.save(model.state_dict(), weights)
images = next(iter(experiment.build_train_loader()))
seed_step(experiment.seed, 0)
with EventStorage(0):
    print("LOSS", sum(model.train()(images).values()).item())
"""


@pytest.mark.parametrize("config", sorted({f.stem for f in CONFIGS.glob("*.*")} - OWN))
def test_every_config_trains_and_evaluates(projects, config, tmp_path):
    """The one in YAML and the one in Python alike, and as the model that detectron2 builds.

    The parts of a Python config and of the one that a run saves are not made in one order: a run of
    it starts from the weights of an earlier one, which is its own if there is no YAML.
    """
    losses, folder, weights = [], f"output/{config}", tmp_path / "first.pth"
    is_yaml = (CONFIGS / f"{config}.yaml").exists()
    for trainer in ("plain" if is_yaml else "lazyconfig", "lazyconfig"):
        project = projects(trainer)
        start = ["MODEL.WEIGHTS", weights] if weights.exists() else []
        project.train("--config-file", f"configs/{config}.yaml", *project.small(config), *start)
        lines = project.metrics(folder)
        assert METRICS[config] <= lines[1].keys()
        assert len(list((project.folder / folder / "predictions").glob("*.jpg"))) == 2
        printed = project.execute(FIRST_LOSS, f"{folder}/config.yaml", weights, trainer)
        if start or is_yaml:
            losses.append([line["total_loss"] for line in lines.values()])
            first = float(re.search(r"LOSS (.*)", printed)[1])
            assert losses[-1][0] == pytest.approx(first, rel=1e-6)
    assert losses[0] == losses[-1] and min(losses[0]) > 0


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


TILES = ["INPUT.AUGMENTATIONS", "[{'TileCrop': {'size': [96, 96]}}, 'RandomFlip']"]
TILES += ["TEST.TILES.ENABLED", True, "TEST.TILES.SIZE", "(96, 96)", "TEST.TILES.OVERLAP", 16]
TTA = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", "(96, 128)"]


@pytest.mark.parametrize("how", [TILES, TTA], ids=["tiles", "test-time augmentation"])
def test_from_training_to_an_exported_file(project, how, tmp_path):
    """With pictures and report, and with what is done with a run afterwards."""
    run = "output/" + ("tiles" if how is TILES else "tta")
    short = ["SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()", "TEST.NUM_PICTURES", 2, "OUTPUT_DIR", run]
    project.train(*SMOKE, *how, *short)
    assert len(list((project.folder / run / "predictions").glob("*.jpg"))) == 2
    assert (project.folder / run / "report.html").exists()
    project.run("tools/predict.py", run, project.folder / run / "predictions", "--output", tmp_path)
    project.run("tools/export.py", run, "--format", "torchscript", "--images", 1)


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
