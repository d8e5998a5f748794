"""Messages that name the right cause: divergence, anchors, rotated boxes; what evaluations omit."""

import logging

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from d2_starter.config.experiment import logger as experiment_logger
from d2_starter.data.catalog import register
from d2_starter.run.checkpoint import Checkpointer
from d2_starter.run.setup import _warn_of_removed


def test_diverged_before_the_first_evaluation(load):
    """The learning rate is named, and no image, also where the error is another one."""
    experiment = load("DATASETS.TEST", "('shapes_val',)")
    model = experiment.build_model()
    for value in (float("nan"), float("inf")):
        torch.nn.init.constant_(model.roi_heads.box_predictor.bbox_pred.weight, value)
        torch.nn.init.constant_(model.proposal_generator.rpn_head.anchor_deltas.weight, value)
        with pytest.raises(FloatingPointError, match=r"training diverged.*learning rate") as caught:
            experiment.evaluate(model, quick=True)
        assert not getattr(caught.value, "__notes__", ()) and caught.value.__suppress_context__


def saved(model, tmp_path):
    Checkpointer(model, str(tmp_path)).save("w", 0)
    return str(tmp_path / "w.pth")


def test_other_anchors_of_the_same_number(load, tmp_path, caplog):
    """An evaluation is refused; a training starts, and says so."""
    file = saved(load().build_model(), tmp_path)
    other = load("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [32], [64]]).build_model()
    with pytest.raises(ValueError, match="other anchors than those of this config"):
        Checkpointer(other, complete=True).load(file, checkpointables=[])
    logging.getLogger("d2_starter").propagate = True
    Checkpointer(other).load(file, checkpointables=[])
    assert "trained with other anchors" in caplog.text
    Checkpointer(load().build_model(), complete=True).load(file, checkpointables=[])


RETINANET = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.IN_FEATURES"]
RETINANET += ["['p3','p4','p5']", "MODEL.MASK_ON", "False"]
ANCHORS = ["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 2.0]]]


@pytest.mark.parametrize("model", [[], RETINANET])
def test_cause_of_another_shape(load, tmp_path, model):
    file = saved(load(*model).build_model(), tmp_path)
    records = DatasetCatalog.get("shapes_val")
    register("more", lambda: records, thing_classes=["a", "b", "c", "d"], evaluator_type="coco")
    more = ["DATASETS.TRAIN", "('more',)", "DATASETS.TEST", "('more',)"]
    for change, cause in ((ANCHORS, "anchors"), (more, "classes")):
        other = load(*model, *change).build_model()
        with pytest.raises(ValueError, match=rf"as with another number of {cause} ") as caught:
            Checkpointer(other, complete=True).load(file, checkpointables=[])
        assert ("classes (such" in str(caught.value)) == (cause == "classes")


# Rotated boxes.

ROTATED = ["MODEL.MASK_ON", "False", "MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"]
ROTATED += [
    "MODEL.ANCHOR_GENERATOR.ANGLES",
    [[-30, 0, 30]],
    "MODEL.PROPOSAL_GENERATOR.NAME",
    "RRPN",
]
ROTATED += ["MODEL.RPN.BBOX_REG_WEIGHTS", (1, 1, 1, 1, 1), "MODEL.ROI_HEADS.NAME", "RROIHeads"]
ROTATED += ["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated"]
ROTATED += ["MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (10, 10, 5, 5, 1)]
NAMES = ["DATASETS.TRAIN", "('rotated',)", "DATASETS.TEST", "('rotated',)"]


@pytest.fixture
def rotated():
    records = DatasetCatalog.get("shapes_val")
    for i, record in enumerate(records):
        for j, a in enumerate(record["annotations"]):
            x0, y0, x1, y1 = BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            angle = float(7 * (i + j) % 40 - 20)
            a["bbox"] = [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, angle]
            a["bbox_mode"] = BoxMode.XYWHA_ABS
            del a["segmentation"]
            a.pop("keypoints", None)
    classes = ["circle", "square", "triangle"]
    register("rotated", lambda: records, thing_classes=classes, evaluator_type="coco")
    return records


def test_rotated_boxes_are_trained_and_evaluated(load, rotated):
    experiment = load(*ROTATED, *NAMES, "TEST.RANDOM_SUBSET_RATIO", 0.5)
    model = experiment.build_model()
    batch = next(iter(experiment.build_train_loader()))
    assert batch[0]["instances"].gt_boxes.tensor.shape[1] == 5
    from detectron2.utils.events import EventStorage

    with EventStorage():
        assert sum(model(batch).values()).isfinite()
    metrics = experiment.evaluate(model)
    assert {"bbox/AP", "val_loss/total_loss"} <= metrics.keys()


def test_rotated_predictions_are_compared_as_rotated(load, rotated, tmp_path):
    """The truth itself as predictions has AP 100; without its angles, less."""
    from detectron2.structures import Instances, RotatedBoxes

    experiment = load(*ROTATED, *NAMES)
    found = []
    for turn in (0, 25):
        evaluator = experiment.build_evaluator("rotated", str(tmp_path))
        evaluator.reset()
        for record in rotated:
            instances = Instances((record["height"], record["width"]))
            boxes = [[*a["bbox"][:4], a["bbox"][4] + turn] for a in record["annotations"]]
            instances.pred_boxes = RotatedBoxes(torch.tensor(boxes))
            instances.scores = torch.ones(len(boxes))
            classes = [a["category_id"] for a in record["annotations"]]
            instances.pred_classes = torch.tensor(classes)
            evaluator.process([record], [{"instances": instances}])
        found.append(evaluator.evaluate()["bbox"]["AP"])
    assert found[0] == pytest.approx(100) and found[1] < 90


@pytest.mark.parametrize("model, data", [(ROTATED, []), (["MODEL.MASK_ON", "False"], NAMES)])
def test_rotated_and_upright_do_not_mix(load, rotated, model, data):
    experiment = load(*model, *data)
    with pytest.raises(ValueError, match=r"have (upright|rotated) boxes, but this model learns"):
        experiment.train_arguments()


# What evaluations leave out is said once.


def test_limits_are_said(load, caplog):
    records = DatasetCatalog.get("shapes_val")
    for record in records:
        record["annotations"] = [a for a in record["annotations"] if a["category_id"] != 1]
    names = ["circle", "square", "triangle"]
    register("no_square", lambda: records, thing_classes=names, evaluator_type="coco")
    changes = ["DATASETS.TRAIN", "('no_square',)", "DATASETS.TEST", "('no_square',)"]
    experiment_logger.propagate = logging.getLogger("d2_starter").propagate = True
    load(*changes, "TEST.RANDOM_SUBSET_RATIO", 0.5).warn_of_limits()
    assert "1 of 3 classes have no object in no_square" in caplog.text and "square" in caplog.text
    assert "Evaluations on no_square are of 4 images only" in caplog.text


@pytest.mark.parametrize("number, level", [(0, logging.INFO), (36, logging.WARNING)])
def test_removed_images_are_a_warning(number, level):
    """As detectron2 says it."""
    text = f"Removed {number} images with no usable annotations. 4 images left."
    record = logging.makeLogRecord({"msg": text, "levelno": logging.INFO})
    assert _warn_of_removed(record) and record.levelno == level
