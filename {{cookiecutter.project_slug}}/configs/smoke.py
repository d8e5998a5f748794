"""A small Mask R-CNN from scratch on generated shapes: shows that everything works, on a CPU."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from {{ cookiecutter.package_name }}.modelling.tiny_backbone import TinyBackbone

from .base import dataloader, lr_multiplier, optimizer, train
from .mask_rcnn_R_50_FPN import model

model.pixel_mean = model.pixel_std = [127.5, 127.5, 127.5]
model.backbone = L(FPN)(
    bottom_up=L(TinyBackbone)(in_channels=3),
    in_features=["res2", "res3", "res4", "res5"],
    out_channels=64,
    norm="GN",
    top_block=L(LastLevelMaxPool)(),
)
model.proposal_generator.update(
    in_features=["p3", "p4", "p5"],
    pre_nms_topk=(500, 300),
    post_nms_topk=(200, 100),
)
model.proposal_generator.head.update(in_channels=64, num_anchors=1, conv_dims=[64])
model.proposal_generator.anchor_generator.update(
    sizes=[[16], [32], [64]], aspect_ratios=[1.0], strides=[8, 16, 32]
)
heads = model.roi_heads
heads.batch_size_per_image = 32
heads.box_in_features = heads.mask_in_features = ["p2", "p3", "p4"]
heads.box_pooler.update(scales=[1 / 4, 1 / 8, 1 / 16], sampling_ratio=1)
heads.box_head.update(input_shape=ShapeSpec(channels=64, height=7, width=7), fc_dims=[256, 256])
heads.box_predictor.input_shape = ShapeSpec(channels=256)
heads.mask_pooler.update(scales=[1 / 4, 1 / 8, 1 / 16], sampling_ratio=1)
heads.mask_head.update(
    input_shape=ShapeSpec(channels=64, height=14, width=14), conv_dims=[64, 64, 64]
)
del heads

dataloader.train.dataset.names = ["shapes_train"]
dataloader.train.mapper.augmentations[0].short_edge_length = [128]
dataloader.train.update(total_batch_size=8, num_workers=2)
dataloader.test.dataset.names = ["shapes_val"]
dataloader.test.mapper.augmentations[0].short_edge_length = 128
optimizer.lr = 0.04
lr_multiplier.warmup_length = 1 / 6
lr_multiplier.scheduler.update(values=[1.0, 0.1], milestones=[80, 100])  # per cent
train.max_epochs = 6
train.eval_period_epochs = 2
train.checkpointer.period_epochs = 2
