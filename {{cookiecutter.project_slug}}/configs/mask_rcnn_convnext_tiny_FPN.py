"""Mask R-CNN on ConvNeXt-T (Liu et al., 2022), a backbone of timm (`uv add timm`).

For another one, change the names below: see docs/models.md.
"""

from d2_starter.config.optimizer import layer_decay_params
from d2_starter.layers.timm_fpn import TimmBackbone, pixel_mean, pixel_std
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from .base import dataloader, train

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone = L(FPN)(
    bottom_up=L(TimmBackbone)(
        name="convnext_tiny.fb_in22k",
        out_features=["res2", "res3", "res4", "res5"],
        drop_path_rate=0.2,
    ),
    in_features="${.bottom_up.out_features}",
    out_channels=256,
    top_block=L(LastLevelMaxPool)(),
)
model.pixel_mean = L(pixel_mean)(name="${..backbone.bottom_up.name}")
model.pixel_std = L(pixel_std)(name="${..backbone.bottom_up.name}")
model.input_format = dataloader.train.mapper.image_format = "RGB"
# timm downloads them. Without internet: timm://convnext_tiny.fb_in22k/path/to/model.safetensors
train.init_checkpoint = "timm://convnext_tiny.fb_in22k"

optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.params = L(layer_decay_params)(
    base_lr="${..lr}", layer_decay=0.9, weight_decay_norm=0.0, weight_decay_bias=0.0
)
optimizer.update(lr=0.0001, weight_decay=0.05)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_length=1 / 36,
    warmup_factor=0.001,
)
