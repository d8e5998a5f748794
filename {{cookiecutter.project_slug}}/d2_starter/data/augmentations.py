"""Augmentations: read from a config by name, and applied to an image with all its ground truth.

INPUT.AUGMENTATIONS is a list of names, or of {name: {argument: value, ...}}. A name is that of a
preset below, of a class of `detectron2.data.transforms`, of `ColorAugSSDTransform`, of a class of
this library (CopyPaste, Mosaic, TileCrop), or of one that the project registers.
"""

import difflib
import inspect
from collections.abc import Callable, Sequence

import numpy as np
from detectron2.data import DatasetFromList
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from fvcore.common.registry import Registry
from omegaconf import OmegaConf

from .mixing import CopyPaste, Mosaic, MultiImage
from .sample import KEEP_BOXES, Sample, transform
from .tiles import TileCrop

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
for augmentation in (ColorAugSSDTransform, CopyPaste, Mosaic, TileCrop):
    AUGMENTATION_REGISTRY.register(augmentation)

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
            if not isinstance(augmentation, T.Augmentation) or isinstance(augmentation, MultiImage):
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
