"""Panoptic FPN (Kirillov et al., 2019): things as instances, and stuff."""

from d2_starter.formats.project import Project
from detectron2 import model_zoo

from .base import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py").model
dataloader.train.dataset.names = Project.read(__file__).names("train", "panoptic")
dataloader.train.dataset.filter_empty = False
dataloader.test.dataset.names = Project.read(__file__).names("val", "panoptic")
train.init_checkpoint = (
    "detectron2://COCO-PanopticSegmentation/panoptic_fpn_R_50_3x/139514569/model_final_c10459.pkl"
)
