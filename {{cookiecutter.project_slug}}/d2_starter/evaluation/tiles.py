"""Predictions for a large image from those for its tiles, see `data.tiles.TileMapper`."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

# Evaluate and predict large images in tiles, each resized as test images are: TEST.TILES, in capital
# letters, and in Python configs dataloader.test.tiles.
TILES = {
    "enabled": False,
    # Height and width of a tile in the image as it is in the file, pixels.
    "size": [1024, 1024],
    # Pixels that neighbours share; at least the length of most objects: one tile then has it whole.
    "overlap": 128,
    # Predict the whole image too, for objects larger than a tile.
    "whole_image": True,
    # Detections of one class, of two tiles, are one object if their boxes ("box") or masks ("mask")
    # share more than nms_thresh of their union, or of one that is cut by its tile's border.
    "nms_by": "box",
    "nms_thresh": 0.5,
}


def check_tiles(tiles: dict, key: str):
    """Checks values for what `TILES` has.

    Args:
        key: what the config calls them.

    Raises:
        ValueError: an unknown name, or a value that is out of its range.
    """
    unknown = sorted(tiles.keys() - TILES.keys())
    if unknown:
        raise ValueError(f"{key} has no {', '.join(unknown)}, but {', '.join(TILES)}.")
    size, overlap, by, threshold = (tiles[n] for n in ("size", "overlap", "nms_by", "nms_thresh"))
    if len(size) != 2 or not 0 <= overlap < min(size):
        raise ValueError(
            f"{key}: the size is {size}, the overlap {overlap}. Give a height and a width, and "
            "fewer pixels of overlap than those."
        )
    if by not in ("box", "mask") or not 0 < threshold <= 1:
        raise ValueError(
            f"{key}: nms_by is '{by}', nms_thresh {threshold}. Give box or mask, and a share from "
            "above 0 up to 1."
        )


class TilePredictor:
    """Predicts the tiles of each image, and puts together what is found in them.

    An object that several tiles show is kept once. Two detections of one class, in different tiles,
    are one object if they share more than `threshold` of their union, or of one that a tile's
    border cuts. The one with the lower score goes; the score of one that is cut counts half. Detections in
    one tile are left to the model's own suppression.

    Label maps (`sem_seg`) are averaged where tiles overlap. Panoptic segments cannot be merged.
    """

    def __init__(
        self,
        predict: Callable[[list[dict]], list[dict]],
        threshold: float = 0.5,
        by: str = "box",
        max_detections: int = 100,
        batch_size: int = 1,
    ):
        """
        Args:
            predict: the model, or what else predicts a batch of inputs.
            threshold: overlap from which two detections are one object, from 0 to 1.
            by: whether "box" or "mask" overlaps.
            max_detections: the best so many in an image are kept.
            batch_size: tiles that are predicted at once, if they have one size.
        """
        self.predict, self.threshold, self.by = predict, threshold, by
        self.max_detections, self.batch_size = max_detections, batch_size

    def __call__(self, images: list[dict]) -> list[dict]:
        """
        Args:
            images: of `TileMapper`; others are predicted as they are.
        """
        return [
            self._predict_tiles(image) if "tiles" in image else self.predict([image])[0]
            for image in images
        ]

    def _predict_tiles(self, image):
        outputs, batch = [], []
        for tile in image["tiles"]:
            if batch and (
                len(batch) == self.batch_size or tile["image"].shape != batch[0]["image"].shape
            ):
                outputs += self.predict(batch)
                batch = []
            batch.append(tile)
        outputs += self.predict(batch)
        kinds = set(outputs[0])
        if kinds - {"instances", "sem_seg"}:
            raise ValueError(
                f"the model predicts {', '.join(sorted(kinds))}. Tiles can be merged of instances "
                "and sem_seg only. Set TEST.TILES.ENABLED False."
            )
        size, places = (image["height"], image["width"]), [t["tile"] for t in image["tiles"]]
        merged = {}
        if "instances" in kinds:
            merged["instances"] = self.merge([o["instances"] for o in outputs], places, size)
        if "sem_seg" in kinds:
            merged["sem_seg"] = merge_sem_seg([o["sem_seg"] for o in outputs], places, size)
        return merged

    def merge(
        self, found: list[Instances], places: Sequence[tuple[int, int, int, int]], size
    ) -> Instances:
        """Returns the instances of the whole image.

        Args:
            found: in each tile, in pixels of the tile.
            places: the tiles, (x0, y0, x1, y1) in pixels of the image.
            size: height and width of the image.
        """
        boxes, tiles, is_cut = [], [], []
        for number, (instances, place) in enumerate(zip(found, places)):
            inside = instances.pred_boxes.tensor.cpu().numpy()
            boxes.append(inside + np.array([place[0], place[1]] * 2))
            tiles.append(np.full(len(inside), number))
            is_cut.append(_is_cut(inside, place, size))
        boxes, tiles, is_cut = (np.concatenate(values) for values in (boxes, tiles, is_cut))
        scores = torch.cat([instances.scores for instances in found]).cpu().numpy()
        classes = torch.cat([instances.pred_classes for instances in found]).cpu().numpy()
        masks = None
        if found[0].has("pred_masks"):
            masks = PlacedMasks(
                [m for instances in found for m in instances.pred_masks],
                [places[tile] for tile in tiles],
                size,
            )
        by_masks = masks if self.by == "mask" else None
        keep = suppress(boxes, scores, classes, tiles, is_cut, self.threshold, by_masks)
        keep = keep[np.argsort(-scores[keep], kind="stable")][: self.max_detections]
        return _merged(found, size, boxes, tiles, keep, masks, places)


def _merged(found, size, boxes, tiles, keep, masks, places):
    device = found[0].scores.device
    index = torch.as_tensor(keep, device=device)
    result = Instances(tuple(size))
    for name in found[0].get_fields():
        if name == "pred_boxes":
            result.pred_boxes = Boxes(
                torch.as_tensor(boxes[keep], dtype=torch.float32, device=device)
            )
        elif name == "pred_masks":
            result.pred_masks = masks[keep]
        else:
            values = torch.cat([getattr(instances, name) for instances in found])[index]
            if name == "pred_keypoints":
                corners = np.array([places[tile][:2] for tile in tiles[keep]]).reshape(-1, 1, 2)
                values[:, :, :2] += torch.as_tensor(corners, device=device)
            if name != "pred_keypoint_heatmaps":
                result.set(name, values)
    return result


def _is_cut(boxes, place, size, margin=2):
    """Whether boxes reach to a border of their tile that is no border of the image."""
    x0, y0, x1, y1 = place
    inner = [x0 > 0, y0 > 0, x1 < size[1], y1 < size[0]]
    distances = np.column_stack(
        [boxes[:, 0], boxes[:, 1], x1 - x0 - boxes[:, 2], y1 - y0 - boxes[:, 3]]
    )
    return ((distances < margin) & inner).any(axis=1)


def suppress(boxes, scores, classes, tiles, is_cut, threshold, masks=None) -> np.ndarray:
    """Returns the indices of the detections that are kept, see `TilePredictor`.

    Args:
        boxes: (N, 4), XYXY.
        scores, classes, tiles, is_cut: (N,).
        masks: `PlacedMasks`, if they are compared instead of the boxes.
    """
    order = np.argsort(-scores * np.where(is_cut, 0.5, 1), kind="stable")
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = []
    for i in order:
        others = np.array(
            [j for j in kept if classes[j] == classes[i] and tiles[j] != tiles[i]], int
        )
        low = np.maximum(boxes[i, :2], boxes[others, :2])
        high = np.minimum(boxes[i, 2:], boxes[others, 2:])
        shared = (high - low).clip(0).prod(axis=1)
        area, other_areas = areas[i], areas[others]
        if masks is not None:
            others, low, high = (values[shared > 0] for values in (others, low, high))
            shared, area, other_areas = masks.overlaps(i, others)
        whole = area if is_cut[i] else area + other_areas - shared
        if not (shared > threshold * np.maximum(whole, 1e-9)).any():
            kept.append(i)
    return np.array(kept, int)


class PlacedMasks:
    """Masks of an image, each stored for its tile alone: all of a large image would be gigabytes.

    As a tensor (N, H, W) it can be indexed and iterated over; each mask is a tensor (H, W).
    """

    def __init__(self, masks: list[torch.Tensor], places: list[tuple], size: tuple[int, int]):
        self.masks, self.places, self.size = masks, places, tuple(size)

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, index):
        if isinstance(index, (int, np.integer)):
            x0, y0, x1, y1 = self.places[index]
            mask = torch.zeros(self.size, dtype=torch.bool, device=self.masks[index].device)
            mask[y0:y1, x0:x1] = self.masks[index]
            return mask
        if isinstance(index, slice):
            chosen = range(len(self))[index]
        else:
            chosen = np.arange(len(self))[torch.as_tensor(index).cpu().numpy()].tolist()
        return PlacedMasks(
            [self.masks[i] for i in chosen], [self.places[i] for i in chosen], self.size
        )

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def to(self, *args, **kwargs):
        return PlacedMasks([m.to(*args, **kwargs) for m in self.masks], self.places, self.size)

    def overlaps(self, i: int, others: Sequence[int]):
        """Returns pixels: shared by mask i and each other (K,), of i, and of the others (K,)."""
        x0, y0, x1, y1 = self.places[i]
        shared = []
        for j in others:
            left, top = max(x0, self.places[j][0]), max(y0, self.places[j][1])
            right, bottom = min(x1, self.places[j][2]), min(y1, self.places[j][3])
            mine, other = (
                self.masks[k][
                    top - self.places[k][1] : max(top, bottom) - self.places[k][1],
                    left - self.places[k][0] : max(left, right) - self.places[k][0],
                ]
                for k in (i, j)
            )
            shared.append(float((mine & other).sum()))
        areas = [float(self.masks[j].sum()) for j in others]
        return np.array(shared), float(self.masks[i].sum()), np.array(areas)


def merge_sem_seg(scores: list[torch.Tensor], places, size) -> torch.Tensor:
    """Returns (C, H, W), the mean of the scores (C, h, w) of the tiles."""
    total = scores[0].new_zeros(scores[0].shape[0], *size)
    number = scores[0].new_zeros(size)
    for values, (x0, y0, x1, y1) in zip(scores, places):
        total[:, y0:y1, x0:x1] += values
        number[y0:y1, x0:x1] += 1
    return total / number
