"""The project's own layers, heads and losses: what is imported here can be named in a config."""

from .tiny_backbone import build_tiny_fpn_backbone

__all__ = ["build_tiny_fpn_backbone"]
