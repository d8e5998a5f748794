import pytest
from detectron2.data import DatasetCatalog

from {{ cookiecutter.package_name }}.data import shapes
from {{ cookiecutter.package_name }}.experiment import get_config


@pytest.fixture(scope="session", autouse=True)
def small_shapes(tmp_path_factory):
    """A small copy of the generated data set, away from the one you train on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path_factory.mktemp("datasets")))
        patch.setattr(shapes, "SPLITS", {"train": 24, "val": 8})
        shapes.register_shapes()
        DatasetCatalog.get("shapes_val")  # makes the files of all splits
        yield


@pytest.fixture
def cfg():
    """The config of the smoke run."""
    cfg = get_config("configs/smoke.{{ cookiecutter.__suffix }}")
    cfg.MODEL.DEVICE = "cpu"
    return cfg
