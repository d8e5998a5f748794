from pathlib import Path

import pytest
from detectron2.modeling import build_model

from {{ cookiecutter.package_name }}.config import get_config, read_config

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
        (["SOLVER.MAX_ITER", "5", "--resume"], "--resume came after the config overrides"),
    ],
)
def test_mistakes_in_overrides_are_named(overrides, message):
    with pytest.raises(ValueError) as error:
        read_config("configs/smoke.yaml", overrides)
    assert message in str(error.value)


def test_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(KeyError, match="'shapes_trian' is not registered.*shapes_train"):
        get_config("configs/smoke.yaml", ["DATASETS.TRAIN", "('shapes_trian',)"])
