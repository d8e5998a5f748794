"""Cascade Mask R-CNN (Cai and Vasconcelos, 2018): three box heads, each for better boxes.

On COCO 3 AP of boxes more than Mask R-CNN, for a third more time.
"""

from detectron2 import model_zoo

from .base import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("common/models/cascade_rcnn.py").model
model.backbone.bottom_up.freeze_at = 2
train.init_checkpoint = (
    "detectron2://Misc/cascade_mask_rcnn_R_50_FPN_3x/144998488/model_final_480dd8.pkl"
)
