import logging
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import _LOG_COUNTER
from PIL import Image
from torch import nn

from d2_starter.data.loader import image_ids
from d2_starter.evaluation.validation_loss import (
    GROUND_TRUTH,
    PredictionsAndLosses,
    preserved_state,
)

SMALL = ["TEST.IMS_PER_BATCH", "3", "TEST.DETECTIONS_PER_IMAGE", "5"]
PANOPTIC = ["DATASETS.TRAIN", "('shapes_train_panoptic',)"]
PANOPTIC += ["DATASETS.TEST", "('shapes_val_panoptic',)"]
SEMANTIC = ["DATASETS.TRAIN", "('shapes_train_semantic',)"]
SEMANTIC += ["DATASETS.TEST", "('shapes_val_semantic',)"]
FPN = ["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2','p3','p4','p5']"]
RETINANET = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.IN_FEATURES"]
RETINANET += ["['p3','p4','p5']", "MODEL.RETINANET.SCORE_THRESH_TEST", "0.001"]
RETINANET += ["MODEL.MASK_ON", "False"]
CASCADE = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"]
CASCADE += ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"]
POINTREND = """
    MODEL.ROI_MASK_HEAD.NAME PointRendMaskHead MODEL.ROI_MASK_HEAD.POOLER_TYPE None
    MODEL.ROI_MASK_HEAD.FC_DIM 64 MODEL.ROI_MASK_HEAD.NUM_FC 2
    MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION 7 MODEL.ROI_MASK_HEAD.IN_FEATURES ['p2']
    MODEL.ROI_MASK_HEAD.POINT_HEAD_ON True MODEL.POINT_HEAD.IN_FEATURES ['p2']
    INPUT.MASK_FORMAT bitmask
""".split()
MODELS = {
    "Faster R-CNN": ["MODEL.MASK_ON", "False"],
    "Mask R-CNN": [],
    "Cascade": CASCADE,
    "PointRend": POINTREND,
    "Keypoint R-CNN": ["MODEL.KEYPOINT_ON", "True"],
    "Panoptic FPN": ["MODEL.META_ARCHITECTURE", "PanopticFPN", *PANOPTIC, *FPN],
    "semantic FPN": ["MODEL.META_ARCHITECTURE", "SemanticSegmentor", *SEMANTIC, *FPN],
    "RetinaNet": RETINANET,
    "FCOS": RETINANET,
    "of one's own": [],
}


class OwnModel(nn.Module):
    """A meta-architecture that the project knows nothing about."""

    def __init__(self, model):
        super().__init__()
        self.wrapped = model

    def forward(self, images):
        return self.wrapped(images)


@pytest.fixture
def build(load, tmp_path):
    """`build(name, config)` makes the experiment and its model."""

    def build(name, config):
        experiment = load(*SMALL, "OUTPUT_DIR", tmp_path, *config)
        return experiment, build_model(name, experiment)

    return build


def build_model(name, experiment):
    torch.manual_seed(0)
    model = experiment.build_model()
    if name == "FCOS":
        shapes = [model.backbone.output_shape()[f] for f in ("p3", "p4", "p5")]
        model = FCOS(
            backbone=model.backbone,
            head=FCOSHead(input_shape=shapes, num_classes=3, conv_dims=[64], norm="BN"),
            head_in_features=["p3", "p4", "p5"],
            num_classes=3,
            test_score_thresh=0.001,
            pixel_mean=[0, 0, 0],
            pixel_std=[100, 100, 100],
        )
    return OwnModel(model) if name == "of one's own" else model


def losses_in_training_mode(model, image):
    """What the model itself gives, without the project's code."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    vars(model).pop("loss_normalizer", None)
    torch.manual_seed(zlib.crc32(str(image_ids([image])[0]).encode()))
    with EventStorage(), torch.no_grad():
        losses = model([image])
    model.eval()
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("name", MODELS)
def test_losses_of_training_and_predictions_of_inference(build, name, caplog):
    experiment, model = build(name, MODELS[name])
    dataset = experiment.test_dataset(experiment.test_names[0])[:5]
    if "annotations" in dataset[1]:
        dataset[1]["annotations"] = []
    batches = list(experiment.build_test_loader(dataset))
    # The semantic data set does not say how large its images are.
    assert [len(batch) for batch in batches] == ([1] * 5 if name == "semantic FPN" else [3, 2])
    runs = []
    backbone = model.wrapped.backbone if name == "of one's own" else model.backbone
    backbone.bottom_up.register_forward_hook(lambda *_: runs.append(1))
    with preserved_state(model), torch.no_grad(), caplog.at_level(logging.INFO):
        validation_pass = PredictionsAndLosses(model)
        predictions = [output for batch in batches for output in validation_pass(batch)]
    assert len(runs) == len(batches) + (5 if name == "of one's own" else 0)
    assert caplog.text.count("runs its backbone or heads twice") == (name == "of one's own")

    model.eval()
    for batch in batches:
        inputs = [{k: v for k, v in image.items() if k not in GROUND_TRUTH} for image in batch]
        with torch.no_grad():
            for expected in model(inputs):
                output = predictions.pop(0)
                assert output.keys() == expected.keys()
                if "instances" in output:
                    fields, others = (o["instances"].get_fields() for o in (output, expected))
                    assert len(output["instances"]) > 0
                    boxes, other_boxes = (f.pop("pred_boxes").tensor for f in (fields, others))
                    assert torch.equal(boxes, other_boxes)
                    assert all(torch.equal(fields[key], others[key]) for key in others)
                if "sem_seg" in output:
                    assert torch.equal(output["sem_seg"], expected["sem_seg"])
    images = [image for batch in batches for image in batch]
    if name == "PointRend":  # which has no loss for an image without objects
        assert caplog.text.count("has no losses for an image without objects") == 1
        images = [image for image in images if len(image["instances"])]
        assert len(images) == 4
    expected = [losses_in_training_mode(model, image) for image in images]
    expected = {key: np.mean([losses[key] for losses in expected]) for key in expected[0]}
    expected["total_loss"] = sum(expected.values())
    assert validation_pass.losses() == pytest.approx(expected, rel=1e-5)


def test_that_all_runs_twice_is_said_once(build, caplog):
    """And not only in the evaluation of one image before training, which is silent."""
    experiment, model = build("of one's own", [])
    _LOG_COUNTER.clear()
    experiment.evaluate(model, quick=True)
    experiment.evaluate(model)
    experiment.evaluate(model)
    assert caplog.text.count("runs its backbone or heads twice") == 1


@pytest.mark.parametrize(
    "name, norm",
    [("RetinaNet", "MODEL.RETINANET.NORM"), ("Mask R-CNN", "MODEL.ROI_MASK_HEAD.NORM")],
)
def test_evaluation_leaves_everything_as_it_was(build, name, norm):
    experiment, model = build(name, [*MODELS[name], norm, "BN"])
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    model.train()
    model.backbone.eval()  # as someone who freezes a part of the model
    model.loss_normalizer = 50.0
    model.register_forward_pre_hook(lambda *_: print(random.random(), np.random.rand()))

    def state():
        return {
            "modes": [module.training for module in model.modules()],
            "buffers": [buffer.tolist() for buffer in model.buffers()],
            "normalizer": model.loss_normalizer,
            "random": (random.random(), np.random.rand(), torch.rand(1).item()),
            "storage": (storage.iter, dict(storage.latest())),
        }

    states = []
    for evaluated in (False, True):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(1)
        with EventStorage(7) as storage:
            storage.put_scalar("total_loss", 1.5)
            if evaluated:
                metrics = experiment.evaluate(model)
            states.append(state())
    assert "val_loss/total_loss" in metrics
    assert states[0] == states[1]


def test_batch_size_changes_nothing(build, tmp_path):
    """Of images of two sizes, which padding to a common one would change."""
    experiment, model = build("Mask R-CNN", MODELS["Mask R-CNN"])
    dataset = experiment.test_dataset("shapes_val")
    for record in dataset[::3]:
        file = tmp_path / Path(record["file_name"]).name
        Image.open(record["file_name"]).crop((0, 0, 128, 90)).save(file)
        record.update(file_name=str(file), height=90)
    outputs, losses = [], []
    for size in (1, 2, 8):
        experiment.test_batch_size = size
        validation_pass, found = PredictionsAndLosses(model), {}
        with preserved_state(model), torch.no_grad():
            for batch in experiment.build_test_loader(dataset):
                for image, output in zip(batch, validation_pass(batch), strict=True):
                    found[image["image_id"]] = output["instances"]
        assert found.keys() == {record["image_id"] for record in dataset}
        outputs.append(found)
        losses.append(validation_pass.losses())
    assert len(batch) > 1
    for i, (found, loss) in enumerate(zip(outputs, losses, strict=True)):
        assert loss == pytest.approx(losses[0], rel=1e-4), i
        for image_id, instances in found.items():
            expected = outputs[0][image_id]
            assert len(instances) == len(expected) > 0
            boxes, others = instances.pred_boxes.tensor, expected.pred_boxes.tensor
            assert torch.allclose(boxes, others, atol=0.01)
            assert torch.allclose(instances.scores, expected.scores, atol=1e-5)
