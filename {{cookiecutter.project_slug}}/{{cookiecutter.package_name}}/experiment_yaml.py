"""Puts the project's parts together: its config keys, datasets, mapper and components."""

from d2_starter.config.yaml import YamlExperiment

from . import modelling  # noqa: F401  registers the project's components
from .config import add_project_config
from .data.dataset import register_datasets
from .data.dataset_mapper import Mapper


def load_experiment(config_file: str, overrides: list[str] = ()) -> YamlExperiment:
    """Reads a config file: what scripts and tools begin with.

    Args:
        overrides: KEY VALUE KEY VALUE ..., which win over the file.

    Raises:
        ValueError: the file or an override is wrong; the message says what and where.
    """
    register_datasets()
    return YamlExperiment(config_file, overrides, add_config=add_project_config, mapper=Mapper)
