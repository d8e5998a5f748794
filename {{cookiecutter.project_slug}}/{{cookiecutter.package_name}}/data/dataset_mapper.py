"""One image: read, augment it with its ground truth, make tensors of all."""

import numpy as np
import torch
from d2_starter.data.augmentations import Augmenter, config_augmentations
from d2_starter.data.image import FastResize, read_image, read_label_map, to_tensor
from d2_starter.data.sample import IGNORED, Sample, read_annotations
from detectron2.config import configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T


class Mapper:
    """Maps a dataset dict to the input of detectron2's models.

    It does what `detectron2.data.DatasetMapper` does, in three steps, each of which can be changed:
    `read` makes a sample of a dataset dict, `augment` changes image and ground truth alike, and
    `to_input` makes tensors. Another kind of ground truth needs a line in each of the first and last.
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
        min_visible: float = 0.0,
        fast_resize: bool = False,
        ignore_label: int = IGNORED,
    ):
        """
        Args:
            augmentations: applied in this order to the image and all its annotations.
            image_format: "BGR" or "RGB", the order of the model's pixel means.
            ground_truth: whether the output has it: losses need it, predictions do not.
            use_masks, mask_format: keep instance masks, as "polygon" or "bitmask". An image that
                has masks as RLE, or objects partly covered, gets bitmasks in any case.
            use_keypoints, keypoint_hflip_indices: keep keypoints; which is which once mirrored.
            min_visible: objects cut to less than this share are left out, see INPUT.MIN_VISIBLE.
            fast_resize: resize by PyTorch, see INPUT.FAST_RESIZE.
            ignore_label: the model's label of pixels without a class, also of those outside.
        """
        if fast_resize:
            augmentations = [
                FastResize(a) if isinstance(a, FastResize.RESIZES) else a for a in augmentations
            ]
        self.augment = Augmenter(
            augmentations, keypoint_hflip_indices=keypoint_hflip_indices, min_visible=min_visible
        )
        self.augmentations = T.AugmentationList(augmentations)  # what is done, for tools
        self.image_format = image_format
        self.ground_truth = ground_truth
        self.use_masks = use_masks
        self.mask_format = mask_format
        self.ignore_label = ignore_label
        unused = {"segmentation": use_masks or self.augment.uses_masks, "keypoints": use_keypoints}
        self.unused = [key for key, is_used in unused.items() if not is_used]

    @classmethod
    def from_config(cls, cfg, is_train: bool, ground_truth: bool | None = None):
        """Reads the arguments from a YAML config; ground truth is for training, if not told."""
        keypoints = cfg.MODEL.KEYPOINT_ON
        return {
            "augmentations": config_augmentations(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "ground_truth": is_train if ground_truth is None else ground_truth,
            "use_masks": cfg.MODEL.MASK_ON,
            "mask_format": cfg.INPUT.MASK_FORMAT,
            "use_keypoints": keypoints,
            "keypoint_hflip_indices": (
                utils.create_keypoint_hflip_indices(cfg.DATASETS.TRAIN) if keypoints else None
            ),
            "min_visible": cfg.INPUT.MIN_VISIBLE,
            "fast_resize": is_train and cfg.INPUT.FAST_RESIZE,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """Maps one image.

        Args:
            dataset_dict: one record in detectron2's format; it is not changed.

        Returns:
            the record without its annotations, and `image`, (C, H, W) uint8 in `image_format`;
            with ground truth also `instances` (boxes, classes, masks, keypoints; crowds left out)
            and `sem_seg`, (H, W) int64, as far as the dataset has them.

        Raises:
            SizeMismatchError: the file's size is not the one in the dataset dict.
        """
        sample = self.read(dataset_dict)
        record = {"height": sample.size[0], "width": sample.size[1], **dataset_dict}
        return self.to_input(record, self.augment(sample, self.read))

    def read(self, dataset_dict: dict) -> Sample:
        """Reads the image of a dataset dict and its ground truth."""
        image = read_image(dataset_dict["file_name"], self.image_format)
        utils.check_image_size(dict(dataset_dict), image)
        sample = Sample(image)
        if self.ground_truth:
            sample.annotations = read_annotations(dataset_dict.get("annotations", ()), self.unused)
            if "sem_seg_file_name" in dataset_dict:
                sample.sem_seg = read_label_map(dataset_dict["sem_seg_file_name"])
        return sample

    def to_input(self, record: dict, sample: Sample) -> dict:
        """Makes an input of the model: see `__call__`.

        Args:
            record: the dataset dict that the sample is of.
        """
        result = {k: v for k, v in record.items() if k not in ("annotations", "sem_seg_file_name")}
        result["image"] = to_tensor(sample.image)
        if sample.sem_seg is not None:
            result["sem_seg"] = torch.as_tensor(sample.sem_seg.astype("long"))
            result["sem_seg"][result["sem_seg"] == IGNORED] = self.ignore_label
        if self.ground_truth and "annotations" in record:
            result["instances"] = self._instances(sample)
        return result

    def _instances(self, sample):
        annotations = sample.annotations
        if any(len(a["bbox"]) == 5 for a in annotations):
            return utils.annotations_to_instances_rotated(annotations, sample.size)
        if not self.use_masks:
            annotations = [{k: v for k, v in a.items() if k != "segmentation"} for a in annotations]
        is_polygons = all(isinstance(a.get("segmentation", []), list) for a in annotations)
        mask_format = self.mask_format if is_polygons else "bitmask"
        instances = utils.annotations_to_instances(annotations, sample.size, mask_format)
        return utils.filter_empty_instances(instances)
