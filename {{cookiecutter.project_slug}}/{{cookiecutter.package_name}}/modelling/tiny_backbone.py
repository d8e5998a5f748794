"""An example of a component of your own: a backbone small enough to train from scratch on a CPU.

A YAML config asks for the registered function by name (MODEL.BACKBONE.NAME), a config in Python for
the class: `L(TinyBackbone)(in_channels=3)`. Replace both with your own.
"""

from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn


class TinyBackbone(Backbone):
    """Five stages of convolution, group normalization and ReLU, each at half the resolution."""

    def __init__(self, in_channels: int, channels: tuple[int, ...] = (16, 32, 64, 96, 128)):
        super().__init__()
        self.stages = nn.ModuleList()
        self._out_features = ["res2", "res3", "res4", "res5"]
        self._out_feature_strides = {f"res{i}": 2**i for i in range(2, 6)}
        self._out_feature_channels = {f"res{i + 1}": c for i, c in enumerate(channels)}
        for out_channels in channels:
            self.stages.append(
                nn.Sequential(
                    _conv(in_channels, out_channels, stride=2),
                    _conv(out_channels, out_channels, stride=1),
                )
            )
            in_channels = out_channels

    def forward(self, x):
        """Maps (N, 3, H, W) images to {"res2": (N, C, H/4, W/4), ..., "res5": ...}."""
        features = {}
        for number, stage in enumerate(self.stages, start=1):
            x = stage(x)
            features[f"res{number}"] = x
        return {name: features[name] for name in self._out_features}


def _conv(in_channels, out_channels, stride):
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        stride=stride,
        padding=1,
        bias=False,
        norm=nn.GroupNorm(8, out_channels),  # learns from scratch, with any batch size
        activation=nn.functional.relu,
    )


@BACKBONE_REGISTRY.register()
def build_tiny_fpn_backbone(cfg, input_shape: ShapeSpec):
    """Builds the stages above, and a feature pyramid on top of them: p2 to p6."""
    return FPN(
        bottom_up=TinyBackbone(input_shape.channels, cfg.MODEL.TINY_BACKBONE.CHANNELS),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
    )
