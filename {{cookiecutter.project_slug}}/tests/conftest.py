import pytest
from d2_starter.data import shapes
from detectron2.data import DatasetCatalog

from {{ cookiecutter.package_name }}.experiment import load_experiment


@pytest.fixture(scope="session", autouse=True)
def small_shapes(tmp_path_factory):
    """A small copy of the generated dataset, away from the one you train on: its parent folder."""
    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "shapes_root", lambda: folder / "shapes")
        patch.setattr(shapes, "SPLITS", {"train": 24, "val": 8})
        shapes.register_shapes()
        DatasetCatalog.get("shapes_val")  # makes the files of all splits
        yield folder


@pytest.fixture
def experiment():
    """The experiment of the smoke run, on a CPU."""
    experiment = load_experiment("configs/smoke.{{ cookiecutter.__suffix }}")
    experiment.device = "cpu"
    return experiment
