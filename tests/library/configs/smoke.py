"""The same experiment in Python, with detectron2's mapper."""

import detectron2.data.transforms as T
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from my_detector.modelling.tiny_backbone import TinyBackbone

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.pixel_mean = model.pixel_std = [127.5, 127.5, 127.5]
model.backbone = L(FPN)(
    bottom_up=L(TinyBackbone)(in_channels=3),
    in_features=["res2", "res3", "res4", "res5"],
    out_channels=64,
    norm="GN",
    top_block=L(LastLevelMaxPool)(),
)
model.proposal_generator.update(
    in_features=["p3", "p4", "p5"], pre_nms_topk=(500, 300), post_nms_topk=(200, 100)
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

dataloader = dict(
    train=dict(
        dataset=L(get_detection_dataset_dicts)(names=["shapes_train"], filter_empty=True),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(short_edge_length=[128], sample_style="choice"),
                L(T.RandomFlip)(),
            ],
            image_format="BGR",
            use_instance_mask=True,
        ),
        total_batch_size=8,
        num_workers=0,
    ),
    test=dict(
        dataset=dict(names=["shapes_val"]),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=128)],
            image_format="BGR",
        ),
        batch_size=1,
    ),
)
optimizer = model_zoo.get_config("common/optim.py").SGD
optimizer.lr = 0.04
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[80, 100]),
    warmup_length=1 / 6,
    warmup_factor=0.001,
)
train = model_zoo.get_config("common/train.py").train
train.update(device="cpu", init_checkpoint="", max_epochs=6, eval_period_epochs=2, seed=42)
train.checkpointer.period_epochs = 2
