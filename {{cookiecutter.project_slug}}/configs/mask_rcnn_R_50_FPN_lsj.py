"""Mask R-CNN with large-scale jitter (Ghiasi et al., 2021): images at 0.1 to 2 times the size.

The weights are of 400 epochs, with 6 AP of boxes more than those of mask_rcnn_R_50_FPN.py.
"""

import detectron2.data.transforms as T
from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from .base import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
model.backbone.bottom_up.freeze_at = 2
# The weights were trained with SyncBN; its statistics stay, as a batch is too small to renew them.
model.backbone.norm = "FrozenBN"
model.proposal_generator.head.conv_dims = [-1, -1]
model.roi_heads.box_head.update(conv_dims=[256] * 4, fc_dims=[1024], conv_norm="FrozenBN")
model.roi_heads.mask_head.conv_norm = "FrozenBN"
train.init_checkpoint = (
    "detectron2://new_baselines/mask_rcnn_R_50_FPN_400ep_LSJ/42019571/model_final_14d201.pkl"
)
dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=1024, target_width=1024),
    L(T.FixedSizeCrop)(crop_size=[1024, 1024]),
    L(T.RandomFlip)(),
]
dataloader.test.mapper.augmentations[0].update(short_edge_length=800, max_size=1333)
