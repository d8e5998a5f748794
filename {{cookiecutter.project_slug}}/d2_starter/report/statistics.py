"""Intervals of metrics by a bootstrap over images.

A test set is a sample of the images that a model will meet. The bootstrap draws as many images from
it, with replacement, again and again (Efron, 1979). The spread of the metric over the draws is
about its spread over test sets of this size. Two runs are compared on the same draws.
"""

import numpy as np

from .matching import IOUS, Matches

RECALLS = np.linspace(0, 1, 101)


def resample(images: int, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Returns how often each draw has each image, (draws, images)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.float32)


def average_precision(matches: Matches, weights: np.ndarray | None = None, ious=IOUS) -> np.ndarray:
    """Computes COCO's AP for draws of images.

    Args:
        weights: (draws, images), see `resample`. None: each image once.
        ious: the thresholds, some of IOUS.

    Returns:
        (draws, len(ious), classes) from 0 to 100; NaN for classes without objects.
    """
    is_exact = weights is None
    weights = np.ones((1, len(matches.images)), np.float32) if is_exact else weights
    columns = [int(np.argmin(abs(IOUS - iou))) for iou in ious]
    objects = weights @ matches.objects.astype(np.float32)
    result = np.full((len(weights), len(columns), len(matches.classes)), np.nan)
    for k in np.flatnonzero(matches.objects.any(axis=0)):
        of_class = np.flatnonzero(matches.category == k)
        of_class = of_class[np.argsort(-matches.score[of_class], kind="stable")]
        drawn = weights[:, matches.image[of_class]]
        number = np.where(objects[:, k, None] > 0, objects[:, k, None], np.nan)
        for t, column in enumerate(columns):
            counts = ~matches.ignored[of_class, column]
            is_true = counts & (matches.hit[of_class, column] >= 0)
            good = np.cumsum(drawn[:, is_true], axis=1)
            total = np.cumsum(drawn * counts, axis=1)[:, is_true]
            precision = good / np.maximum(total, 1)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            # How many of the 101 recalls are reached for the first time at each true positive.
            if is_exact:  # to the last digit, as COCO compares floating-point numbers
                recall = good.astype(float) / number.astype(float)
                reached = np.searchsorted(RECALLS, recall, side="right")
            else:
                reached = np.floor(good / number * 100 + 1e-4) + 1
            steps = np.diff(reached, axis=1, prepend=0)
            result[:, t, k] = np.where(
                np.isnan(number[:, 0]), np.nan, 100 * (envelope * steps).sum(axis=1) / len(RECALLS)
            )
    return result


def interval(value: float, draws: np.ndarray, images: int) -> tuple[float, float] | None:
    """Returns the ends of the 95 % interval around a value; None without draws that have one.

    The interval is the value, plus and minus the draws' standard deviation times Student's factor.
    Quantiles of the draws would lie too high: AP takes the best precision at each recall, which is
    the higher, the fewer images there are, and a draw has fewer different ones. So what the
    interval holds, in 95 of 100 test sets, is the mean AP of test sets of this size.

    Args:
        images: their number; for a class, the number of images with it.
    """
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return None
    half = 1.96 * (1 + 1.8 / max(images, 1)) * float(draws.std())
    return value - half, value + half


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Returns the mean over the last axis of those that have a value; NaN if none has."""
    has_value = np.isfinite(values)
    number = has_value.sum(axis=-1)
    total = np.where(has_value, values, 0).sum(axis=-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def intersection_over_union(per_image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns IoU in percent, (draws, classes), from pixels (images, 3, classes).

    The three are pixels of both, of the ground truth, and of the prediction.
    """
    both, true, predicted = np.moveaxis(np.tensordot(weights, per_image, 1), 1, 0)
    union = true + predicted - both
    return np.where(true > 0, 100 * both / np.maximum(union, 1), np.nan)


def panoptic_quality(per_image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns PQ in percent, (draws, classes), from TP, FP, FN, sum of IoU (images, 4, classes)."""
    tp, fp, fn, iou = np.moveaxis(np.tensordot(weights, per_image, 1), 1, 0)
    number = tp + fp / 2 + fn / 2
    return np.where(number > 0, 100 * iou / np.where(number > 0, number, 1), np.nan)
