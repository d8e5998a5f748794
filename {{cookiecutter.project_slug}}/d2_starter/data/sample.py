"""An image with its ground truth, and how a transform of detectron2 changes both."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.structures import BoxMode, polygons_to_bitmask
from PIL import Image

IGNORED = 255  # the label of pixels without a class

# Of these a box around an object stays a tight one, and no pixel of a label map is made up.
KEEP_BOXES = (
    T.NoOpTransform,
    T.HFlipTransform,
    T.VFlipTransform,
    T.ResizeTransform,
    T.BlendTransform,
    T.ColorTransform,
    ColorAugSSDTransform,
)


@dataclass
class Sample:
    """An image with its ground truth, in pixels of this image.

    Attributes:
        image: (H, W, C) uint8.
        annotations: of each object `category_id`; `bbox`, (4,) as XYXY, or (5,), rotated boxes as
            detectron2 has them: center x, center y, width, height, angle; and, as far as the dataset
            has them, `segmentation`, a list of polygons (2 N,) or a mask (H, W) uint8 of 0 and 1,
            and `keypoints`, (K, 3) of x, y, visibility.
        sem_seg: (H, W) uint8, the class of each pixel.
    """

    image: np.ndarray
    annotations: list[dict] = field(default_factory=list)
    sem_seg: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[:2]


def read_annotations(annotations: list[dict], unused: Sequence[str] = ()) -> list[dict]:
    """Returns annotations of a dataset dict as a `Sample` has them, crowds left out.

    Args:
        unused: keys that are not needed.
    """
    result = []
    for annotation in annotations:
        if annotation.get("iscrowd", 0):
            continue
        a = {key: value for key, value in annotation.items() if key not in unused}
        if a["bbox_mode"] == BoxMode.XYWHA_ABS:
            a["bbox"] = np.array(a["bbox"], dtype=float)
        else:
            a["bbox"], a["bbox_mode"] = np.array(utils.get_bbox(a)), BoxMode.XYXY_ABS
        if isinstance(a.get("segmentation"), dict):
            a["segmentation"] = mask_util.decode(a["segmentation"])
        elif "segmentation" in a:
            a["segmentation"] = [np.asarray(p, dtype=float).ravel() for p in a["segmentation"]]
        if "keypoints" in a:
            a["keypoints"] = np.array(a["keypoints"], dtype=float).reshape(-1, 3)
        result.append(a)
    return result


def _corners(annotation):
    # Of a rotated box those around it; all others are XYXY in a sample.
    if annotation.get("bbox_mode") != BoxMode.XYWHA_ABS:
        return annotation["bbox"]
    box = np.array([annotation["bbox"]], dtype=float)
    return BoxMode.convert(box, BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS)[0]


def transform(
    sample: Sample,
    augmentation: T.Augmentation,
    keypoint_hflip_indices: Sequence[int] | None = None,
    min_visible: float = 0.0,
) -> Sample:
    """Returns the sample, augmented. The given one is not to be used any more."""
    boxes = np.array([_corners(a) for a in sample.annotations]).reshape(-1, 4)
    inputs = T.AugInput(sample.image, boxes=boxes, sem_seg=sample.sem_seg)
    height, width = sample.size
    transforms = augmentation(inputs)
    steps = [t for t in transforms.transforms if not isinstance(t, T.NoOpTransform)]
    if not steps:
        return sample
    is_cut = not all(isinstance(t, KEEP_BOXES) for t in steps)
    sem_seg = inputs.sem_seg
    if is_cut and sem_seg is not None:
        is_old = _apply_to_labels(transforms, np.ones((height, width), np.uint8)) == 1
        sem_seg = np.where(is_old, _apply_to_labels(transforms, sample.sem_seg), IGNORED)
        sem_seg = sem_seg.astype(sample.sem_seg.dtype)

    corners = transforms.apply_coords(np.array([[0.0, 0.0], [width, 0.0], [0.0, height]]))
    (ax, ay), (bx, by) = corners[1:] - corners[0]
    scale = (ax * by - ay * bx) / (width * height)  # of areas; below 0 if it mirrors
    result = Sample(inputs.image, [], sem_seg)
    for annotation in sample.annotations:
        a = _transform_annotation(annotation, transforms, result.size, is_cut)
        if is_cut and area(a) < min_visible * area(annotation) * abs(scale):
            continue
        if is_cut and "segmentation" in a and not area(a):
            continue
        if "keypoints" in a:
            a["keypoints"] = _transform_keypoints(
                a["keypoints"], transforms, result.size, keypoint_hflip_indices, scale < 0
            )
        result.annotations.append(a)
    return result


def _apply_to_labels(transforms, labels):
    for t in transforms.transforms:
        if isinstance(t, T.ExtentTransform):
            # detectron2's takes NEAREST, which is 0, for none given, and so blends labels.
            t = copy.copy(t)
            t.interp = Image.NEAREST
            labels = t.apply_image(labels)
        else:
            labels = t.apply_segmentation(labels)
    return labels


def _transform_annotation(annotation, transforms, size, is_cut):
    a = dict(annotation)
    if len(a["bbox"]) == 5:
        a["bbox"] = _transform_rotated(a["bbox"], transforms)
        return a
    height, width = size
    a["bbox"] = transforms.apply_box(a["bbox"][None])[0].clip(0, [width, height, width, height])
    segmentation = a.get("segmentation")
    if isinstance(segmentation, np.ndarray):
        # Margins have another value, such as 255 for label maps, which detectron2 takes for object.
        a["segmentation"] = (_apply_to_labels(transforms, segmentation) == 1).astype(np.uint8)
    elif segmentation is not None:
        polygons = transforms.apply_polygons([p.reshape(-1, 2).copy() for p in segmentation])
        if is_cut and any(p.min() < 0 or (p > [width, height]).any() for p in polygons if len(p)):
            polygons = T.CropTransform(0, 0, width, height).apply_polygons(polygons)
        a["segmentation"] = [p.reshape(-1) for p in polygons]
    if is_cut and segmentation is not None:
        a["bbox"] = tight_box(a["segmentation"])
    return a


def _transform_rotated(box, transforms):
    for t in transforms.transforms:
        if isinstance(t, (T.HFlipTransform, T.ResizeTransform)):
            (box,) = t.apply_rotated_box(box[None].copy())
        elif not isinstance(t, KEEP_BOXES) or isinstance(t, T.VFlipTransform):
            raise ValueError(
                f"{type(t).__name__} cannot be applied to rotated boxes: of the augmentations, "
                "take those that resize, mirror from left to right, or change colors."
            )
    return box


def _transform_keypoints(keypoints, transforms, size, hflip_indices, is_mirrored):
    result = keypoints.copy()
    result[:, :2] = transforms.apply_coords(keypoints[:, :2].copy())
    is_inside = ((result[:, :2] >= 0) & (result[:, :2] <= size[::-1])).all(axis=1)
    result[~is_inside, 2] = 0
    if is_mirrored:
        if hflip_indices is None or len(hflip_indices) != len(result):
            raise ValueError(
                f"an augmentation mirrors images with {len(result)} keypoints, but the dataset's "
                f"metadata say of {0 if hflip_indices is None else len(hflip_indices)} which is "
                "which then. Set keypoint_names and keypoint_flip_map."
            )
        result = result[list(hflip_indices)]
    result[result[:, 2] == 0] = 0  # as COCO has keypoints that are not labelled
    return result


def tight_box(segmentation) -> np.ndarray:
    """Returns the box (4,), XYXY, around polygons or a mask; zeros around nothing."""
    if isinstance(segmentation, np.ndarray):
        ys, xs = segmentation.any(1).nonzero()[0], segmentation.any(0).nonzero()[0]
        return np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1] if len(xs) else [0] * 4, float)
    if not segmentation:
        return np.zeros(4)
    points = np.concatenate(segmentation).reshape(-1, 2)
    return np.concatenate([points.min(0), points.max(0)])


def to_mask(segmentation, size: tuple[int, int]) -> np.ndarray:
    """Returns polygons, or a mask, as a mask (H, W) bool."""
    if isinstance(segmentation, np.ndarray):
        return segmentation.astype(bool)
    if not segmentation:
        return np.zeros(size, bool)
    return polygons_to_bitmask(segmentation, *size)


def area(annotation) -> float:
    """Pixels of the mask, or of the box if there is none."""
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        if len(annotation["bbox"]) == 5:
            return float(annotation["bbox"][2] * annotation["bbox"][3])
        x0, y0, x1, y1 = annotation["bbox"]
        return float((x1 - x0) * (y1 - y0))
    if isinstance(segmentation, np.ndarray):
        return float(segmentation.sum())
    return sum(_polygon_area(p.reshape(-1, 2)) for p in segmentation)


def _polygon_area(points):
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def shift(annotation, x, y):
    """Moves polygons, keypoints and the box of an annotation, in place."""
    annotation["bbox"] = annotation["bbox"] + [x, y, x, y]
    if isinstance(annotation.get("segmentation"), list):
        annotation["segmentation"] = [
            (p.reshape(-1, 2) + [x, y]).reshape(-1) for p in annotation["segmentation"]
        ]
    if "keypoints" in annotation:
        is_labelled = annotation["keypoints"][:, 2:] > 0
        annotation["keypoints"][:, :2] += is_labelled * [x, y]
