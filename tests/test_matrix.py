"""Runs what a user chooses and types: each trainer with each kind of data and of weights.

A cell renders a project, and runs the commands that it prints. By default each kind of data has one
cell, with the trainers by turns. MATRIX=cells runs all 36. MATRIX=all also runs in each cell every
config that fits the data, and the project's own tests: hours. Otherwise tests/test_training.py
trains each config, in YAML and in Python, and tests/test_trainers.py runs the tests of a project of
each trainer.
"""

import json
import os
import re
import shlex

import pytest
from projects import RESIZED, SHORT, TRAINERS
from shape_formats import WRITERS, read_shapes

pytestmark = pytest.mark.training

KINDS = ["shapes", "custom", "boxes", "masks", "keypoints", "voc", "yolo", "semantic", "panoptic"]
CELLS = [(trainer, kind) for kind in KINDS for trainer in TRAINERS]
CHOSEN = [(TRAINERS[i % len(TRAINERS)], kind) for i, kind in enumerate(KINDS)]
NEEDS = {
    "faster_rcnn_R_50_FPN": "boxes",
    "retinanet_R_50_FPN": "boxes",
    "mask_rcnn_R_50_FPN": "masks",
    "pointrend_R_50_FPN": "masks",
    "cascade_mask_rcnn_R_50_FPN": "masks",
    "mask_rcnn_R_50_FPN_lsj": "masks",
    "mask_rcnn_convnext_tiny_FPN": "masks",
    "keypoint_rcnn_R_50_FPN": "keypoints",
    "panoptic_fpn_R_50": "panoptic",
    "semantic_R_50_FPN": "semantic",
    "deeplab_v3plus_R_103": "semantic",
}
HAS = {
    "shapes": {"boxes", "masks", "keypoints", "panoptic", "semantic"},
    "masks": {"boxes", "masks"},
    "keypoints": {"boxes", "masks", "keypoints"},
    "semantic": {"semantic"},
    "panoptic": {"boxes", "masks", "panoptic", "semantic"},
}
METRICS = {"boxes": "bbox/AP", "masks": "segm/AP", "keypoints": "keypoints/AP"}
METRICS |= {"panoptic": "panoptic_seg/PQ", "semantic": "sem_seg/mIoU"}


def write(kind, shapes, folder):
    """Writes the generated shapes as data of a kind; returns the answer at the prompt."""
    if kind in ("shapes", "custom"):
        return kind
    name = {"boxes": "coco", "masks": "coco", "keypoints": "coco", "panoptic": "coco_panoptic"}
    WRITERS[name.get(kind, kind)](shapes, folder)
    left_out = {"boxes": ["segmentation", "keypoints"], "masks": ["keypoints"]}.get(kind, ())
    for file in folder.glob("annotations/*.json") if left_out else ():
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            for key in (*left_out, "num_keypoints"):
                annotation.pop(key, None)
        file.write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize("trainer, kind", CELLS if "MATRIX" in os.environ else CHOSEN, ids=str)
def test_cell(trainer, kind, project, make_project, tmp_path, capfd):
    shapes = project.datasets / "shapes"
    assert read_shapes(shapes, "train")["images"]
    data = write(kind, shapes, tmp_path / "cells")
    capfd.readouterr()
    cell = make_project(trainer=trainer, data=data)
    printed = re.findall(r"^  uv run (.*?)(?:  #.*)?$", capfd.readouterr().out, re.MULTILINE)
    assert printed
    for command in map(shlex.split, printed):
        if command[0] == cell.script:
            config = re.split(r"[/.]", command[-1])[-2]
            is_own = config in ("tiny", "smoke")  # they have no ResNet
            small = [*SHORT, *RESIZED] if is_own else cell.small(config)
            cell.train(*[a.replace(".py", ".yaml") for a in command[1:]], *small)
        else:
            cell.run(*command)
    if os.environ.get("MATRIX") != "all":
        return
    for config, needed in NEEDS.items():
        if needed in HAS.get(kind, {"boxes"}):
            run = f"output/each/{config}"
            cell.train(
                "--config-file", f"configs/{config}.yaml", *cell.small(config), "OUTPUT_DIR", run
            )
            assert METRICS[needed] in cell.metrics(run)[1]
    assert " passed" in cell.run("pytest", "-q", "-x")


WEIGHTS = """
import pickle, re, sys
import numpy as np, torch
from detectron2 import model_zoo
from detectron2.modeling import build_model

cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
cfg.MODEL.DEVICE = "cpu"
torch.manual_seed(5)
model = {k: v.numpy() for k, v in build_model(cfg).state_dict().items()}
body = "backbone.bottom_up."
backbone = {k.removeprefix(body): v for k, v in model.items() if k.startswith(body)}
caffe2 = {}
for name, value in backbone.items():
    if "running" in name:
        continue
    name = name.replace("stem.conv1.norm.", "res_conv1_bn_").replace("stem.conv1.weight", "conv1_w")
    for ours, theirs in (
        ("conv1.", "branch2a."), ("conv2.", "branch2b."), ("conv3.", "branch2c."),
        ("shortcut.", "branch1."), ("norm.weight", "bn_s"), ("norm.bias", "bn_b"),
        ("bn_weight", "bn_s"), ("bn_bias", "bn_b"), (".weight", ".w"),
    ):
        name = name.replace(ours, theirs)
    caffe2[name.replace(".", "_")] = value
files = {
    "zoo": {"model": model, "__author__": "Detectron2 Model Zoo"},
    "torchvision": {"model": backbone, "__author__": "torchvision", "matching_heuristics": True},
    "caffe2": {"blobs": caffe2},
}
for name, content in files.items():
    with open(f"{sys.argv[1]}/{name}.pkl", "wb") as file:
        pickle.dump(content, file, protocol=2)
"""
# The tensors of a checkpoint that are in a file of weights, to the bit.
FILLED = """
import pickle, sys
import torch
values = pickle.load(open(sys.argv[1], "rb"))
values = values.get("model") or values["blobs"]
given = {value.tobytes() for value in values.values()}
for file in sys.argv[2:]:
    model = torch.load(file)["model"]
    print("filled", sum(tensor.numpy().tobytes() in given for tensor in model.values()))
"""


@pytest.fixture(scope="module")
def weights(project, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    project.run("python", "-c", WEIGHTS, folder)
    return folder


@pytest.mark.parametrize("kind", ["zoo", "torchvision", "caffe2"])
def test_training_starts_from_weights_of_other_classes(kind, weights, projects):
    file = weights / f"{kind}.pkl"
    filled = []
    for trainer in TRAINERS:
        project, run = projects(trainer), f"output/{kind}"
        arguments = [*project.small("faster_rcnn_R_50_FPN"), "MODEL.WEIGHTS", file]
        arguments += ["SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 0.0]
        arguments += ["MODEL.RESNETS.NORM", "FrozenBN", "TEST.EVAL_IN_LOOP", False]
        log = project.train(
            "--config-file", "configs/faster_rcnn_R_50_FPN.yaml", *arguments, "OUTPUT_DIR", run
        )
        assert kind != "zoo" or "another number of classes, and start from scratch" in log
        final = project.folder / run / "model_final.pth"
        filled += re.findall(r"filled (\d+)", project.run("python", "-c", FILLED, file, final))
    assert len(set(filled)) == 1
    expected = {"zoo": 290, "torchvision": 270, "caffe2": 270}  # at least, of 295
    assert int(filled[0]) >= expected[kind]
