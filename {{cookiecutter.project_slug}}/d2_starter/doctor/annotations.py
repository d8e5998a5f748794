"""The checks of annotations: classes, boxes, masks, keypoints."""

import math
from collections import Counter
from itertools import count

import numpy as np

from .findings import Findings
from .reading import Dataset, Model, Objects, as_xyxy, floats, listed

# The format of boxes is judged over a dataset: of at least so many boxes, such a share is wrong as
# declared, and such a share right in the other format.
MODE_BOXES, MODE_WRONG, MODE_RIGHT = 10, 0.2, 0.99
# A class is rare if it has less than this share of the most frequent one's objects, or fewer than
# RARE while that has FREQUENT.
RARE_SHARE, RARE, FREQUENT = 0.01, 10, 200
TWIN_IOU = 0.9  # higher: two boxes for one object
MASK_IOU, MASK_PIXELS = 0.5, 2  # lower, and further apart: a mask's bounds are not its box
KEYPOINT_MARGIN = 0.25  # around a box, of its width and height
ODD_SIZES = 0.05  # share of objects that are too small, or too large, for the anchors


def check_classes(dataset: Dataset, objects: Objects):
    """Classes of objects: unknown, without objects, of one name, or out of balance."""
    found, names = dataset.found, dataset.things
    found.add_all(
        "category-unknown",
        np.flatnonzero(objects.categories < 0),
        lambda i: f"{objects.name(i)}: category_id {objects.annotations[i].get('category_id')!r}",
    )
    repeated = [name for name, number in Counter(names).items() if number > 1]
    found.add_all("class-duplicate-name", repeated, lambda name: f"{dataset.name}: '{name}'")
    counts = class_counts(dataset, objects)
    most = counts.max(initial=0)
    if not most:
        return
    found.add_all(
        "class-without-objects",
        np.flatnonzero(counts == 0),
        lambda i: f"{dataset.name}: {names[i]}",
    )
    is_rare = (counts < RARE_SHARE * most) | ((counts < RARE) & (most >= FREQUENT))
    rare = sorted(np.flatnonzero(is_rare & (counts > 0)), key=lambda i: counts[i])
    frequent = f"{names[counts.argmax()]} has {most:,}"
    found.add_all(
        "class-imbalance",
        rare,
        lambda i: f"{dataset.name}: {names[i]} has {counts[i]:,}, {frequent}",
    )


def class_counts(dataset, objects, per_image=False):
    """(classes,) int, objects of each class without crowds, or images with such objects."""
    is_counted = (objects.categories >= 0) & ~objects.is_crowd
    pairs = np.column_stack([objects.categories, objects.owners])[is_counted]
    if per_image:
        pairs = np.unique(pairs, axis=0)
    return np.bincount(pairs[:, 0], minlength=len(dataset.classes))


def check_boxes(objects: Objects, found: Findings) -> np.ndarray:
    """Boxes: not numbers, in another format, empty, outside, or doubled. Clips `objects.boxes`.

    Returns:
        (N,) bool, boxes that training would use: further checks are about them.
    """
    boxes, limits = objects.boxes, objects.limits
    is_box = np.isfinite(boxes).all(axis=1)
    found.add_all("box-invalid", np.flatnonzero(~is_box & ~objects.is_rotated), objects.box)
    check, is_wrong = _wrong_format(objects, is_box)
    if check:
        found.add_all(check, np.flatnonzero(is_wrong), objects.box)
        return np.zeros_like(is_box)
    inside = boxes.clip(0, limits)
    is_thin = is_box & (_extents(boxes) <= 1)
    is_outside = is_box & ~is_thin & (_extents(inside) <= 1)
    is_usable = is_box & ~is_thin & ~is_outside
    is_clipped = is_usable & (np.abs(inside - boxes).max(axis=1, initial=0) >= 1)
    found.add_all("box-degenerate", np.flatnonzero(is_thin), objects.box)
    found.add_all("box-outside", np.flatnonzero(is_outside), objects.box)
    found.add_all("box-out-of-bounds", np.flatnonzero(is_clipped), objects.box)
    objects.boxes = inside

    twins = _twins(objects, np.flatnonzero(is_usable & ~objects.is_crowd))
    found.add_all(
        "box-duplicate", twins, lambda i: f"{objects.box(i)}, like {objects.number(twins[i])}"
    )
    return is_usable


def duplicates(objects: Objects) -> dict[int, int]:
    """{annotation: an earlier one of the same image and class, in almost the same place}."""
    is_box = np.isfinite(objects.boxes).all(axis=1)
    return _twins(objects, np.flatnonzero(is_box & ~objects.is_crowd))


def _twins(objects, rows):
    ends = np.searchsorted(objects.owners[rows], objects.owners[rows], side="right")
    left, twins = np.arange(len(rows)), {}
    for distance in count(1):  # in the list of annotations
        left = left[left + distance < ends[left]]
        if not len(left):
            return dict(sorted(twins.items()))
        one, other = rows[left], rows[left + distance]
        is_twin = objects.categories[one] == objects.categories[other]
        is_twin &= _iou(objects.boxes[one], objects.boxes[other]) >= TWIN_IOU
        twins |= zip(other[is_twin].tolist(), one[is_twin].tolist())


def _wrong_format(objects, is_box):
    """The finding, if the boxes as a whole are not in the format that they should be; which."""
    if not is_box.any():
        return None, is_box
    if (np.abs(objects.given[is_box]) <= 1).all():
        return "box-relative", is_box
    is_wrong = is_box & ~_fits(objects.boxes, objects.limits)
    is_right = is_box & _fits(as_xyxy(objects.given, ~objects.is_xywh), objects.limits)
    total = is_box.sum()
    is_other = is_wrong.sum() > MODE_WRONG * total and is_right.sum() >= MODE_RIGHT * total
    return "box-mode" if is_other and total >= MODE_BOXES else None, is_wrong


def _extents(boxes):
    """The shorter side of each box."""
    return (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=math.inf)


def _iou(boxes, others):
    """(N,) of each box and the other one in its place; NaN where one of them is."""
    low, high = np.maximum(boxes, others)[:, :2], np.minimum(boxes, others)[:, 2:]
    shared = (high - low).clip(0).prod(axis=1)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, others)]
    with np.errstate(invalid="ignore"):
        return shared / (sum(areas) - shared)


def _fits(boxes, limits):
    return (_extents(boxes) > 1) & (np.abs(boxes.clip(0, limits) - boxes).max(axis=1) < 1)


def check_masks(objects: Objects, is_usable, results: list, model: Model | None, found: Findings):
    """Objects without a mask, and masks that are elsewhere than the box."""
    has_mask = objects.each(lambda a: a.get("segmentation") is not None, bool)
    without = np.flatnonzero(~has_mask & ~objects.is_crowd)
    is_needed = model.masks if model else has_mask.sum() > len(has_mask) / 2
    if is_needed or has_mask.any():
        check = "mask-missing" if is_needed else "mask-in-some"
        found.add_all(check, without, objects.name)

    bounds = np.full_like(objects.boxes, math.nan)
    bounds[has_mask] = np.array([b for r in results for b in r.bounds]).reshape(-1, 4)
    bounds, boxes = bounds.clip(0, objects.limits), objects.boxes
    is_elsewhere = _iou(bounds, boxes) < MASK_IOU
    is_elsewhere &= np.abs(bounds - boxes).max(axis=1, initial=0) > MASK_PIXELS
    found.add_all(
        "mask-box",
        np.flatnonzero(is_elsewhere & is_usable & ~objects.is_crowd),
        lambda i: (
            f"{objects.name(i)}: box {boxes[i].round(1).tolist()}, "
            f"mask {bounds[i].round(1).tolist()} (XYXY)"
        ),
    )


def check_keypoints(dataset: Dataset, objects: Objects, is_usable, model: Model | None):
    """Keypoints: missing, not as many as names, outside of image or box."""
    found = dataset.found
    has_points = objects.each(lambda a: len(listed(a.get("keypoints"))) > 0, bool)
    if model and model.keypoints:
        without = np.flatnonzero(~has_points & ~objects.is_crowd)
        found.add_all("keypoints-missing", without, objects.name)
        if not dataset.keypoints:
            found.add("keypoints-names", f"{dataset.name} has no keypoint_names in its metadata")
    rows = np.flatnonzero(has_points)
    if not len(rows):
        return
    given = [listed(objects.annotations[i]["keypoints"]) for i in rows]
    names = dataset.keypoints
    length = 3 * len(names) if names else Counter(map(len, given)).most_common(1)[0][0]
    points = [floats(those, length) for those in given]
    is_whole = np.array([len(those) == length and length % 3 == 0 for those in points])
    found.add_all(
        "keypoints-invalid",
        rows[~is_whole],
        lambda i: (
            f"{objects.name(i)}: {len(listed(objects.annotations[i]['keypoints']))} numbers for "
            f"{length // 3} keypoints"
        ),
    )
    rows = rows[is_whole]
    points = np.array([p for p, whole in zip(points, is_whole) if whole]).reshape(len(rows), -1, 3)
    is_visible = points[..., 2] > 0
    boxes, limits = objects.boxes[rows], objects.limits[rows]
    margins = KEYPOINT_MARGIN * (boxes[:, 2:] - boxes[:, :2]) + 1
    beyond_image = is_visible & _is_outside(points, np.zeros_like(margins) - 1, limits[:, 2:] + 1)
    beyond_box = is_visible & _is_outside(points, boxes[:, :2] - margins, boxes[:, 2:] + margins)
    is_beyond = beyond_image.any(axis=1)
    found.add_all("keypoints-outside-image", rows[is_beyond], objects.name)
    is_far = beyond_box.sum(axis=1) > is_visible.sum(axis=1) / 2
    is_far &= is_usable[rows] & ~objects.is_crowd[rows]
    found.add_all("keypoints-outside-box", rows[is_far], objects.box)


def _is_outside(points, lowest, highest):
    xy = points[..., :2]
    return ((xy < lowest[:, None]) | (xy > highest[:, None])).any(axis=-1)


def check_sizes(objects: Objects, is_usable, model: Model | None, found: Findings) -> np.ndarray:
    """Objects that no anchor fits.

    Returns:
        square roots of the areas of boxes, in pixels; with a model, of its resized images.
    """
    rows = np.flatnonzero(is_usable & ~objects.is_crowd)
    extents, sides = objects.boxes[rows, 2:] - objects.boxes[rows, :2], objects.limits[rows, :2]
    sizes = np.sqrt(extents.prod(axis=1))
    if model and model.tile:
        sides = np.minimum(sides, model.tile[::-1])
    if model and model.short_side:
        scales = np.minimum(
            model.short_side / sides.min(axis=1), model.long_side / sides.max(axis=1)
        )
        sizes *= np.where(np.isfinite(sides).all(axis=1), scales, 1)
    for check, is_odd in (
        ("object-small", model and model.anchors and sizes < min(model.anchors) / 2),
        ("object-large", model and model.anchors and sizes > max(model.anchors) * 2),
    ):
        if np.any(is_odd) and np.mean(is_odd) > ODD_SIZES:
            chosen = np.flatnonzero(is_odd)
            found.add_all(
                check, chosen, lambda k: f"{objects.box(rows[k])}, resized {sizes[k]:.0f}"
            )
    return sizes
