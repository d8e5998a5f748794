"""A project as small as it can be, in place of a rendered one: its configs are beside this file."""

import os
import sys
from importlib import import_module
from logging import getLogger
from pathlib import Path
from types import ModuleType

import pytest

sys.dont_write_bytecode = True  # nothing is left in the template
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
PROJECT = Path(__file__).parents[2] / "{{cookiecutter.project_slug}}"
os.environ["PYTHONPATH"] = str(PROJECT)
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
# The template's own mapper and modelling have no template in their code.
package = sys.modules["my_detector"] = ModuleType("my_detector")
package.__path__ = [str(PROJECT / "{{cookiecutter.package_name}}")]

from detectron2.data import DatasetCatalog  # noqa: E402

from d2_starter.data import shapes  # noqa: E402

CONFIGS = Path(__file__).parent / "configs"


def load_yaml(config_file=CONFIGS / "smoke.yaml", overrides=()):
    """Reads an experiment as a project with YAML configs does."""
    from d2_starter.config.yaml import YamlExperiment

    import_module("my_detector.modelling")
    mapper = import_module("my_detector.data.dataset_mapper").Mapper
    add_config = import_module("my_detector.config_yaml").add_project_config
    words = list(map(str, overrides))
    return YamlExperiment(str(config_file), words, add_config=add_config, mapper=mapper)


def load_lazy(config_file=CONFIGS / "smoke.py", overrides=()):
    """Reads an experiment as a project with Python configs does."""
    from d2_starter.config.lazy import LazyExperiment

    return LazyExperiment(str(config_file), list(overrides), package="my_detector")


@pytest.fixture(scope="session", autouse=True)
def few_shapes(tmp_path_factory):
    """The folder of the generated dataset, with few images; caches are beside it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("datasets")
        patch.setenv("DETECTRON2_DATASETS", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(shapes, "SPLITS", {"train": 24, "val": 8})
        shapes.register_shapes()
        DatasetCatalog.get("shapes_val")  # makes the files of all splits
        yield shapes.make_shapes()


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    """Keeps runs out of the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def loggers():
    """Leaves the loggers as they were: a run's log does not go to pytest's."""
    from detectron2.utils.logger import setup_logger

    from d2_starter.run.setup import LOGGERS

    levels = {log: log.level for log in map(getLogger, LOGGERS)}

    def reset():
        setup_logger.cache_clear()  # or it would not set a logger up again
        for log, level in levels.items():
            log.propagate = True
            log.setLevel(level)
            log.handlers.clear()

    reset()  # fixtures of a module may have trained
    yield
    reset()


@pytest.fixture
def load():
    """`load("KEY", value, ...)` reads the small Mask R-CNN's YAML config, for a CPU."""

    def load(*overrides):
        keys = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, *overrides]
        experiment = load_yaml(overrides=keys)
        experiment.follow_data()
        return experiment

    return load


@pytest.fixture
def experiment(load, tmp_path):
    """That experiment, with a run directory of its own."""
    return load("OUTPUT_DIR", tmp_path / "run")
