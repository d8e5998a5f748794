"""ViTDet-B (Li et al., 2022): Mask R-CNN on a plain vision transformer, which needs timm.

The weights have 51.6 AP of boxes on COCO. Images are 1024 square, for a GPU of 24 GB or more at a batch of
4 with mixed precision (train.amp.enabled=True).
"""

import detectron2.data.transforms as T
from d2_starter.config.optimizer import layer_decay_params
from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from .base import dataloader, lr_multiplier, train

image_size = 1024
model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
model.backbone.net.img_size = model.backbone.square_pad = image_size
train.init_checkpoint = (
    "detectron2://ViTDet/COCO/mask_rcnn_vitdet_b/f325346929/model_final_61ccd1.pkl"
)
# The rate is for a batch of 4.
optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.params = L(layer_decay_params)(base_lr="${..lr}", layer_decay=0.7, weight_decay_norm=0.0)
optimizer.lr = 0.000025

dataloader.train.mapper.image_format = "RGB"
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(),
    L(T.ResizeScale)(
        min_scale=0.1, max_scale=2.0, target_height=image_size, target_width=image_size
    ),
    L(T.FixedSizeCrop)(crop_size=[image_size, image_size], pad=False),
]
dataloader.test.mapper.augmentations[0].update(short_edge_length=image_size, max_size=image_size)
