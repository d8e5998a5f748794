"""Augmentations that take several images: objects pasted from another one, and mosaics of four."""

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T

from .sample import IGNORED, Sample, shift, tight_box, to_mask, transform


class MultiImage(T.Augmentation):
    """An augmentation that takes other images to the one it is for.

    Attributes:
        prob: how often it is done.
        number: of other images.
    """

    prob, number = 1.0, 1

    def mix(self, sample: Sample, others: list[Sample]) -> Sample:
        """Returns a new sample. `others` went through what stands before it in the list."""
        raise NotImplementedError


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
            shift(a, x, y)
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
            scale: least and largest size of an image, as a share of the result's. From each a
                random part of its quarter's size is taken, or the whole and a gray margin.
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
                shift(a, left, top)
                annotations.append(a)
        return Sample(image, annotations, sem_seg)
