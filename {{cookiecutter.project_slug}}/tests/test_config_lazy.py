"""Every experiment in configs/ can be read, and written and read again."""

from pathlib import Path

import pytest

from {{ cookiecutter.package_name }}.experiment import load_experiment

CONFIGS = sorted(str(path) for path in Path("configs").glob("*.py") if path.stem != "base")


@pytest.mark.parametrize("config", CONFIGS)
def test_config_has_its_own_run_directory_and_can_be_written_and_read(config, tmp_path):
    experiment = load_experiment(config)
    assert experiment.output_dir == f"output/{Path(config).stem}"
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    experiment.save(first)
    load_experiment(str(first)).save(second)
    assert first.read_text() == second.read_text()


def test_misspelt_key_is_refused():
    with pytest.raises(ValueError, match="Did you mean train.max_iter?"):
        load_experiment("configs/smoke.py", ["train.max_iters=5"])


def test_argument_of_ones_own_module_changes_the_model():
    key = "model.backbone.bottom_up.channels"
    experiment = load_experiment("configs/smoke.py", ["train.device=cpu", f"{key}=[8,8,16,16,24]"])
    shapes = experiment.build_model().backbone.bottom_up.output_shape()
    assert [shape.channels for shape in shapes.values()] == [8, 16, 16, 24]
