"""Any backbone of timm that returns features at several resolutions, under a feature pyramid.

timm is an optional dependency, named in pyproject.toml: `uv add timm`.
"""

import os
import tempfile
from math import log2
from pathlib import Path

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler


def import_timm():
    """Returns the module timm.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "this model needs timm, an optional dependency of pyproject.toml that is not installed. "
            "Type: uv add timm (in Docker images, too), or for this environment alone: uv sync "
            "--extra timm"
        ) from error
    return timm


class TimmBackbone(Backbone):
    """A model of timm that returns features.

    They are named by their strides as those of detectron2's ResNets: "res2" 4, "res3" 8, "res4" 16,
    "res5" 32.
    """

    def __init__(
        self,
        name: str,
        out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
        *,
        in_channels: int = 3,
        freeze_at: int = 0,
        freeze_bn: bool = True,
        drop_path_rate: float = 0.0,
        channels_last: bool = False,
    ):
        """
        Args:
            name: of the model, such as "convnext_tiny"; `timm.list_models()` lists them.
            out_features: which stages.
            freeze_at: so many stages are not trained, as in MODEL.BACKBONE.FREEZE_AT: 1 is the
                stem, 2 the stem and res2, up to 4.
            freeze_bn: BatchNorm keeps the statistics of the weights. Detectors are trained on
                batches too small to renew them. From scratch, it must be False.
            drop_path_rate: of stochastic depth, if the model has it.
            channels_last: a memory format that is faster on a GPU with mixed precision.

        Raises:
            ValueError: an unknown name, or a stage that the model does not have.
        """
        super().__init__()
        timm = import_timm()
        arguments = {"features_only": True, "in_chans": in_channels}
        if drop_path_rate:
            arguments["drop_path_rate"] = drop_path_rate
        if "swin" in name:  # else an image of another size than the training's is refused
            arguments["strict_img_size"] = False
        try:
            model = timm.create_model(name, **arguments)
        except RuntimeError as error:
            if timm.is_model(name.partition(".")[0]):
                raise
            raise ValueError(
                f"timm has no model '{name}'. `timm.list_models('*convnext*')` finds names."
            ) from error
        info = model.feature_info
        names = [f"res{int(log2(stride))}" for stride in info.reduction()]
        missing = [feature for feature in out_features if names.count(feature) != 1]
        if missing:
            raise ValueError(
                f"'{name}' has no {', '.join(missing)}; its stages have the strides "
                f"{info.reduction()}: {', '.join(names)}. A plain ViT has one stride only: take "
                "the pyramid of ViTDet instead, see docs/models.md."
            )
        self._indices = [names.index(feature) for feature in out_features]
        if self._indices[-1] + 1 < len(names):  # without the stages that nothing is taken from
            indices = list(range(self._indices[-1] + 1))
            model = timm.create_model(name, **arguments, out_indices=indices)
        # timm's transformers have the channels last in their features' shapes.
        self.is_nhwc = getattr(model, "output_fmt", None) in ("NHWC", timm.layers.Format.NHWC)
        self._out_features = list(out_features)
        self._out_feature_channels = {f: info.channels()[names.index(f)] for f in out_features}
        self._out_feature_strides = {f: 2 ** int(f[3:]) for f in out_features}
        if freeze_bn:
            model = timm.layers.freeze_batch_norm_2d(model)
        stages = [info.module_name(names.index(f"res{i}")) for i in range(2, 2 + freeze_at)]
        if freeze_at:
            _freeze_before(model, stages[-1])
        self.channels_last = channels_last
        self.model = model.to(memory_format=torch.channels_last) if channels_last else model

    def forward(self, x):
        """(N, C, H, W) images to {"res2": (N, channels, H/4, W/4), ...}."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        features = self.model(x)
        if self.is_nhwc:
            features = [f.permute(0, 3, 1, 2).contiguous() for f in features]
        return {name: features[i] for name, i in zip(self._out_features, self._indices)}


def _freeze_before(model, stage):
    """Freezes all that comes before the module of a stage."""
    for name, parameter in model.named_parameters():
        if f"{name.replace('_', '.')}.".startswith(f"{stage.replace('_', '.')}."):
            break
        parameter.requires_grad_(False)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Builds the model of MODEL.TIMM and a pyramid of MODEL.FPN.IN_FEATURES on top.

    RetinaNet gets p6 and p7 by convolutions, other models p6 by pooling.
    """
    timm_model = cfg.MODEL.TIMM
    bottom_up = TimmBackbone(
        timm_model.NAME,
        cfg.MODEL.FPN.IN_FEATURES,
        in_channels=input_shape.channels,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        freeze_bn=timm_model.FREEZE_BN,
        drop_path_rate=timm_model.DROP_PATH_RATE,
        channels_last=timm_model.CHANNELS_LAST,
    )
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    is_retinanet = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=channels,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelP6P7(channels, channels, "p5") if is_retinanet else LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def timm_pixels(name: str, image_format: str = "RGB") -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation (of values to 255) that a model's weights are for."""
    import_timm()
    from timm.models import get_pretrained_cfg

    pretrained = get_pretrained_cfg(name)
    if pretrained is None:
        raise ValueError(f"timm has no model '{name}'.")
    order = -1 if image_format == "BGR" else 1
    return tuple([255 * v for v in values][::order] for values in (pretrained.mean, pretrained.std))


def pixel_mean(name: str, image_format: str = "RGB") -> list[float]:
    """Returns the mean alone of `timm_pixels`, for a LazyCall."""
    return timm_pixels(name, image_format)[0]


def pixel_std(name: str, image_format: str = "RGB") -> list[float]:
    """Returns the standard deviation alone of `timm_pixels`, for a LazyCall."""
    return timm_pixels(name, image_format)[1]


def set_timm_pixels(cfg, default):
    """Sets MODEL.PIXEL_MEAN and PIXEL_STD for the timm model, unless the config gives others.

    Args:
        cfg: a yacs config, changed in place.
        default: one with all defaults.

    Raises:
        ValueError: the images are not RGB, which timm's weights are for.
    """
    if cfg.MODEL.BACKBONE.NAME != "build_timm_fpn_backbone":
        return
    if cfg.INPUT.FORMAT != "RGB" and cfg.MODEL.WEIGHTS.startswith(TimmWeights.PREFIX):
        raise ValueError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT}, but timm's weights are for RGB. Set it to RGB."
        )
    pixels = timm_pixels(cfg.MODEL.TIMM.NAME, cfg.INPUT.FORMAT)
    for key, value in zip(("PIXEL_MEAN", "PIXEL_STD"), pixels):
        if cfg.MODEL[key] == default.MODEL[key]:
            cfg.MODEL[key] = value


class TimmWeights(PathHandler):
    """Weights for `TimmBackbone` as an address: MODEL.WEIGHTS timm://convnext_tiny.fb_in22k.

    timm downloads them once into its cache. Where it cannot, the file can be put anywhere by hand:
    timm://convnext_tiny.fb_in22k/path/to/model.safetensors.
    """

    PREFIX = "timm://"

    def _get_supported_prefixes(self):
        return [self.PREFIX]

    def _get_local_path(self, path, force=False, **kwargs):
        name, slash, file = path.removeprefix(self.PREFIX).partition("/")
        if slash and not Path(slash + file).is_file():
            raise FileNotFoundError(f"MODEL.WEIGHTS {path}: there is no file {slash + file}.")
        timm = import_timm()
        overlay = {"pretrained_cfg_overlay": {"file": slash + file}} if slash else {}
        try:
            model = timm.create_model(name, features_only=True, pretrained=True, **overlay)
        except Exception as error:
            raise RuntimeError(
                f"MODEL.WEIGHTS {path} cannot be had: {error} Without internet, download "
                f"model.safetensors of https://huggingface.co/timm/{name} elsewhere, and give its "
                f"path: {self.PREFIX}{name}/path/to/model.safetensors"
            ) from error
        weights = {f"backbone.bottom_up.model.{k}": v for k, v in model.state_dict().items()}
        handle, local = tempfile.mkstemp(prefix=f"{name}-", suffix=".pth")
        os.close(handle)
        torch.save({"model": weights}, local)
        return local

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        return open(self._get_local_path(path), mode, buffering)

    def _isfile(self, path):
        return True

    def _exists(self, path):
        return True


PathManager.register_handler(TimmWeights(), allow_override=True)
