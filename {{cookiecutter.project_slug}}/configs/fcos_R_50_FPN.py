"""FCOS (Tian et al., 2019): boxes, in one stage and without anchors.

There are no weights of detectron2 for it; the backbone's are ImageNet's.
"""

from detectron2 import model_zoo

from .base import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("common/models/fcos.py").model
model.backbone.bottom_up.freeze_at = 2
dataloader.train.mapper.use_masks = False
optimizer.lr = 0.0025
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
