"""Puts the project's parts together: its datasets and components, and the configs."""

from d2_starter.config.lazy import LazyExperiment

from . import modelling  # noqa: F401  registers the project's components
from .data.dataset import register_datasets


def load_experiment(config_file: str, overrides: list[str] = ()) -> LazyExperiment:
    """Reads a config file: what scripts and tools begin with.

    Args:
        overrides: key=value key=value ..., which win over the file.

    Raises:
        ValueError: the file or an override is wrong; the message says what and where.
    """
    register_datasets()
    return LazyExperiment(config_file, overrides, package=__package__)
