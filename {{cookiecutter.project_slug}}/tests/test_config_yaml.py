"""Every experiment in configs/ can be read, and your own keys are in it."""

from pathlib import Path

import pytest

from {{ cookiecutter.package_name }}.experiment import load_experiment

CONFIGS = sorted(str(path) for path in Path("configs").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS)
def test_config_has_only_known_keys_and_its_own_run_directory(config):
    assert load_experiment(config).output_dir == f"output/{Path(config).stem}"


def test_misspelt_key_is_refused():
    with pytest.raises(ValueError, match="Did you mean SOLVER.MAX_ITER?"):
        load_experiment("configs/smoke.yaml", ["SOLVER.MAX_ITERS", "5"])


def test_own_key_changes_the_model():
    keys = ["MODEL.TINY_BACKBONE.CHANNELS", "[8, 8, 16, 16, 24]", "MODEL.DEVICE", "cpu"]
    experiment = load_experiment("configs/smoke.yaml", keys)
    shapes = experiment.build_model().backbone.bottom_up.output_shape()
    assert [shape.channels for shape in shapes.values()] == [8, 16, 16, 24]
