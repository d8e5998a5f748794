"""YAML configs: mistakes are named; lengths in epochs or in iterations; what follows from data."""

import pytest
import torch
from conftest import load_yaml


def test_classes_follow_from_the_dataset(experiment):
    assert experiment.config.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert experiment.build_model().roi_heads.num_classes == 3


def test_other_number_of_classes_is_refused(load):
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 7 .* but 'shapes_train' has 3"):
        load("MODEL.ROI_HEADS.NUM_CLASSES", 7)


def test_test_set_with_other_classes_is_refused(load):
    with pytest.raises(ValueError, match="stuff_classes of 'shapes_train' and 'shapes_val_pan"):
        load("DATASETS.TEST", "('shapes_val_panoptic',)")


def test_unknown_dataset_is_refused_with_the_nearest_name(load):
    with pytest.raises(KeyError, match=r"'shapes_trian' is not registered.*shapes_train"):
        load("DATASETS.TRAIN", "('shapes_trian',)")


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["SOLVER.MAX_ITERS", "5"], "Did you mean SOLVER.MAX_ITER?"),
        (["SOLVER.MAX_ITER"], "'SOLVER.MAX_ITER' has no value"),
        (["SOLVER.MAX_EPOCHS", "ten"], "SOLVER.MAX_EPOCHS is 'ten'. Give positive numbers"),
        (["TEST.RANDOM_SUBSET_RATIO", "2.0"], "TEST.RANDOM_SUBSET_RATIO is 2.0. Give a share"),
        (["EARLY_STOPPING.PATIENCE", "3", "TEST.EVAL_PERIOD", "0"], "needs evaluations"),
        (["EARLY_STOPPING.MODE", "best"], "EARLY_STOPPING.MODE is 'best'. Give max or min"),
        (["SOLVER.MAX_ITER", "5", "--resume"], "--resume came after the config overrides"),
        (["SOLVER.MAX_ITER", "5", "SOLVER.MAX_EPOCHS", "5"], "contradict each other in the comm"),
        (["DATALOADER.RANDOM_SUBSET_RATIO", "0.5", "DATALOADER.SAMPLER_TRAIN",
          "RepeatFactorTrainingSampler"], "takes no subset"),
    ],
)  # fmt: skip
def test_mistakes_in_overrides_are_named(overrides, message):
    with pytest.raises(ValueError) as error:
        load_yaml(overrides=overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("just a sentence", "has no keys and values"),
        ("- 1\n- 2", "has no keys and values"),
        ("A: [1", "cannot be read"),
        ("A: !!python/object/apply:os.getcwd []", "cannot be read"),
        ("SOLVER: {MAX_ITERS: 5}", "Did you mean SOLVER.MAX_ITER?"),
    ],
)
def test_mistakes_in_files_are_named(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        load_yaml(file)
    assert message in str(error.value)


def test_file_that_is_not_there():
    with pytest.raises(ValueError, match=r"there is no config file 'smok.yaml'"):
        load_yaml("smok.yaml")


@pytest.mark.parametrize(
    "parent, child, overrides, expected",
    [
        ("MAX_EPOCHS: 12", "GAMMA: 0.5", [], 12),
        ("MAX_EPOCHS: 12", "GAMMA: 0.5", ["SOLVER.MAX_ITER", "5"], None),
        ("MAX_EPOCHS: 12", "GAMMA: 0.5", ["SOLVER.MAX_EPOCHS", "1.5"], 1.5),
        ("MAX_EPOCHS: 12", "{MAX_ITER: 9, MAX_EPOCHS: null}", [], None),
        ("MAX_ITER: 9", "GAMMA: 0.5", ["SOLVER.MAX_EPOCHS", "2"], 2),
    ],
)
def test_unit_of_a_length(tmp_path, parent, child, overrides, expected):
    """The command line wins over the file, in any unit; a child takes its parent's back by null."""
    child = child if child.startswith("{") else f"{{{child}}}"
    (tmp_path / "parent.yaml").write_text(f"VERSION: 2\nSOLVER: {{{parent}}}\n")
    (tmp_path / "child.yaml").write_text(f"_BASE_: parent.yaml\nSOLVER: {child}\n")
    assert load_yaml(tmp_path / "child.yaml", overrides).max_epochs == expected


def test_both_units_in_a_file_are_refused(tmp_path):
    (tmp_path / "parent.yaml").write_text("TEST: {EVAL_PERIOD: 50}\n")
    file = tmp_path / "both.yaml"
    file.write_text("_BASE_: parent.yaml\nTEST: {EVAL_PERIOD_EPOCHS: 1}\n")
    with pytest.raises(ValueError, match=r"EVAL_PERIOD 50 and .*EPOCHS 1 contradict .*both.yaml"):
        load_yaml(file)


@pytest.mark.parametrize("unit", ["", "_EPOCHS"])
def test_step_at_the_end_changes_nothing(load, unit):
    end = "SOLVER.MAX_EPOCHS" if unit else "SOLVER.MAX_ITER"
    experiment = load(end, 4, f"SOLVER.STEPS{unit}", "(2, 4)", "SOLVER.IMS_PER_BATCH", 6)
    experiment.set_epoch_length()  # 24 images: 4 iterations
    assert experiment.steps == ((8,) if unit else (2,))
    experiment.build_lr_scheduler(torch.optim.SGD([torch.zeros(1)], lr=1))


def test_epochs_become_iterations(load, tmp_path):
    experiment = load("SOLVER.STEPS_EPOCHS", "(1.5, 2)", "SOLVER.MAX_EPOCHS", 3,
                      "SOLVER.IMS_PER_BATCH", 5)  # fmt: skip
    experiment.set_epoch_length()  # 24 images: 4.8 iterations
    assert (experiment.max_iter, experiment.steps) == (14, (7, 10))
    assert experiment.warmup_iters == 5 and experiment.schedule.images_per_epoch == 24
    experiment.save(tmp_path / "config.yaml")
    again = load_yaml(tmp_path / "config.yaml")
    assert (again.max_iter, again.max_epochs, again.steps) == (14, None, (7, 10))
    again.save(tmp_path / "again.yaml")
    load_yaml(tmp_path / "again.yaml").save(tmp_path / "third.yaml")
    assert (tmp_path / "third.yaml").read_text() == (tmp_path / "again.yaml").read_text()


def test_learning_rate_is_scaled_once(load, tmp_path):
    experiment = load("SOLVER.REFERENCE_IMS_PER_BATCH", 16)
    experiment.scale_learning_rate()
    assert experiment.base_lr == 0.02
    experiment.save(tmp_path / "config.yaml")
    again = load_yaml(tmp_path / "config.yaml")
    again.scale_learning_rate()
    assert again.base_lr == 0.02


def test_batch_that_cannot_be_split(load):
    with pytest.raises(ValueError, match=r"SOLVER.IMS_PER_BATCH is 8. That cannot be split evenly"):
        load().check_processes(3)
