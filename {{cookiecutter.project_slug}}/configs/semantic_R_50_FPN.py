"""The semantic branch of Panoptic FPN (Kirillov et al., 2019) alone: a class for each pixel."""

from d2_starter.formats.project import Project
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.modeling import SemanticSegmentor

from .base import dataloader, lr_multiplier, optimizer, train

panoptic = model_zoo.get_config("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py").model
model = L(SemanticSegmentor)(
    backbone=panoptic.backbone,
    sem_seg_head=panoptic.sem_seg_head,
    pixel_mean=panoptic.pixel_mean,
    pixel_std=panoptic.pixel_std,
)
model.sem_seg_head.loss_weight = 1.0
del panoptic  # what is a config here becomes a part of the experiment's
dataloader.train.dataset.names = Project.read(__file__).names("train", "semantic")
dataloader.train.mapper.use_masks = False
dataloader.test.dataset.names = Project.read(__file__).names("val", "semantic")
optimizer.lr = 0.01
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
