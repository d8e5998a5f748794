"""Declares the project's own config keys."""

from detectron2.config import CfgNode


def add_project_config(cfg: CfgNode):
    """Adds your keys. A key that is declared nowhere is an error in a config file.

    The library's keys, such as SOLVER.MAX_EPOCHS, are declared in d2_starter/config/keys.py.
    """
    # Channels of the five stages of modelling/tiny_backbone.py, each a multiple of 8.
    cfg.MODEL.TINY_BACKBONE = CfgNode()
    cfg.MODEL.TINY_BACKBONE.CHANNELS = [16, 32, 64, 96, 128]
