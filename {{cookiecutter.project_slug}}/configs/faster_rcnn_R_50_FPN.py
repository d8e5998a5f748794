"""Faster R-CNN (Ren et al., 2015): boxes."""

from detectron2 import model_zoo

from .base import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py").model
for part in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(part)
dataloader.train.mapper.use_masks = False
train.init_checkpoint = (
    "detectron2://COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl"
)
