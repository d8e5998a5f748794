from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from {{ cookiecutter.package_name }}.config import epochs_to_iterations
from {{ cookiecutter.package_name }}.experiment import get_config, read_config

CONFIGS = sorted(str(path) for path in Path("configs").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS)
def test_config_has_only_known_keys_and_its_own_output_folder(config):
    assert read_config(config).OUTPUT_DIR == f"output/{Path(config).stem}"


def test_classes_follow_from_the_data_set(cfg):
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert build_model(cfg).roi_heads.num_classes == 3


def test_other_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="NUM_CLASSES is 7 .* but 'shapes_train' has 3"):
        get_config("configs/smoke.yaml", ["MODEL.ROI_HEADS.NUM_CLASSES", "7"])


def test_test_set_with_other_classes_is_refused():
    with pytest.raises(ValueError, match="stuff_classes of 'shapes_train' and 'shapes_val_pan"):
        get_config("configs/smoke.yaml", ["DATASETS.TEST", "('shapes_val_panoptic',)"])


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["SOLVER.MAX_ITERS", "5"], "Did you mean SOLVER.MAX_ITER?"),
        (["SOLVER.MAX_ITER"], "'SOLVER.MAX_ITER' has no value"),
        (["SOLVER.MAX_EPOCHS", "ten"], "SOLVER.MAX_EPOCHS is 'ten'. Give positive numbers"),
        (["TEST.RANDOM_SUBSET_RATIO", "2.0"], "TEST.RANDOM_SUBSET_RATIO is 2.0. Give a share"),
        (["EARLY_STOPPING.PATIENCE", "3", "TEST.EVAL_PERIOD", "0"], "needs evaluations"),
        (["SOLVER.MAX_ITER", "5", "--resume"], "--resume came after the config overrides"),
    ],
)
def test_mistakes_in_overrides_are_named(overrides, message):
    with pytest.raises(ValueError) as error:
        read_config("configs/smoke.yaml", overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "parent, child, overrides, expected",
    [
        ("MAX_EPOCHS: 12", "GAMMA: 0.5", [], 12),
        ("MAX_EPOCHS: 12", "GAMMA: 0.5", ["SOLVER.MAX_ITER", "5"], None),
        ("MAX_ITER: 9", "MAX_EPOCHS: 2.5", [], 2.5),
        ("MAX_EPOCHS: 12", "MAX_ITER: 9", [], None),
        ("MAX_EPOCHS: 12", "MAX_ITER: 9", ["SOLVER.MAX_EPOCHS", "0.5"], 0.5),
    ],
)
def test_later_unit_counts(tmp_path, parent, child, overrides, expected):
    (tmp_path / "parent.yaml").write_text(f"VERSION: 2\nSOLVER:\n  {parent}\n")
    (tmp_path / "child.yaml").write_text(f"_BASE_: parent.yaml\nSOLVER:\n  {child}\n")
    assert read_config(str(tmp_path / "child.yaml"), overrides).SOLVER.MAX_EPOCHS == expected


def test_both_units_at_once_are_refused(tmp_path):
    file = tmp_path / "both.yaml"
    file.write_text("TEST: {EVAL_PERIOD: 50, EVAL_PERIOD_EPOCHS: 1}\n")
    with pytest.raises(ValueError, match="EVAL_PERIOD 50 and .* remove one of them from .*both"):
        read_config(str(file))


def test_epochs_become_iterations(cfg):
    cfg.SOLVER.MAX_EPOCHS, cfg.SOLVER.STEPS_EPOCHS = 3, (1.5, 2)
    epochs_to_iterations(cfg, images_per_epoch=100)  # of 8: 12.5 iterations
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (38, (19, 25))
    dumped = CfgNode.load_cfg(cfg.dump())
    assert dumped.SOLVER.MAX_ITER == 38 and dumped.SOLVER.MAX_EPOCHS is None


def test_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(KeyError, match="'shapes_trian' is not registered.*shapes_train"):
        get_config("configs/smoke.yaml", ["DATASETS.TRAIN", "('shapes_trian',)"])
