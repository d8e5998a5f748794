"""PointRend (Kirillov et al., 2020): Mask R-CNN with fine outlines.

A model from outside detectron2's core, whose mask head takes a config of detectron2's other kind.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.projects.point_rend import PointRendMaskHead

from .base import dataloader, lr_multiplier, optimizer, train

model = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py").model
model.roi_heads.train_on_pred_boxes = True
model.roi_heads.mask_in_features = ["p2", "p3", "p4", "p5"]
model.roi_heads.mask_pooler = None  # the head samples the image's features itself
model.roi_heads.mask_head = L(PointRendMaskHead)(
    input_shape={"p2": L(ShapeSpec)(channels=256, stride=4)},
    cfg=dict(
        MODEL=dict(
            ROI_HEADS=dict(NUM_CLASSES="${model.roi_heads.num_classes}"),
            ROI_MASK_HEAD=dict(
                IN_FEATURES=["p2"],
                POOLER_RESOLUTION=14,
                CONV_DIM=256,
                FC_DIM=1024,
                NUM_FC=2,
                OUTPUT_SIDE_RESOLUTION=7,
                POINT_HEAD_ON=True,
            ),
            POINT_HEAD=dict(
                NAME="StandardPointHead",
                NUM_CLASSES="${model.roi_heads.num_classes}",
                IN_FEATURES=["p2"],
                FC_DIM=256,
                NUM_FC=3,
                CLS_AGNOSTIC_MASK=False,
                COARSE_PRED_EACH_LAYER=True,
                TRAIN_NUM_POINTS=196,
                OVERSAMPLE_RATIO=3,
                IMPORTANCE_SAMPLE_RATIO=0.75,
                SUBDIVISION_STEPS=5,
                SUBDIVISION_NUM_POINTS=784,
            ),
        )
    ),
)
dataloader.train.mapper.mask_format = "bitmask"  # PointRend does not take polygons
dataloader.test.mapper.mask_format = "bitmask"
train.init_checkpoint = "detectron2://PointRend/InstanceSegmentation/pointrend_rcnn_R_50_FPN_3x_coco/164955410/model_final_edd263.pkl"  # noqa: E501
