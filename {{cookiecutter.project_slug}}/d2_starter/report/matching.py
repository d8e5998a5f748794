"""Predictions matched with ground truth as COCO's evaluation does it, and kept by image."""

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_util

IOUS = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = {"bbox": 100, "segm": 100, "keypoints": 20}  # of a class in an image
AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # in pixels


@dataclass
class Matches:
    """One task on one test set: N images, D detections, G annotations, K classes, 10 IoUs."""

    images: list[dict]  # N, in the order of their ids
    classes: list[str]  # K
    detections: list[dict]  # D, image after image, in each by falling score
    annotations: list[dict]  # G, image after image
    image: np.ndarray  # (D,) indices
    category: np.ndarray  # (D,) indices
    score: np.ndarray  # (D,)
    hit: np.ndarray  # (D, 10) the annotation that is matched at each IoU, -1 for none
    ignored: np.ndarray  # (D, 10) matched with a crowd: neither right nor wrong
    truth_image: np.ndarray  # (G,) indices
    truth_category: np.ndarray  # (G,) indices
    crowd: np.ndarray  # (G,) annotations that need not be found
    ious: list[np.ndarray]  # N times (detections, annotations) of the image
    starts: np.ndarray  # (N + 1,) first detection of each image
    truth_starts: np.ndarray  # (N + 1,) first annotation of each image

    @property
    def objects(self) -> np.ndarray:
        """Number of objects to find, (N, K)."""
        counts = np.zeros((len(self.images), len(self.classes)), dtype=int)
        np.add.at(counts, (self.truth_image[~self.crowd], self.truth_category[~self.crowd]), 1)
        return counts


def match(truth: dict, results: list[dict], task: str) -> Matches:
    """Matches results with the content of `ground_truth.json`.

    Args:
        task: bbox, segm or keypoints.
    """
    images = sorted(truth["images"], key=lambda image: image["id"])
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    index = {category["id"]: i for i, category in enumerate(categories)}
    is_lvis = truth.get("evaluator_type") == "lvis"
    by_image = {image["id"]: ([], []) for image in images}
    for annotation in truth["annotations"]:
        by_image[annotation["image_id"]][1].append(annotation)
    for result in results:
        if result["image_id"] in by_image:
            by_image[result["image_id"]][0].append(result)
    detections, annotations, hits, ignored, ious = [], [], [], [], []
    starts, truth_starts = [0], [0]
    for image in images:
        found, true = by_image[image["id"]]
        if is_lvis:  # of its many classes, an image was searched for a few
            searched = {a["category_id"] for a in true} | set(image["neg_category_ids"])
            found = [d for d in found if d["category_id"] in searched]
        found = _best(found, 300 if is_lvis else MAX_DETECTIONS[task], by_class=not is_lvis)
        crowd = np.array([is_crowd(a, task) for a in true], dtype=bool)
        same = np.equal.outer(
            np.array([d["category_id"] for d in found]), np.array([a["category_id"] for a in true])
        )
        overlaps = _overlaps(found, true, image, task, truth.get("oks_sigmas"))
        can_repeat = np.array([a.get("iscrowd", 0) for a in true], dtype=bool)
        hit = _match(overlaps, same, crowd, can_repeat)
        is_ignored = (hit >= 0) & (crowd[hit] if len(true) else False)
        if is_lvis:
            partly = [d["category_id"] in image["not_exhaustive_category_ids"] for d in found]
            is_ignored |= (hit < 0) & np.array(partly, dtype=bool)[:, None]
        hits.append(np.where(hit >= 0, hit + truth_starts[-1], -1))
        ignored.append(is_ignored)
        ious.append(overlaps)
        detections += found
        annotations += true
        starts.append(len(detections))
        truth_starts.append(len(annotations))
    return Matches(
        images,
        [category["name"] for category in categories],
        detections,
        annotations,
        np.repeat(np.arange(len(images)), np.diff(starts)),
        np.array([index[d["category_id"]] for d in detections], dtype=int),
        np.array([d["score"] for d in detections], dtype=float),
        np.concatenate(hits),
        np.concatenate(ignored),
        np.repeat(np.arange(len(images)), np.diff(truth_starts)),
        np.array([index[a["category_id"]] for a in annotations], dtype=int),
        np.array([is_crowd(a, task) for a in annotations], dtype=bool),
        ious,
        np.array(starts),
        np.array(truth_starts),
    )


def is_crowd(annotation: dict, task: str) -> bool:
    """Returns whether an annotation need not be found."""
    unlabelled = task == "keypoints" and not annotation.get("num_keypoints")
    return bool(annotation.get("iscrowd") or annotation.get("ignore") or unlabelled)


def _best(detections, number, by_class):
    """Sorts by falling score, and keeps so many, of each class or of all."""
    counts, kept = {}, []
    for detection in sorted(detections, key=lambda d: -d["score"]):
        key = detection["category_id"] if by_class else None
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= number:
            kept.append(detection)
    return kept


def _match(ious, same, crowd, can_repeat):
    """Returns for each detection and IoU threshold the index of an annotation, or -1; (D, 10)."""
    hit = np.full((len(ious), len(IOUS)), -1)
    taken = np.zeros((len(IOUS), len(crowd)), dtype=bool)
    groups = [~crowd, crowd] if crowd.any() else [~crowd]  # a crowd only if no object is left
    for d in np.flatnonzero((same & (ious >= IOUS[0])).any(axis=1)):
        reach = same[d] & (ious[d] >= IOUS[:, None]) & (~taken | can_repeat)
        for group in groups:
            options = np.where(reach & group, ious[d], -1.0)[:, ::-1]  # of equal ones the last
            best = len(crowd) - 1 - options.argmax(axis=1)
            is_new = (options.max(axis=1) >= 0) & (hit[d] < 0)
            hit[d, is_new] = best[is_new]
            taken[is_new, best[is_new]] = True
    return hit


def _overlaps(detections, annotations, image, task, sigmas):
    if not detections or not annotations:
        return np.zeros((len(detections), len(annotations)))
    if task == "keypoints":
        return _oks(detections, annotations, sigmas)
    crowd = [int(a.get("iscrowd", 0)) for a in annotations]
    if task == "bbox":
        boxes = ([d["bbox"] for d in detections], [a["bbox"] for a in annotations])
        return np.asarray(mask_util.iou(*(np.array(b, dtype=float) for b in boxes), crowd))
    masks = [to_rle(a["segmentation"], image) for a in annotations]
    return np.asarray(mask_util.iou([d["segmentation"] for d in detections], masks, crowd))


def to_rle(segmentation: list | dict, image: dict) -> dict:
    """Converts polygons or uncompressed RLE to compressed RLE."""
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        return segmentation
    rles = mask_util.frPyObjects(segmentation, image["height"], image["width"])
    return mask_util.merge(rles) if isinstance(rles, list) else rles


def _oks(detections, annotations, sigmas):
    """Returns object keypoint similarities, as COCO defines them, (D, G)."""
    found = np.array([d["keypoints"] for d in detections], dtype=float).reshape(
        -1, 1, len(sigmas), 3
    )
    true = np.array([a["keypoints"] for a in annotations], dtype=float).reshape(
        1, -1, len(sigmas), 3
    )
    delta = found[..., :2] - true[..., :2]
    seen = true[..., 2] > 0
    x, y, width, height = np.array([a["bbox"] for a in annotations], dtype=float).T
    low = np.stack([x - width, y - height], axis=-1)[None, :, None]
    high = np.stack([x + 2 * width, y + 2 * height], axis=-1)[None, :, None]
    # Without any annotated keypoint, the distance to a box of three times the size.
    outside = np.maximum(low - found[..., :2], 0) + np.maximum(found[..., :2] - high, 0)
    some = seen.any(axis=-1, keepdims=True)
    squares = (np.where(some[..., None], delta, outside) ** 2).sum(axis=-1)
    area = np.array([a["area"] for a in annotations], dtype=float)[None, :, None]
    errors = squares / (2 * np.array(sigmas)) ** 2 / (area + np.spacing(1)) / 2
    return np.average(np.exp(-errors), axis=-1, weights=np.broadcast_to(seen | ~some, errors.shape))
