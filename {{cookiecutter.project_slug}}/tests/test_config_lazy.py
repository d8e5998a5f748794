from pathlib import Path

import pytest

from {{ cookiecutter.package_name }}.config import epochs_to_iterations
from {{ cookiecutter.package_name }}.experiment import (
    build_lr_scheduler,
    build_model,
    build_optimizer,
    get_config,
    read_config,
    write_config,
)

CONFIGS = sorted(str(path) for path in Path("configs").glob("*.py") if path.stem != "base")


@pytest.mark.parametrize("config", CONFIGS)
def test_config_has_its_own_output_folder_and_can_be_written_and_read(config, tmp_path):
    cfg = read_config(config)
    assert cfg.OUTPUT_DIR == f"output/{Path(config).stem}"
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    write_config(cfg, first)
    write_config(read_config(str(first)), second)
    assert first.read_text() == second.read_text()


def test_classes_follow_from_the_data_set(cfg):
    assert cfg.LAZY.model.roi_heads.num_classes == 3
    assert build_model(cfg).roi_heads.num_classes == 3


def test_other_number_of_classes_is_refused():
    with pytest.raises(ValueError, match="NUM_CLASSES is 7 .* but 'shapes_train' has 3"):
        get_config("configs/smoke.py", ["model.roi_heads.num_classes=7"])


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["train.max_iters=5"], "Did you mean train.max_iter?"),
        (["train.max_iter"], "config overrides are key=value"),
        (["train.max_iter=many"], "train.max_iter is 'many'"),
        (["train.max_epochs=ten"], "SOLVER.MAX_EPOCHS is 'ten'. Give positive numbers"),
        (["dataloader.test.random_subset_ratio=2.0"], "RANDOM_SUBSET_RATIO is 2.0. Give a share"),
        (["train.early_stopping.patience=3", "train.eval_period=0"], "needs evaluations"),
        (["train.max_iter=5", "train.max_epochs=5"], "contradict each other"),
        (["train.max_iter=5", "--resume"], "--resume came after the config overrides"),
    ],
)
def test_mistakes_in_overrides_are_named(overrides, message):
    with pytest.raises(ValueError) as error:
        read_config("configs/smoke.py", overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "line, message",
    [
        ("train.max_iters = 5", "no config key 'train.max_iters'. Did you mean train.max_iter?"),
        ("dataloader.test.batchsize = 5", "Did you mean dataloader.test.batch_size?"),
        ("del model", "has no model"),
    ],
)
def test_mistakes_in_files_are_named(line, message, tmp_path):
    file = tmp_path / "mine.py"
    base = Path("configs/smoke.py").resolve()
    file.write_text(
        "from detectron2.config import LazyConfig\n"
        f"locals().update(LazyConfig.load({str(base)!r}))\n{line}\n"
    )
    with pytest.raises(ValueError) as error:
        read_config(str(file))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "overrides, epochs", [([], 6), (["train.max_iter=5"], None), (["train.max_epochs=0.5"], 0.5)]
)
def test_later_unit_counts(overrides, epochs):
    assert read_config("configs/smoke.py", overrides).SOLVER.MAX_EPOCHS == epochs


def test_epochs_become_iterations(cfg, tmp_path):
    cfg.SOLVER.MAX_EPOCHS = 3
    epochs_to_iterations(cfg, images_per_epoch=100)  # of 8: 12.5 iterations
    assert cfg.SOLVER.MAX_ITER == 38
    write_config(cfg, tmp_path / "config.yaml")
    again = read_config(str(tmp_path / "config.yaml"))
    assert again.SOLVER.MAX_ITER == 38 and again.SOLVER.MAX_EPOCHS is None


@pytest.mark.parametrize("constant", [True, False])
def test_schedule_can_be_stepped_to_the_end(cfg, constant):
    if constant:
        cfg.LAZY.lr_multiplier = {
            "_target_": "fvcore.common.param_scheduler.ConstantParamScheduler",
            "value": 1.0,
        }
    cfg.SOLVER.MAX_ITER = 10
    optimizer = build_optimizer(cfg, build_model(cfg))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(10):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[-1] == pytest.approx(0.04 if constant else 0.004)


def test_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(KeyError, match="'shapes_trian' is not registered.*shapes_train"):
        get_config("configs/smoke.py", ["dataloader.train.dataset.names=[shapes_trian]"])
