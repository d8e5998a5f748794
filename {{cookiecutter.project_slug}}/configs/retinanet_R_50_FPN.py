"""RetinaNet (Lin et al., 2017): boxes, in one stage."""

from detectron2 import model_zoo

from .base import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("COCO-Detection/retinanet_R_50_FPN_1x.py").model
dataloader.train.mapper.use_masks = False
optimizer.lr = 0.0025
train.init_checkpoint = (
    "detectron2://COCO-Detection/retinanet_R_50_FPN_3x/190397829/model_final_5bd44e.pkl"
)
