"""What cannot be trained or evaluated is said before it is tried, and in words."""

import logging
import re

import pytest
import torch
from detectron2.data import DatasetCatalog

from d2_starter.data.catalog import register
from d2_starter.evaluation.evaluate import CheckedEvaluators
from d2_starter.run.checkpoint import Checkpointer


def changed_shapes(name, change):
    """Registers shapes_val, every record changed, under another name."""
    records = DatasetCatalog.get("shapes_val")
    for record in records:
        change(record)
    classes = ["circle", "square", "triangle"]
    register(name, lambda: records, thing_classes=classes, evaluator_type="coco")


def without_masks(record):
    for annotation in record["annotations"][1:]:
        del annotation["segmentation"]


def without_annotations(record):
    record["annotations"] = []


def crowds_alone(record):
    for annotation in record["annotations"]:
        annotation["iscrowd"] = 1


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("SOLVER.ACCUMULATE", "0", "is 0. Give 1 or more micro-batches"),
        ("SOLVER.EMA_DECAY", "1.0", "is 1.0. Give 0 (no EMA), or less than 1"),
        ("SOLVER.EMA_DECAY", "-0.1", "is -0.1. Give 0 (no EMA)"),
        ("SOLVER.REFERENCE_IMS_PER_BATCH", "-8", "is -8. Give a batch size, or 0"),
        ("TEST.IMS_PER_BATCH", "0", "is 0. Give 1 or more images"),
        ("DATALOADER.NUM_WORKERS", "-1", "is -1. Give a number of processes, or 0"),
        ("DATALOADER.RANDOM_SUBSET_RATIO", "1.5", "is 1.5. Give a share, from above 0 up to 1"),
    ],
)
def test_values_out_of_range(load, key, value, words):
    with pytest.raises(ValueError, match=re.escape(f"{key} {words}")):
        load(key, value)


@pytest.mark.parametrize("change", [without_annotations, crowds_alone])
def test_no_annotated_image(load, change):
    changed_shapes("nothing", change)
    experiment = load("DATASETS.TRAIN", "('nothing',)")
    with pytest.raises(ValueError, match="there is no image to train on in nothing"):
        experiment.build_train_loader()


def test_masks_that_some_objects_have_not(load, tmp_path):
    changed_shapes("some", without_masks)
    names = ["DATASETS.TRAIN", "('some',)", "DATASETS.TEST", "('some',)"]
    experiment = load(*names)
    words = r"\d+ of 14 objects in some have no mask, which this model learns"
    with pytest.raises(ValueError, match=words):
        experiment.build_train_loader()
    with pytest.raises(ValueError, match=words):
        experiment.build_evaluator("some", str(tmp_path))
    boxes = load(*names, "MODEL.MASK_ON", False)
    boxes.set_epoch_length()
    assert boxes.images_per_epoch == 8


def test_nothing_to_compare_predictions_with(experiment, tmp_path):
    changed_shapes("nothing", without_annotations)
    with pytest.raises(ValueError, match="'nothing' cannot be evaluated: none of its 8 images"):
        experiment.build_evaluator("nothing", str(tmp_path))


def test_evaluator_that_cannot_work_with_the_model():
    evaluators = CheckedEvaluators([], "shapes_val")
    with pytest.raises(ValueError, match="model predicts sem_seg, but dataset 'shapes_val' is"):
        evaluators.process([{"image_id": 1}], [{"sem_seg": torch.zeros(3, 8, 8)}])


@pytest.fixture
def weights(load, tmp_path):
    """A checkpoint of the smoke run's model, for seven classes."""
    other = load()
    other.config.MODEL.ROI_HEADS.NUM_CLASSES = 7
    torch.manual_seed(0)
    Checkpointer(other.build_model(), str(tmp_path)).save("model_seven", iteration=3)
    return str(tmp_path / "model_seven.pth")


def test_weights_for_other_classes_cannot_be_evaluated_or_resumed(experiment, weights, tmp_path):
    words = r"are not of this model: they lack 0 of its parameters, and 6 have another shape"
    with pytest.raises(ValueError, match=words):
        Checkpointer(experiment.build_model(), complete=True).resume_or_load(weights, resume=False)
    with pytest.raises(ValueError, match=words):
        Checkpointer(experiment.build_model(), str(tmp_path)).resume_or_load("", resume=True)


def test_weights_of_a_backbone_cannot_be_evaluated(experiment, weights, tmp_path):
    saved = torch.load(weights)
    saved["model"] = {k: v for k, v in saved["model"].items() if k.startswith("backbone.")}
    torch.save(saved, tmp_path / "backbone.pth")
    words = r"they lack \d+ of its parameters \(such as [\w.]+\), and 0 have another shape"
    with pytest.raises(ValueError, match=words):
        Checkpointer(experiment.build_model(), complete=True).load(str(tmp_path / "backbone.pth"))


def test_training_starts_from_weights_for_other_classes(experiment, weights, caplog):
    model = experiment.build_model()
    with caplog.at_level(logging.INFO):
        Checkpointer(model).resume_or_load(weights, resume=False)
    assert (
        "6 parameters of the weights have another shape, as with another number of classes, and"
        in (caplog.text)
    )
    assert "Skip loading parameter" not in caplog.text
    saved = torch.load(weights)["model"]
    name = "roi_heads.box_head.fc1.weight"
    assert torch.equal(model.state_dict()[name], saved[name])
