"""Compares an exported file with the model that it was made of: numbers, metrics, time."""

import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

METRICS = ("AP", "PQ", "mIoU")  # what decides, of each task
MOST = 0.1  # by how much they may differ


@dataclass
class Comparison:
    """Differences over some images.

    Attributes:
        boxes: largest difference of a box's side, in pixels; None without boxes.
        scores: largest difference of a score, or of a pixel's logit.
        pixels: largest share of a mask's pixels, or of an image's, that differ.
        other: images in which the number of objects or their classes differ.
        speed: how often the file runs in the time of the model.
    """

    images: int
    boxes: float = 0.0
    scores: float = 0.0
    pixels: float = 0.0
    other: int = 0
    speed: float = 0.0


def compare(model: nn.Module, exported: nn.Module, inputs: list[dict]) -> Comparison:
    """Runs both on the same images, by turns."""
    result, times = Comparison(len(inputs)), ([], [])
    with torch.no_grad():
        for one in inputs[:3]:  # the first calls take longer
            model([one]), exported([one])
        for one in inputs:
            outputs = []
            for run, took in zip((model, exported), times):
                start = time.perf_counter()
                outputs += run([one])
                took.append(time.perf_counter() - start)
            _add(result, *outputs)
    result.speed = median(a / b for a, b in zip(*times))
    return result


def _add(result, before, after):
    if "sem_seg" in before:
        a, b = before["sem_seg"], after["sem_seg"]
        result.scores = max(result.scores, (a - b).abs().max().item())
        different = (a.argmax(dim=0) != b.argmax(dim=0)).float().mean().item()
        result.pixels = max(result.pixels, different)
    if "instances" not in before:
        return
    a, b = before["instances"], after["instances"]
    if len(a) != len(b) or not torch.equal(a.pred_classes, b.pred_classes):
        result.other += 1
        return
    if not len(a):
        return
    boxes = (a.pred_boxes.tensor - b.pred_boxes.tensor).abs().max().item()
    result.boxes = max(result.boxes, boxes)
    result.scores = max(result.scores, (a.scores - b.scores).abs().max().item())
    if a.has("pred_masks"):
        different = (a.pred_masks ^ b.pred_masks).float().mean(dim=(1, 2)).max().item()
        result.pixels = max(result.pixels, different)
    if a.has("pred_keypoints"):
        points = (a.pred_keypoints - b.pred_keypoints)[:, :, :2].abs().max().item()
        result.boxes = max(result.boxes, points)


def deciding(metrics: dict[str, float]) -> dict[str, float]:
    """Returns the metrics that decide: AP of all that is predicted, PQ, mIoU."""
    return {k: v for k, v in metrics.items() if k.rpartition("/")[2] in METRICS}


def worse(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Returns sentences on each deciding metric that differs by more than `MOST`."""
    return [
        f"{name} is {after.get(name, float('nan')):.2f} instead of {value:.2f}"
        for name, value in deciding(before).items()
        if not abs(after.get(name, float("nan")) - value) <= MOST
    ]
