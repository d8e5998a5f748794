"""Keypoint R-CNN (He et al., 2017): boxes and keypoints."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.data.detection_utils import create_keypoint_hflip_indices

from .base import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py").model
model.roi_heads.num_classes = 80  # which says nothing: it follows from the dataset
dataloader.train.dataset.min_keypoints = 1
dataloader.train.mapper.update(
    use_masks=False,
    use_keypoints=True,
    keypoint_hflip_indices=L(create_keypoint_hflip_indices)(
        dataset_names="${dataloader.train.dataset.names}"
    ),
)
dataloader.test.mapper.use_keypoints = True
train.init_checkpoint = (
    "detectron2://COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x/137849621/model_final_a6e10b.pkl"
)
