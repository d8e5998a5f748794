"""Augmentations: read from a config by name, and applied to an image with all its ground truth.

INPUT.AUGMENTATIONS is a list. Each entry is the name of a preset below, the name of a class of
`detectron2.data.transforms`, of detectron2's `ColorAugSSDTransform`, of one of this library (CopyPaste,
Mosaic, TileCrop) or of one that the project registers, or {name: {argument: value, ...}}.
"""

import copy
import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetFromList
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.structures import BoxMode, polygons_to_bitmask
from fvcore.common.registry import Registry
from omegaconf import OmegaConf
from PIL import Image

IGNORED = 255  # the label of pixels without a class

# What ResizeShortestEdge is not told, it takes from INPUT.MIN_SIZE_TRAIN and INPUT.MAX_SIZE_TRAIN.
PRESETS = {
    "none": ["ResizeShortestEdge"],
    "light": [
        "ResizeShortestEdge",
        "RandomFlip",
        {"RandomBrightness": {"intensity_min": 0.8, "intensity_max": 1.2}},
        {"RandomContrast": {"intensity_min": 0.8, "intensity_max": 1.2}},
    ],
    # For photographs: zoomed in or out, tilted, in other colors.
    "strong": [
        {
            "RandomApply": {
                "tfm_or_aug": {
                    "RandomExtent": {"scale_range": [0.5, 1.5], "shift_range": [0.3, 0.3]}
                },
                "prob": 0.7,
            }
        },
        "ResizeShortestEdge",
        "RandomFlip",
        {
            "RandomApply": {
                "tfm_or_aug": {"RandomRotation": {"angle": [-10, 10], "expand": False}},
                "prob": 0.3,
            }
        },
        "ColorAugSSDTransform",
    ],
    # For pictures from above, through a microscope or of a flat thing: no side is up.
    "aerial": [
        {
            "RandomApply": {
                "tfm_or_aug": {
                    "RandomExtent": {"scale_range": [0.7, 1.2], "shift_range": [0.2, 0.2]}
                },
                "prob": 0.5,
            }
        },
        "ResizeShortestEdge",
        "RandomFlip",
        {"RandomFlip": {"horizontal": False, "vertical": True}},
        {"RandomRotation": {"angle": [0, 90, 180, 270], "sample_style": "choice"}},
        {"RandomBrightness": {"intensity_min": 0.7, "intensity_max": 1.3}},
        {"RandomContrast": {"intensity_min": 0.7, "intensity_max": 1.3}},
    ],
}

# A project's own: @AUGMENTATION_REGISTRY.register() on a subclass of T.Augmentation.
AUGMENTATION_REGISTRY = Registry("AUGMENTATION")
AUGMENTATION_REGISTRY.register(ColorAugSSDTransform)

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
NEED_NO_MASKS = (
    T.Resize,
    T.ResizeScale,
    T.ResizeShortestEdge,
    T.RandomFlip,
    T.RandomBrightness,
    T.RandomContrast,
    T.RandomSaturation,
    T.RandomLighting,
    *KEEP_BOXES,
)


@dataclass
class Sample:
    """An image with its ground truth, in pixels of this image.

    Attributes:
        image: (H, W, C) uint8.
        annotations: of each object `category_id`; `bbox`, (4,) as XYXY; and, as far as the dataset
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
        a["bbox"], a["bbox_mode"] = np.array(utils.get_bbox(a)), BoxMode.XYXY_ABS
        if isinstance(a.get("segmentation"), dict):
            a["segmentation"] = mask_util.decode(a["segmentation"])
        elif "segmentation" in a:
            a["segmentation"] = [np.asarray(p, dtype=float).ravel() for p in a["segmentation"]]
        if "keypoints" in a:
            a["keypoints"] = np.array(a["keypoints"], dtype=float).reshape(-1, 3)
        result.append(a)
    return result


class MultiImage:
    """An augmentation that takes other images to the one it is for.

    Attributes:
        prob: how often it is done.
        number: of other images.
    """

    prob, number = 1.0, 1

    def mix(self, sample: Sample, others: list[Sample]) -> Sample:
        """Returns a new sample. `others` went through what stands before it in the list."""
        raise NotImplementedError


class Augmenter:
    """Augments samples: the image, and its boxes, masks, keypoints and label map alike.

    It does what `T.AugmentationList` and `transform_instance_annotations` do, and besides:
    an object that is cut or turned gets a tight box, if it has a mask; left and right keypoints are
    exchanged by any mirroring, not by horizontal flips alone; what is outside of the image after a
    rotation or in a margin is no object and no class; augmentations can take several images.
    """

    def __init__(
        self,
        augmentations: Sequence,
        *,
        keypoint_hflip_indices: Sequence[int] | None = None,
        min_visible: float = 0.0,
    ):
        """
        Args:
            augmentations: of detectron2 or `MultiImage`, applied in this order.
            keypoint_hflip_indices: which keypoint is which, once mirrored.
            min_visible: see INPUT.MIN_VISIBLE.
        """
        self.augmentations = [
            a if isinstance(a, MultiImage) else T.AugmentationList([a]) for a in augmentations
        ]
        self.keypoint_hflip_indices = keypoint_hflip_indices
        self.min_visible = min_visible
        self.uses_masks = not all(isinstance(a, NEED_NO_MASKS) for a in augmentations)
        self.images = None

    def set_images(self, dataset_dicts: Sequence[dict]):
        """Says from which images a `MultiImage` augmentation takes others: those of training."""
        if any(isinstance(a, MultiImage) for a in self.augmentations):
            self.images = DatasetFromList(list(dataset_dicts), copy=False)  # shared with workers

    def __call__(self, sample: Sample, read: Callable[[dict], Sample]) -> Sample:
        """
        Args:
            read: makes a sample of a dataset dict.
        """
        return self._augment(sample, read, len(self.augmentations))

    def _augment(self, sample, read, steps):
        for step, augmentation in enumerate(self.augmentations[:steps]):
            if not isinstance(augmentation, MultiImage):
                sample = transform(
                    sample, augmentation, self.keypoint_hflip_indices, self.min_visible
                )
            elif np.random.rand() < augmentation.prob:
                if self.images is None:
                    raise ValueError(
                        f"{type(augmentation).__name__} has no images to take others from. Call "
                        "set_images(dataset dicts) of the mapper's `augment`, as the training "
                        "loader does."
                    )
                chosen = np.random.randint(len(self.images), size=augmentation.number)
                others = [self._augment(read(self.images[i]), read, step) for i in chosen]
                sample = augmentation.mix(sample, others)
        return sample

    def __repr__(self):
        return repr([getattr(a, "augs", [a])[0] for a in self.augmentations])


def transform(
    sample: Sample,
    augmentation: T.Augmentation,
    keypoint_hflip_indices: Sequence[int] | None = None,
    min_visible: float = 0.0,
) -> Sample:
    """Returns the sample, augmented. The given one is not to be used any more."""
    boxes = np.array([a["bbox"] for a in sample.annotations]).reshape(-1, 4)
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
        if is_cut and _area(a) < min_visible * _area(annotation) * abs(scale):
            continue
        if is_cut and "segmentation" in a and not _area(a):
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


def _area(annotation) -> float:
    """Pixels of the mask, or of the box if there is none."""
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        x0, y0, x1, y1 = annotation["bbox"]
        return float((x1 - x0) * (y1 - y0))
    if isinstance(segmentation, np.ndarray):
        return float(segmentation.sum())
    return sum(_polygon_area(p.reshape(-1, 2)) for p in segmentation)


def _polygon_area(points):
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def _shift(annotation, x, y):
    """Moves polygons, keypoints and the box of an annotation, in place."""
    annotation["bbox"] = annotation["bbox"] + [x, y, x, y]
    if isinstance(annotation.get("segmentation"), list):
        annotation["segmentation"] = [
            (p.reshape(-1, 2) + [x, y]).reshape(-1) for p in annotation["segmentation"]
        ]
    if "keypoints" in annotation:
        is_labelled = annotation["keypoints"][:, 2:] > 0
        annotation["keypoints"][:, :2] += is_labelled * [x, y]


@AUGMENTATION_REGISTRY.register()
class CopyPaste(MultiImage):
    """Pastes objects of another image (Ghiasi et al., "Simple Copy-Paste", CVPR 2021).

    They are a random part of its objects, moved at random with each other. What they cover is taken
    out of the masks below; a keypoint below is labelled, but not visible. Needs masks.
    """

    def __init__(self, prob: float = 0.5, min_visible: float = 0.1):
        """
        Args:
            prob: how often something is pasted.
            min_visible: an object of which less than this share is left uncovered is left out.
        """
        self.prob, self.min_visible = prob, min_visible

    def mix(self, sample, others):
        (other,) = others
        if not all("segmentation" in a for a in (*sample.annotations, *other.annotations)):
            raise ValueError(
                "CopyPaste cuts objects out by their masks, but there are objects without. Remove "
                "it from INPUT.AUGMENTATIONS, or take Mosaic."
            )
        (height, width), (h, w) = sample.size, other.size
        y, x = (np.random.randint(min(0, a), max(0, a) + 1) for a in (height - h, width - w))
        # The part of the other image that comes to lie in this one.
        there = np.s_[max(-y, 0) : min(h, height - y), max(-x, 0) : min(w, width - x)]
        here = np.s_[max(y, 0) : min(height, y + h), max(x, 0) : min(width, x + w)]
        pasted, covered = [], np.zeros((height, width), bool)
        for a in other.annotations:
            whole = to_mask(a["segmentation"], other.size)
            mask = np.zeros((height, width), bool)
            mask[here] = whole[there]
            if np.random.rand() < 0.5 or mask.sum() <= self.min_visible * whole.sum():
                continue
            a = dict(a, segmentation=mask.astype(np.uint8))
            _shift(a, x, y)
            a["bbox"] = tight_box(a["segmentation"])
            if "keypoints" in a:
                a["keypoints"] = _inside(a["keypoints"], sample.size)
            pasted.append(a)
            covered |= mask
        if not pasted:
            return sample
        image = sample.image.copy()
        image[here][covered[here]] = other.image[there][covered[here]]
        sem_seg = sample.sem_seg
        if sem_seg is not None:
            sem_seg = np.array(sem_seg)
            no_class = other.sem_seg is None
            sem_seg[here][covered[here]] = (
                IGNORED if no_class else other.sem_seg[there][covered[here]]
            )
        kept = [k for a in sample.annotations if (k := self._uncovered(a, covered)) is not None]
        return Sample(image, kept + pasted, sem_seg)

    def _uncovered(self, annotation, covered):
        whole = to_mask(annotation["segmentation"], covered.shape)
        mask = whole & ~covered
        if (mask == whole).all():
            return annotation
        if mask.sum() <= self.min_visible * whole.sum():
            return None
        a = dict(annotation, segmentation=mask.astype(np.uint8))
        a["bbox"] = tight_box(a["segmentation"])
        if "keypoints" in a:
            x, y = a["keypoints"][:, :2].astype(int).T
            height, width = covered.shape
            is_below = covered[y.clip(0, height - 1), x.clip(0, width - 1)]
            a["keypoints"] = a["keypoints"].copy()
            a["keypoints"][is_below, 2] = a["keypoints"][is_below, 2].clip(max=1)
        return a


def _inside(keypoints, size):
    keypoints = keypoints.copy()
    is_inside = ((keypoints[:, :2] >= 0) & (keypoints[:, :2] <= size[::-1])).all(axis=1)
    keypoints[~is_inside] = 0
    return keypoints


@AUGMENTATION_REGISTRY.register()
class Mosaic(MultiImage):
    """Puts four images together (Bochkovskiy et al., "YOLOv4", 2020), at a random center."""

    number = 3

    def __init__(
        self,
        size: Sequence[int],
        prob: float = 0.5,
        scale: Sequence[float] = (0.4, 1.0),
        min_visible: float = 0.1,
    ):
        """
        Args:
            size: height and width of the result, pixels.
            prob: how often it is done.
            scale: least and largest size of an image, as a share of the result's. From each a random
                part of its quarter's size is taken, or the whole and a gray margin.
            min_visible: an object of which less than this share is left is left out.
        """
        self.size, self.prob, self.scale, self.min_visible = tuple(size), prob, scale, min_visible

    def mix(self, sample, others):
        height, width = self.size
        y, x = (int(round(length * np.random.uniform(0.25, 0.75))) for length in self.size)
        image = np.empty((height, width, sample.image.shape[2]), sample.image.dtype)
        sem_seg = None if sample.sem_seg is None else np.full(self.size, IGNORED, np.uint8)
        annotations = []
        cells = [(0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width)]
        for (top, left, bottom, right), part in zip(cells, [sample, *others]):
            resize = T.ResizeScale(*self.scale, height, width)
            crop = T.FixedSizeCrop((bottom - top, right - left))
            part = transform(part, T.AugmentationList([resize, crop]), None, self.min_visible)
            image[top:bottom, left:right] = part.image
            if sem_seg is not None and part.sem_seg is not None:
                sem_seg[top:bottom, left:right] = part.sem_seg
            for a in part.annotations:
                if isinstance(a.get("segmentation"), np.ndarray):
                    mask = np.zeros(self.size, np.uint8)
                    mask[top:bottom, left:right] = a["segmentation"]
                    a["segmentation"] = mask
                _shift(a, left, top)
                annotations.append(a)
        return Sample(image, annotations, sem_seg)


def build_augmentations(augmentations: Sequence, resize: dict, image_format: str = "BGR") -> list:
    """Builds the augmentations of a list as INPUT.AUGMENTATIONS has it.

    Args:
        resize: arguments of ResizeShortestEdge, where the list does not give them.
        image_format: "BGR" or "RGB", for a ColorAugSSDTransform that is not told.

    Raises:
        ValueError: a name or an argument that there is not, or a value that the class refuses.
    """
    if OmegaConf.is_config(augmentations):
        augmentations = OmegaConf.to_container(augmentations)
    defaults = {
        "ResizeShortestEdge": dict(resize),
        "ColorAugSSDTransform": {"img_format": image_format},
    }
    built = []
    for entry in augmentations:
        name, arguments = _name_and_arguments(entry)
        if name in PRESETS:
            if arguments:
                raise ValueError(
                    f"INPUT.AUGMENTATIONS has the preset '{name}' with arguments {arguments}. "
                    "Write its list instead, and change that: see PRESETS in "
                    "d2_starter/data/augmentations.py."
                )
            built += build_augmentations(PRESETS[name], resize, image_format)
        else:
            built.append(_build(name, arguments, defaults))
    return built


def _name_and_arguments(entry):
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, arguments),) = entry.items()
        if isinstance(arguments, dict) or arguments is None:
            return name, arguments or {}
    raise ValueError(
        f"INPUT.AUGMENTATIONS has the entry {entry!r}. Give a name, or one name and its arguments: "
        "{RandomRotation: {angle: [-10, 10]}}."
    )


def _build(name, arguments, defaults):
    known = augmentation_classes()
    if name not in known:
        raise ValueError(
            f"INPUT.AUGMENTATIONS has '{name}', which is no augmentation and no preset."
            f"{_nearest(name, [*known, *PRESETS])} See docs/augmentation.md."
        )
    parameters = inspect.signature(known[name].__init__).parameters
    names = [parameter for parameter in parameters if parameter != "self"]
    for argument in arguments:
        if argument not in names:
            raise ValueError(
                f"INPUT.AUGMENTATIONS gives {name} the argument '{argument}', which it does not "
                f"have.{_nearest(argument, names)} It has {', '.join(names)}."
            )
    values = defaults.get(name, {}) | arguments
    missing = [
        parameter
        for parameter in names
        if parameters[parameter].default is inspect.Parameter.empty and parameter not in values
    ]
    if missing:
        raise ValueError(f"INPUT.AUGMENTATIONS lacks {', '.join(missing)} of {name}.")
    values = {
        key: _build(*_name_and_arguments(value), defaults) if key == "tfm_or_aug" else value
        for key, value in values.items()
    }
    try:
        return known[name](**values)
    except (AssertionError, ValueError, TypeError) as error:
        raise ValueError(
            f"INPUT.AUGMENTATIONS: {name} does not take {arguments}: {error or 'out of range'}"
        ) from error


def augmentation_classes() -> dict[str, type]:
    """Returns the classes that INPUT.AUGMENTATIONS can have, by name."""
    own = dict(iter(AUGMENTATION_REGISTRY))
    return {
        name: value
        for name, value in vars(T).items()
        if isinstance(value, type)
        and issubclass(value, (T.Augmentation, T.Transform))
        and value not in (T.Augmentation, T.Transform, T.AugmentationList, T.TransformList)
    } | own


def _nearest(name, names):
    near = difflib.get_close_matches(str(name), names, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def config_augmentations(cfg, is_train: bool) -> list:
    """Builds what a yacs config says: INPUT.AUGMENTATIONS, or detectron2's own keys if it is empty.

    Raises:
        ValueError: see `build_augmentations`.
    """
    if is_train and len(cfg.INPUT.AUGMENTATIONS):
        resize = {
            "short_edge_length": cfg.INPUT.MIN_SIZE_TRAIN,
            "max_size": cfg.INPUT.MAX_SIZE_TRAIN,
            "sample_style": cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
        }
        return build_augmentations(cfg.INPUT.AUGMENTATIONS, resize, cfg.INPUT.FORMAT)
    augmentations = utils.build_augmentation(cfg, is_train)  # resize, and flip for training
    if is_train and cfg.INPUT.CROP.ENABLED:
        augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    return augmentations


def check_augmentations(cfg):
    """Builds them, and tries each of detectron2's once on a gray image, before training.

    Raises:
        ValueError: see `build_augmentations`; or one fails.
    """
    state = np.random.get_state()
    try:
        for augmentation in config_augmentations(cfg, is_train=True):
            if not isinstance(augmentation, T.Augmentation):
                continue  # a transform may be for images of one size
            sample = Sample(
                np.full((480, 640, 3), 128, np.uint8), [], np.zeros((480, 640), np.uint8)
            )
            try:
                transform(sample, T.AugmentationList([augmentation]))
            except Exception as error:
                raise ValueError(f"INPUT.AUGMENTATIONS: {augmentation} fails: {error}") from error
    finally:
        np.random.set_state(state)
    if not 0 <= cfg.INPUT.MIN_VISIBLE < 1:
        raise ValueError(
            f"INPUT.MIN_VISIBLE is {cfg.INPUT.MIN_VISIBLE}. Give a share, from 0 to below 1."
        )
