"""One image: read, augment, transform its annotations alike, make tensors of all."""

import copy

import numpy as np
import torch
from d2_starter.data.image import FastResize, read_image, read_label_map, to_tensor
from d2_starter.data.rotated import is_rotated, rotated_instances
from detectron2.config import configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T


class Mapper:
    """Maps a dataset dict to the input of detectron2's models.

    It does what `detectron2.data.DatasetMapper` does, short enough to be changed: add an
    augmentation in `from_config`, or another kind of ground truth in `__call__`.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: list[T.Augmentation],
        image_format: str,
        ground_truth: bool = True,
        use_masks: bool = False,
        mask_format: str = "polygon",
        use_keypoints: bool = False,
        keypoint_hflip_indices: np.ndarray | None = None,
        recompute_boxes: bool = False,
        fast_resize: bool = False,
    ):
        """
        Args:
            augmentations: applied in this order to the image and all its annotations.
            image_format: "BGR" or "RGB", the order of the model's pixel means.
            ground_truth: whether the output has it: losses need it, predictions do not.
            use_masks, mask_format: keep instance masks, as "polygon" or "bitmask". An image that
                has masks as RLE gets bitmasks in any case.
            use_keypoints, keypoint_hflip_indices: keep keypoints; which is which once mirrored.
            recompute_boxes: tight boxes around the masks, which cropping makes necessary.
            fast_resize: resize by PyTorch, see INPUT.FAST_RESIZE.
        """
        if fast_resize:
            augmentations = [
                FastResize(a) if isinstance(a, FastResize.RESIZES) else a for a in augmentations
            ]
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.ground_truth = ground_truth
        self.use_masks = use_masks
        self.mask_format = mask_format
        self.use_keypoints = use_keypoints
        self.keypoint_hflip_indices = keypoint_hflip_indices
        self.recompute_boxes = recompute_boxes

    @classmethod
    def from_config(cls, cfg, is_train: bool, ground_truth: bool | None = None):
        """Reads the arguments from a YAML config; ground truth is for training, if not told."""
        augmentations = utils.build_augmentation(cfg, is_train)  # resize, and flip for training
        crop = is_train and cfg.INPUT.CROP.ENABLED
        if crop:
            augmentations.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        keypoints = cfg.MODEL.KEYPOINT_ON
        return {
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "ground_truth": is_train if ground_truth is None else ground_truth,
            "use_masks": cfg.MODEL.MASK_ON,
            "mask_format": cfg.INPUT.MASK_FORMAT,
            "use_keypoints": keypoints,
            "keypoint_hflip_indices": (
                utils.create_keypoint_hflip_indices(cfg.DATASETS.TRAIN) if keypoints else None
            ),
            "recompute_boxes": crop and cfg.MODEL.MASK_ON,
            "fast_resize": is_train and cfg.INPUT.FAST_RESIZE,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """Maps one image.

        Args:
            dataset_dict: one record in detectron2's format; it is not changed.

        Returns:
            the record without its annotations, and `image`, (C, H, W) uint8 in `image_format`;
            with ground truth also `instances` (boxes, classes, masks, keypoints; crowds left out)
            and `sem_seg`, (H, W) int64, as far as the data set has them.

        Raises:
            SizeMismatchError: the file's size is not the one in the dataset dict.
        """
        record = copy.deepcopy(dataset_dict)
        annotations = record.pop("annotations", None)
        sem_seg_file = record.pop("sem_seg_file_name", None)
        image = read_image(record["file_name"], self.image_format)
        utils.check_image_size(record, image)

        inputs = T.AugInput(image)
        if self.ground_truth and sem_seg_file is not None:
            inputs.sem_seg = read_label_map(sem_seg_file)
        transforms = self.augmentations(inputs)
        record["image"] = to_tensor(inputs.image)
        if inputs.sem_seg is not None:
            record["sem_seg"] = torch.as_tensor(inputs.sem_seg.astype("long"))
        if self.ground_truth and annotations is not None:
            record["instances"] = self._instances(annotations, transforms, inputs.image.shape[:2])
        return record

    def _instances(self, annotations, transforms, image_size):
        if is_rotated(annotations):
            return rotated_instances(annotations, transforms, image_size)
        unused = {"segmentation": self.use_masks, "keypoints": self.use_keypoints}
        for key in [key for key, used in unused.items() if not used]:
            for annotation in annotations:
                annotation.pop(key, None)
        transformed = [
            utils.transform_instance_annotations(
                annotation,
                transforms,
                image_size,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
            for annotation in annotations
            if not annotation.get("iscrowd", 0)
        ]
        is_polygons = all(isinstance(a.get("segmentation", []), list) for a in transformed)
        mask_format = self.mask_format if is_polygons else "bitmask"
        instances = utils.annotations_to_instances(transformed, image_size, mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):  # which an empty image has not
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)
