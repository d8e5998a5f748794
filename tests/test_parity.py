"""All trainers do the same, from YAML and Python configs, and as a minimal loop of detectron2."""

import json
import re

import pytest
from projects import TRAINERS

pytestmark = pytest.mark.training

REFERENCE = '''
"""A minimal loop of detectron2's public API. Of the library it has the images, in its order, the seeds
of each step, and one layer, whose gradients are rounded otherwise than detectron2's:
tests/library compares them."""
import json, sys
from d2_starter.layers.roi_align import use_fast_roi_align
from d2_starter import seed_step
from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from my_detector.experiment import load_experiment

config, number = sys.argv[1], int(sys.argv[2])
experiment = load_experiment(config)
cfg = get_cfg()
cfg.set_new_allowed(True)  # the library's own keys mean nothing here
cfg.merge_from_file(config)
seed_all_rng(cfg.SEED)
model = build_model(cfg)
use_fast_roi_align(model)
model.train()
optimizer = build_optimizer(cfg, model)
scheduler = build_lr_scheduler(cfg, optimizer)
losses = []
with EventStorage(0):
    for iteration, data in zip(range(cfg.SOLVER.MAX_ITER), experiment.build_train_loader()):
        seed_step(cfg.SEED, iteration)
        optimizer.zero_grad()
        losses.append(0)
        size = len(data) // number
        for start in range(0, len(data), size):
            loss = sum(model(data[start : start + size]).values()) / number
            loss.backward()
            losses[-1] += loss.item()
        optimizer.step()
        scheduler.step()
evaluator = COCOEvaluator("shapes_val", output_dir="output/reference")
loader = build_detection_test_loader(cfg, "shapes_val")
results = inference_on_dataset(model, loader, evaluator)
print("RESULT", json.dumps([losses, results["bbox"]["AP"], results["segm"]["AP"]]))
'''

# A Mask R-CNN whose parts are all detectron2's, in both kinds of config.
PARITY_YAML = """
_BASE_: smoke.yaml
MODEL:
  BACKBONE: {NAME: build_resnet_fpn_backbone, FREEZE_AT: 0}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, NORM: BN}
INPUT: {MIN_SIZE_TRAIN: "(96, 128)", FAST_RESIZE: False}
SOLVER:
  IMS_PER_BATCH: 4
  BASE_LR: 0.02
  MAX_EPOCHS: 10
  WARMUP_EPOCHS: 1
  STEPS_EPOCHS: (8,)
  CHECKPOINT_PERIOD_EPOCHS: 5
  CLIP_GRADIENTS: {ENABLED: True, CLIP_TYPE: norm, CLIP_VALUE: 0.5}
TEST: {EVAL_PERIOD_EPOCHS: 5, NUM_PICTURES: 0}
LOG_PERIOD: 1
"""
PARITY_PY = """
from detectron2 import model_zoo

from .smoke import dataloader, lr_multiplier, model, optimizer, train

pyramid = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py").model.backbone
pyramid.bottom_up.stem.norm = "BN"
pyramid.bottom_up.stages.update(depth=18, norm="BN")
pyramid.bottom_up.stages.pop("stride_in_1x1")
pyramid.bottom_up.freeze_at = 0
pyramid.update(out_channels=64, norm="GN")
model.backbone = pyramid
del pyramid
dataloader.train.mapper.augmentations[0].short_edge_length = [96, 128]
dataloader.train.mapper.fast_resize = False
dataloader.train.total_batch_size = 4
optimizer.lr = 0.02
lr_multiplier.warmup_length = 1 / 10
train.update(max_epochs=10, eval_period_epochs=5, num_pictures=0, log_period=1)
train.checkpointer.period_epochs = 5
train.clip_gradients.update(enabled=True, clip_type="norm", clip_value=0.5)
"""

TAGS = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]).Reload()
tags = {tag: len(events.Scalars(tag)) for tag in sorted(events.Tags()["scalars"])}
print("TAGS", json.dumps(tags))
"""
TIMES = {"data_time", "time", "eta_seconds"}


@pytest.fixture(scope="session")
def by_trainer(projects):
    """The same training by each: its metrics by iteration, its TensorBoard tags, its files."""
    results = {}
    for name in TRAINERS:
        project = projects(name)
        (project.folder / "configs/parity.yaml").write_text(PARITY_YAML)
        (project.folder / "configs/parity.py").write_text(PARITY_PY)
        project.train("--config-file", "configs/parity.yaml")
        output = project.execute(TAGS, "output/parity")
        files = {path.name for path in (project.folder / "output/parity").iterdir()}
        results[name] = {
            "metrics": project.metrics("output/parity"),
            "tags": json.loads(re.search(r"TAGS (.*)", output)[1]),
            "files": {name for name in files if "tfevents" not in name},
        }
    return results


def test_all_trainers_do_the_same(by_trainer):
    """Bit by bit: losses and all else of each iteration, metrics of each evaluation, but time."""
    expected = by_trainer["plain"]["metrics"]
    assert list(expected) == list(range(60))
    assert expected[59]["segm/AP"] > 1
    for name in TRAINERS:
        metrics = by_trainer[name]["metrics"]
        for iteration, line in expected.items():
            assert metrics[iteration].keys() == line.keys(), (name, iteration)
            values = {key: value for key, value in line.items() if key not in TIMES}
            assert {key: metrics[iteration][key] for key in values} == values, (name, iteration)
            assert all(metrics[iteration][key] > 0 for key in TIMES - {"eta_seconds"})


def test_all_trainers_write_the_same_files_and_tags(by_trainer):
    for name in TRAINERS:
        for kind in ("tags", "files"):
            assert by_trainer[name][kind] == by_trainer["plain"][kind], name
    tags = by_trainer["plain"]["tags"]
    assert tags["total_loss"] == tags["by_epoch/total_loss"] == 60
    assert tags["val_loss/total_loss"] == tags["segm/AP"] == 2


def test_same_as_a_minimal_loop_of_detectron2(by_trainer, project):
    output = project.execute(REFERENCE, "output/parity/config.yaml", 1)
    losses, *aps = json.loads(re.search(r"RESULT (.*)", output)[1])
    for name in TRAINERS:
        metrics = by_trainer[name]["metrics"]
        # The losses are added up in float32 there, and in float64 here.
        assert [m["total_loss"] for m in metrics.values()] == pytest.approx(losses, rel=1e-6), name
        # detectron2's matcher and hotcoco's: equal to 1e-12.
        found = [metrics[59][key] for key in ("bbox/AP", "segm/AP")]
        assert found == pytest.approx(aps, abs=1e-12), name


def test_gradient_accumulation_at_a_scaled_learning_rate(by_trainer, projects):
    """Two micro-batches of two images, at half the rate, which is for 8: as in a minimal loop."""
    keys = ["SOLVER.ACCUMULATE", 2, "SOLVER.REFERENCE_IMS_PER_BATCH", 8, "SOLVER.MAX_ITER", 12]
    keys += ["SOLVER.STEPS", "(9,)", "SOLVER.WARMUP_ITERS", 4, "SOLVER.CHECKPOINT_PERIOD", 12]
    keys += ["TEST.EVAL_PERIOD", 12, "OUTPUT_DIR", "output/accumulated"]
    metrics = {}
    for name in TRAINERS:
        output = projects(name).train("--config-file", "configs/parity.yaml", *keys)
        assert (
            "The learning rate is 0.01: 0.02 is for a batch of 8, scaled to one of 4" in output
        ), name
        metrics[name] = projects(name).metrics("output/accumulated")
    output = projects("plain").execute(REFERENCE, "output/accumulated/config.yaml", 2)
    losses, *aps = json.loads(re.search(r"RESULT (.*)", output)[1])
    for name in TRAINERS:
        lines = metrics[name].values()
        assert [m["total_loss"] for m in lines] == pytest.approx(losses, rel=1e-6), name
        found = [metrics[name][11][key] for key in ("bbox/AP", "segm/AP")]
        assert found == pytest.approx(aps, abs=1e-12), name
        assert [m["lr"] for m in lines][4:] == pytest.approx([0.01] * 5 + [0.001] * 3), name
        assert metrics[name][11]["samples_seen"] == 48


@pytest.mark.parametrize("trainer", TRAINERS)
def test_weights_can_be_loaded_by_another_trainer(by_trainer, projects, trainer):
    other = projects(TRAINERS[TRAINERS.index(trainer) - 1])
    weights = projects(trainer).folder / "output/parity/model_final.pth"
    parity = ["--config-file", "configs/parity.yaml", "--eval-only", "MODEL.WEIGHTS", weights]
    output = other.train(*parity)
    metrics = by_trainer[trainer]["metrics"][59]
    assert re.search(rf"segm/AP +{metrics['segm/AP']:.2f}\n", output)
    assert re.search(rf"val_loss/total_loss +{metrics['val_loss/total_loss']:.4f}\n", output)
