import pytest
from detectron2.data import DatasetCatalog

from {{ cookiecutter.package_name }}.config import get_config
from {{ cookiecutter.package_name }}.data import shapes


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
    return get_config("configs/smoke.yaml", ["MODEL.DEVICE", "cpu"])
