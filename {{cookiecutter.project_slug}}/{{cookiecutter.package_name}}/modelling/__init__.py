"""The project's own layers, heads and losses: a module that is imported here registers its own."""

from . import tiny_backbone  # noqa: F401
