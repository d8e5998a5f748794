"""Several views of one image, tiles or its mirror image, and one result made of theirs."""

from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torchvision.ops import box_area

SAME = 0.5  # of the smaller box, that two boxes of one object have in common
CUT = 0.5  # what the score of a box counts whose object goes on beyond its tile


@dataclass(frozen=True)
class View:
    """A part of an image, in pixels; possibly flipped."""

    x: int
    y: int
    width: int
    height: int
    flipped: bool = False

    def cut(self, image: np.ndarray) -> np.ndarray:
        part = image[self.y : self.y + self.height, self.x : self.x + self.width]
        return np.ascontiguousarray(part[:, ::-1] if self.flipped else part)


def views(width: int, height: int, tile: int | None, overlap: float, mirror: bool) -> list[View]:
    """Returns the whole image, its tiles if it is larger than one, and each of them flipped.

    Args:
        tile: side of a tile in pixels; None for no tiles.
        overlap: share of a tile that the next one has too, at least.
    """
    parts = [View(0, 0, width, height)]
    if tile and max(width, height) > tile:
        parts += [
            View(x, y, min(tile, width), min(tile, height))
            for y in _starts(height, tile, overlap)
            for x in _starts(width, tile, overlap)
        ]
    if mirror:
        parts += [View(p.x, p.y, p.width, p.height, flipped=True) for p in parts]
    return parts


def _starts(length, tile, overlap):
    if length <= tile:
        return [0]
    number = int(np.ceil((length - tile) / (tile * (1 - overlap)))) + 1
    return np.linspace(0, length - tile, number).round().astype(int).tolist()


def merge(
    parts: list[View],
    found: list[Instances],
    width: int,
    height: int,
    keypoint_flips: list[int] | None = None,
) -> Instances:
    """Makes one result of those of an image's views.

    Of boxes of one class that have more than `SAME` of the smaller in common, the one with the
    highest score stays. One that is cut by the border of its tile counts less: where the object
    is seen whole, that box stays.

    Args:
        found: of each view, in its own pixels.
        keypoint_flips: which keypoint is which in the mirror.
    """
    moved = [_unmirrored(view, part, keypoint_flips) for view, part in zip(parts, found)]
    owners = torch.cat([torch.full((len(p),), i) for i, p in enumerate(moved)])
    indices = torch.cat([torch.arange(len(p)) for p in moved])
    offsets = torch.tensor([[v.x, v.y, v.x, v.y] for v in parts], dtype=torch.float32)[owners]
    boxes = torch.cat([p.pred_boxes.tensor for p in moved]) + offsets
    scores = torch.cat([p.scores for p in moved])
    classes = torch.cat([p.pred_classes for p in moved])
    is_cut = torch.cat([_is_cut(v, p, width, height) for v, p in zip(parts, moved)])
    kept = _suppress(boxes, scores * torch.where(is_cut, CUT, 1.0), classes)
    kept = kept[scores[kept].argsort(descending=True, stable=True)]

    merged = Instances((height, width))
    merged.pred_boxes = Boxes(boxes[kept])
    merged.scores, merged.pred_classes = scores[kept], classes[kept]
    pairs = list(zip(owners[kept].tolist(), indices[kept].tolist()))
    if moved[0].has("pred_masks"):
        masks = torch.zeros(len(kept), height, width, dtype=torch.bool)
        for mask, (owner, index) in zip(masks, pairs):
            v = parts[owner]
            mask[v.y : v.y + v.height, v.x : v.x + v.width] = moved[owner].pred_masks[index]
        merged.pred_masks = masks
    if moved[0].has("pred_keypoints"):
        shape = (0, *moved[0].pred_keypoints.shape[1:])
        points = [moved[o].pred_keypoints[i] for o, i in pairs]
        points = torch.stack(points) if points else torch.zeros(shape)
        points[:, :, :2] += offsets[kept][:, None, :2]
        merged.pred_keypoints = points
    return merged


def _unmirrored(view, found, keypoint_flips):
    if not view.flipped:
        return found
    found = Instances(found.image_size, **found.get_fields())
    left, top, right, bottom = found.pred_boxes.tensor.unbind(1)
    boxes = torch.stack([view.width - right, top, view.width - left, bottom], dim=1)
    found.pred_boxes = Boxes(boxes)
    if found.has("pred_masks"):
        found.pred_masks = found.pred_masks.flip(2)
    if found.has("pred_keypoints"):
        points = found.pred_keypoints.clone()
        points[:, :, 0] = view.width - points[:, :, 0]
        found.pred_keypoints = points[:, keypoint_flips] if keypoint_flips else points
    return found


def _is_cut(view, found, width, height):
    """Whether boxes touch a border of their view that is no border of the image."""
    left, top, right, bottom = found.pred_boxes.tensor.unbind(1)
    near = 1 + 0.005 * max(view.width, view.height)  # pixels: boxes end a little before it
    return (
        ((left < near) & (view.x > 0))
        | ((top < near) & (view.y > 0))
        | ((right > view.width - near) & (view.x + view.width < width))
        | ((bottom > view.height - near) & (view.y + view.height < height))
    )


def _suppress(boxes, ranks, classes):
    """Returns the indices of boxes that no box of a higher rank has the most of."""
    kept = []
    remaining = ranks.argsort(descending=True, stable=True)
    areas = box_area(boxes).clamp(min=1e-6)
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        corners = torch.maximum(boxes[best, :2], boxes[remaining, :2])
        sizes = (torch.minimum(boxes[best, 2:], boxes[remaining, 2:]) - corners).clamp(min=0)
        shared = sizes.prod(dim=1) / torch.minimum(areas[best], areas[remaining])
        remaining = remaining[(shared <= SAME) | (classes[remaining] != classes[best])]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.long)
