"""DeepLabV3+ (Chen et al., 2018): a class for each pixel, with sharp outlines."""

import detectron2.data.transforms as T
from d2_starter.formats.project import Project
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import ResNet, SemanticSegmentor
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.projects.deeplab import DeepLabV3PlusHead
from detectron2.projects.deeplab.resnet import DeepLabStem
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from .base import dataloader, optimizer, train

constants = model_zoo.get_config("common/data/constants.py").constants
# Of the stages res2 to res5: blocks, channels in, between and out, stride, dilation of the blocks.
STAGES = [
    (3, 128, 64, 256, 1, [1] * 3),
    (4, 256, 128, 512, 2, [1] * 4),
    (23, 512, 256, 1024, 2, [1] * 23),
    (3, 1024, 512, 2048, 1, [2, 4, 8]),
]
model = L(SemanticSegmentor)(
    backbone=L(ResNet)(
        stem=L(DeepLabStem)(norm="SyncBN"),
        stages=[
            L(ResNet.make_stage)(
                block_class=BottleneckBlock,
                num_blocks=blocks,
                in_channels=channels_in,
                bottleneck_channels=channels,
                out_channels=channels_out,
                stride_per_block=[stride] + [1] * (blocks - 1),
                dilation_per_block=dilations,
                stride_in_1x1=False,
                norm="SyncBN",
            )
            for blocks, channels_in, channels, channels_out, stride, dilations in STAGES
        ],
        out_features=["res2", "res5"],
    ),
    sem_seg_head=L(DeepLabV3PlusHead)(
        input_shape={
            "res2": L(ShapeSpec)(channels=256, stride=4),
            "res5": L(ShapeSpec)(channels=2048, stride=16),
        },
        project_channels=[48],
        aspp_dilations=[6, 12, 18],
        aspp_dropout=0.1,
        decoder_channels=[256, 256],
        common_stride=4,
        norm="SyncBN",
        train_size=None,
        loss_type="hard_pixel_mining",
        ignore_value=255,
        num_classes=54,
    ),
    pixel_mean=constants.imagenet_rgb256_mean,
    pixel_std=constants.imagenet_rgb256_std,
)
del constants  # what is a config here becomes a part of the experiment's
train.init_checkpoint = "detectron2://DeepLab/R-103.pkl"
train.val_loss = False  # detectron2's DeepLab computes it for sizes that are multiples of 4 alone

dataloader.train.dataset.names = Project.read(__file__).names("train", "semantic")
dataloader.train.mapper.update(image_format="RGB", use_masks=False)
dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(
        min_scale=0.5,
        max_scale=2.0,
        target_height=640,
        target_width=1066,
    ),
    # No class fills more than this share of it, if that can be had.
    L(T.RandomCrop_CategoryAreaConstraint)(
        crop_type="absolute",
        crop_size=[512, 512],
        single_category_max_area=0.75,
        ignored_category=255,
    ),
    L(T.FixedSizeCrop)(crop_size=[512, 512]),  # a smaller image gets a margin
    L(T.RandomFlip)(),
]
dataloader.test.dataset.names = Project.read(__file__).names("val", "semantic")
optimizer.lr = 0.0025
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_length=1 / 36,
    warmup_factor=0.001,
)
