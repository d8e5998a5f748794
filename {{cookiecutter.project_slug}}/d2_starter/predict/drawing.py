"""Draws what a model finds; fast enough for videos, as detectron2's own is not."""

from functools import cache

import cv2
import matplotlib
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from PIL import Image, ImageDraw, ImageFont

SMALLEST = 640  # pixels: the long side of a picture is at least that
OPACITY = 0.45
VISIBLE = 0.05  # score of a keypoint


def draw(image: np.ndarray, output: Instances | dict, metadata: Metadata) -> np.ndarray:
    """Draws a prediction.

    Args:
        image: (H, W, 3) uint8, RGB; it is not changed.
        output: what a `Predictor` returns for it.

    Returns:
        (H * s, W * s, 3) uint8, RGB; s is 1, or so that small images have `SMALLEST` pixels.
    """
    height, width = image.shape[:2]
    scale = max(1.0, SMALLEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    enlarged = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) if scale > 1 else image
    picture = np.array(enlarged, order="C")
    labels = []
    output = {"instances": output} if isinstance(output, Instances) else output
    if "panoptic_seg" in output:
        segments, infos = output["panoptic_seg"]
        _draw_segments(picture, segments.cpu().numpy(), infos, metadata, labels)
    elif "sem_seg" in output:
        best = output["sem_seg"].argmax(dim=0).cpu().numpy()
        infos = [{"id": int(i), "category_id": int(i)} for i in np.unique(best)]
        _draw_segments(picture, best, infos, metadata, labels)
    else:
        _draw_instances(picture, output["instances"], metadata, scale, labels)
    return _write(picture, labels)


def color_of(index: int, metadata: Metadata, kind: str = "thing") -> tuple[int, int, int]:
    """Returns the color of a class in RGB."""
    known = metadata.get(f"{kind}_colors")
    if known and index < len(known):
        return tuple(int(v) for v in known[index])
    table = _colors()
    return table[index % len(table)]


@cache
def _colors():
    return [tuple(color) for color in colormap(rgb=True).astype(int).tolist()]


def _draw_instances(picture, found, metadata, scale, labels):
    height, width = picture.shape[:2]
    line = max(1, round(max(height, width) / 500))
    boxes = found.pred_boxes.tensor.numpy() * scale
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))  # the small ones on top
    colors = [color_of(c, metadata) for c in found.pred_classes.tolist()]
    scores = found.scores.tolist()
    for i in order.tolist():
        left, top, right, bottom = boxes[i].round().astype(int).tolist()
        if found.has("pred_masks"):
            _draw_mask(picture, found.pred_masks[i].numpy(), boxes[i], scale, colors[i], line)
        cv2.rectangle(picture, (left, top), (right, bottom), colors[i], line, cv2.LINE_AA)
        if found.has("pred_keypoints"):
            points = found.pred_keypoints[i].numpy() * [scale, scale, 1]
            _draw_keypoints(picture, points, metadata, line)
        labels.append((left, top, f"{found.names[i]} {scores[i]:.0%}", colors[i]))


def _draw_mask(picture, mask, box, scale, color, line):
    """Only in the part of the picture where the box is: a whole mask takes long."""
    x0, y0 = np.maximum(np.floor(box[:2] / scale).astype(int) - 1, 0)
    x1, y1 = np.ceil(box[2:] / scale).astype(int) + 1
    part = mask[y0:y1, x0:x1].astype(np.uint8)
    if not part.any():
        return
    x, y = round(x0 * scale), round(y0 * scale)
    place = picture[y : y + round(part.shape[0] * scale), x : x + round(part.shape[1] * scale)]
    if scale != 1:
        size = place.shape[1::-1]
        part = (cv2.resize(part * 255, size, interpolation=cv2.INTER_LINEAR) > 127).astype("u1")
    _blend(place, part.astype(bool), color)
    contours, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contours = [contour + [x, y] for contour in contours]
    cv2.drawContours(picture, contours, -1, color, line, cv2.LINE_AA)


def _blend(place, mask, color):
    place[mask] = (place[mask] * (1 - OPACITY) + np.array(color) * OPACITY).astype(np.uint8)


def _draw_keypoints(picture, points, metadata, line):
    names = metadata.get("keypoint_names") or []
    where = {n: tuple(p[:2].round().astype(int).tolist()) for n, p in zip(names, points)}
    is_seen = dict(zip(names, points[:, 2] > VISIBLE))
    for one, other, color in metadata.get("keypoint_connection_rules") or ():
        if is_seen.get(one) and is_seen.get(other):
            cv2.line(picture, where[one], where[other], tuple(color), line, cv2.LINE_AA)
    for i, (x, y, score) in enumerate(points):
        if score > VISIBLE:
            center = round(x), round(y)
            cv2.circle(picture, center, 2 * line + 1, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(picture, center, 2 * line, _colors()[i % len(_colors())], -1, cv2.LINE_AA)


def _draw_segments(picture, segments, infos, metadata, labels):
    height, width = picture.shape[:2]
    segments = cv2.resize(
        segments.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST
    ).astype(np.int64)
    for info in infos:
        mask = segments == info["id"]
        if not mask.any():
            continue
        kind = "thing" if info.get("isthing") else "stuff"
        color = color_of(info["category_id"], metadata, kind)
        names = metadata.get(f"{kind}_classes") or []
        _blend(picture, mask, color)
        # The label goes to the point that is farthest from the segment's border.
        inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        index = info["category_id"]
        name = names[index] if index < len(names) else str(index)
        if "score" in info:
            name = f"{name} {info['score']:.0%}"
        labels.append((int(x), int(y), name, color))


def _write(picture, labels):
    """Writes texts, each in a rectangle of its class's color, beside those that are there."""
    if not labels:
        return picture
    height, width = picture.shape[:2]
    font = _font(max(11, round(max(height, width) / 50)))
    image = Image.fromarray(picture)
    canvas = ImageDraw.Draw(image)
    taken = []
    for x, y, text, color in labels:
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        w, h = right - left + 6, bottom + 4
        x = max(0, min(x, width - w))
        for y in (y - h, y, y + h, y + 2 * h):  # noqa: B020  above its box, else below
            y = max(0, min(y, height - h))
            if not any(abs(y - b) < h and x < c and a < x + w for a, b, c in taken):
                break
        taken.append((x, y, x + w))
        canvas.rectangle((x, y, x + w, y + h), fill=color)
        is_light = np.dot(color, [0.299, 0.587, 0.114]) > 140
        canvas.text((x + 3, y + 1), text, font=font, fill="black" if is_light else "white")
    return np.asarray(image)


@cache
def _font(size):
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
