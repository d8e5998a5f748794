"""Rotated boxes: in training, as detectron2's mapper does not transform them."""

import numpy as np
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode, Instances


def is_rotated(annotations: list[dict]) -> bool:
    """Returns whether boxes are (center x, center y, width, height, angle)."""
    return any(a.get("bbox_mode") == BoxMode.XYWHA_ABS for a in annotations)


def rotated_instances(
    annotations: list[dict], transforms: T.Transform, image_size: tuple[int, int]
) -> Instances:
    """Returns an image's objects with rotated boxes, after its augmentations; crowds left out.

    Args:
        image_size: height and width after the augmentations.
    """
    kept = [a for a in annotations if not a.get("iscrowd", 0)]
    boxes = np.array([a["bbox"] for a in kept], dtype=np.float64).reshape(-1, 5)
    boxes = transforms.apply_rotated_box(boxes) if len(boxes) else boxes
    moved = [a | {"bbox": box} for a, box in zip(kept, np.asarray(boxes).tolist())]
    return utils.filter_empty_instances(utils.annotations_to_instances_rotated(moved, image_size))
