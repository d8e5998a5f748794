"""Test-time augmentation, by detectron2's own classes: TEST.AUG."""

from detectron2.config import get_cfg
from detectron2.modeling import (
    DatasetMapperTTA,
    GeneralizedRCNN,
    GeneralizedRCNNWithTTA,
    PanopticFPN,
)

# Test-time augmentation with detectron2's values: TEST.AUG, dataloader.test.aug.
TEST_AUG = {name.lower(): value for name, value in get_cfg().TEST.AUG.items()}


def build_tta(model, min_sizes, max_size: int, flip: bool = True) -> GeneralizedRCNNWithTTA:
    """Builds what predicts each image at several sizes, mirrored too, and merges the predictions.

    What it needs of the config it takes from the model, which may be of a yacs or a lazy config.

    Args:
        min_sizes, max_size, flip: TEST.AUG.MIN_SIZES, MAX_SIZE, FLIP. The sizes are made from the
            test image, which is INPUT.MIN_SIZE_TEST large: set that to the largest of them.

    Raises:
        ValueError: detectron2 cannot do it for this model.
    """
    name = type(model).__name__
    cannot = "TEST.AUG: detectron2 has test-time augmentation for boxes and masks of R-CNNs, {}. {}"
    off = "Set TEST.AUG.ENABLED False."
    if not isinstance(model, GeneralizedRCNN) or isinstance(model, PanopticFPN):
        raise ValueError(cannot.format(f"not for {name}", off))
    heads = model.roi_heads
    if getattr(heads, "keypoint_on", False):
        raise ValueError(cannot.format("not for keypoints", off))
    predictor = heads.box_predictor
    predictor = predictor[-1] if hasattr(predictor, "__getitem__") else predictor  # of a cascade
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = bool(getattr(heads, "mask_on", False))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = heads.num_classes
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = predictor.test_nms_thresh
    cfg.TEST.DETECTIONS_PER_IMAGE = predictor.test_topk_per_image
    return GeneralizedRCNNWithTTA(cfg, model, DatasetMapperTTA(list(min_sizes), max_size, flip))


class TTAPredictor:
    """Predicts by `build_tta`; what else is done with inputs, such as losses, is done as well."""

    def __init__(self, tta: GeneralizedRCNNWithTTA, predict, model):
        self.tta, self.predict, self.model = tta, predict, model

    def __call__(self, images: list[dict]) -> list[dict]:
        if self.predict is not self.model:
            self.predict(images)
        return self.tta(images)
