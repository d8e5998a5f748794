"""Mask R-CNN (He et al., 2017): boxes and masks."""

from detectron2 import model_zoo

from .base import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py").model
train.init_checkpoint = (
    "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
)
