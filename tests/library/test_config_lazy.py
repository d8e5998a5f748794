"""Python configs: the same as of YAML configs, by the names of lazy configs."""

from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, load_lazy, load_yaml
from detectron2 import model_zoo
from detectron2.config import instantiate
from omegaconf import OmegaConf


def test_classes_follow_from_the_dataset():
    experiment = load_lazy()
    experiment.follow_data()
    assert experiment.config.model.roi_heads.num_classes == 3
    assert experiment.build_model().roi_heads.num_classes == 3


def test_tiles_and_test_time_augmentation_have_the_defaults_of_yaml():
    lazy, yaml = load_lazy(), load_yaml()
    assert lazy.tiles == yaml.tiles
    assert lazy.test_augmentation == yaml.test_augmentation


@pytest.mark.parametrize(
    "model, key",
    [
        ("mask_rcnn_fpn", "roi_heads.box_predictor.test_topk_per_image"),
        ("cascade_rcnn", "roi_heads.box_predictors[2].test_topk_per_image"),
        ("retinanet", "max_detections_per_image"),
    ],
)
def test_the_most_detections_of_an_image_are_the_models(model, key):
    experiment = load_lazy()
    experiment.config.model = model_zoo.get_config(f"common/models/{model}.py").model
    assert experiment.max_detections == 100
    OmegaConf.update(experiment.config.model, key, 7, force_add=True)
    assert experiment.max_detections == 7


def test_unknown_dataset_is_refused_with_the_nearest_name():
    with pytest.raises(KeyError, match=r"'shapes_trian' is not registered.*shapes_train"):
        load_lazy(overrides=["dataloader.train.dataset.names=[shapes_trian]"]).follow_data()


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["train.max_iters=5"], "Did you mean train.max_iter?"),
        (["dataloader.test.batchsize=5"], "Did you mean dataloader.test.batch_size?"),
        (["train.max_iter"], "config overrides are key=value"),
        (["train.log_period=many"], "train.log_period is 'many'"),
        (["train.max_epochs=ten"], "train.max_epochs is 'ten'. Give positive numbers"),
        (["dataloader.test.random_subset_ratio=2.0"], "random_subset_ratio is 2.0. Give a share"),
        (["train.early_stopping.patience=3", "train.eval_period=0"], "needs evaluations"),
        (["train.max_iter=5", "train.max_epochs=5"], "contradict each other"),
        (["dataloader.test.tiles.overlap=2000"], "dataloader.test.tiles: the size is"),
        (["dataloader.test.tiles.sise=9"], "dataloader.test.tiles has no sise"),
        (["train.max_iter=5", "--resume"], "--resume came after the overrides"),
    ],
)
def test_mistakes_in_overrides_are_named(overrides, message):
    with pytest.raises(ValueError) as error:
        load_lazy(overrides=overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "line, message",
    [
        ("train.max_iters = 5", "no config key 'train.max_iters'. Did you mean train.max_iter?"),
        ("del model", "has no model"),
    ],
)
def test_mistakes_in_files_are_named(line, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from detectron2.config import LazyConfig\n"
        f"locals().update(LazyConfig.load({str(CONFIGS / 'smoke.py')!r}))\n{line}\n"
    )
    with pytest.raises(ValueError) as error:
        load_lazy(file)
    assert message in str(error.value)


def test_keys_of_ones_own_are_welcome(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from detectron2.config import LazyConfig\n"
        f"locals().update(LazyConfig.load({str(CONFIGS / 'smoke.py')!r}))\n"
        "train.teacher = 'weights.pth'\n"
    )
    assert load_lazy(file).config.train.teacher == "weights.pth"


@pytest.mark.parametrize(
    "overrides, epochs", [([], 6), (["train.max_iter=5"], None), (["train.max_epochs=0.5"], 0.5)]
)
def test_unit_of_a_length(overrides, epochs):
    assert load_lazy(overrides=overrides).max_epochs == epochs


def test_saved_config_is_the_same_experiment(tmp_path):
    """Epochs have become iterations; names of classes and functions are looked up again."""
    experiment = load_lazy(overrides=["train.max_epochs=3", "dataloader.train.total_batch_size=5"])
    experiment.follow_data()
    experiment.set_epoch_length()  # 24 images: 4.8 iterations
    assert experiment.max_iter == 14
    experiment.save(tmp_path / "config.yaml")
    again = load_lazy(tmp_path / "config.yaml")
    assert again.max_iter == 14 and again.max_epochs is None
    again.follow_data()
    assert type(again.build_model()) is type(experiment.build_model())
    assert len(next(iter(again.build_train_loader()))) == 5
    again.save(tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize(
    "text, message",
    [
        ("{model: {_target_: os.system, command: ls}}", "would call os.system"),
        ("model: !!python/name:os.system", "would call os.system"),
        ("model: {_target_: detectron2.utils.env.setup_custom_environment}", "would call"),
        ("model: {_target_: my_detectors.Head}", "would call"),
        ("model: {_target_: detectron2.evaluation.coco_evaluation.os.getcwd}", "would call"),
        ("model: !!python/name:detectron2.data.datasets.coco.os.getcwd", "would call"),
        ("model: {_target_: detectron2.data.nothing}", "cannot be read"),
        ("model: !!python/object/apply:os.getcwd []", "cannot be read"),
    ],
)
def test_saved_config_runs_no_code(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError) as error:
        load_lazy(tmp_path / "config.yaml")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        "COCO-Detection/retinanet_R_50_FPN_1x",
        "new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ",  # with a lambda
    ],
)
def test_saved_config_with_shapes_and_classes(tmp_path, config):
    zoo = Path(model_zoo.__file__).parent / f"configs/{config}.py"
    load_lazy(zoo).save(tmp_path / "config.yaml")
    given, again = load_lazy(zoo), load_lazy(tmp_path / "config.yaml")
    assert str(instantiate(given.config.model)) == str(instantiate(again.config.model))


def test_a_function_without_a_name_is_said_to_be_unsaved(tmp_path, caplog):
    experiment = load_lazy()
    experiment.config.model.roi_heads.box_head.conv_norm = lambda c: torch.nn.Identity()
    experiment.save(tmp_path / "config.yaml")
    assert "['model.roi_heads.box_head.conv_norm']. A lambda" in caplog.text
    with pytest.raises(ValueError, match="line 1?[0-9]+: A lambda.* functools.partial"):
        load_lazy(tmp_path / "config.yaml")


@pytest.mark.parametrize("constant", [True, False])
def test_schedule_can_be_stepped_to_the_end(constant):
    experiment = load_lazy(overrides=["train.max_iter=10"])
    if constant:
        experiment.config.lr_multiplier = {
            "_target_": "fvcore.common.param_scheduler.ConstantParamScheduler",
            "value": 1.0,
        }
    experiment.follow_data()
    optimizer = experiment.build_optimizer(experiment.build_model())
    scheduler = experiment.build_lr_scheduler(optimizer)
    rates = []
    for _ in range(10):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[-1] == pytest.approx(0.04 if constant else 0.004)


def test_detectron2s_mapper_gives_ground_truth_where_it_is_asked_for():
    experiment = load_lazy()
    experiment.follow_data()
    record = experiment.test_dataset("shapes_val")[0]
    assert "gt_masks" in experiment.build_mapper(is_train=True)(record)["instances"].get_fields()
    assert "gt_masks" in experiment.build_mapper(False, True)(record)["instances"].get_fields()
    assert "instances" not in experiment.build_mapper(is_train=False)(record)
