"""The checks that look at one image: its file, its masks, its label map. They run in all cores."""

import hashlib
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_util
import shapely
from PIL import Image

from ..data.image import ORIENTATION, to_eight_bits
from ..formats.rle import decode

SIDE = 16  # of thumbnails, pixels
UNKNOWN = (math.nan,) * 4


class Job(NamedTuple):
    """Says what is to be checked of an image."""

    file: str | None  # None: not the file, annotations only
    size: tuple[int, int] | None  # width and height as annotated
    masks: list[tuple[int, list | dict]]  # number of the annotation in the image, its segmentation
    label_map: str | None
    classes: int  # of the label map
    ignore_label: int


class Result(NamedTuple):
    """Says how an image, its masks and its label map were found."""

    problems: list[tuple[str, int | None, str]]  # check, number of the annotation, what it is like
    content: str | None  # equal if the pixels are equal; None: there are none
    bounds: list[tuple[float, ...]]  # of each mask, XYXY; NaN where it has none
    labels: list[int]  # values that are in the label map
    thumbnail: bytes | None = None  # SIDE x SIDE gray pixels, to find images that look alike


def check_image(job: Job) -> Result:
    """Checks all that a job asks for. It raises nothing, whatever the files are like."""
    problems, content, labels, thumbnail = [], None, [], None
    if job.file is not None:
        content, size, thumbnail = _check_file(job, problems)
        if job.label_map is not None:
            labels = _check_label_map(job, size or job.size, problems)
    bounds = [_check_mask(number, mask, job.size, problems) for number, mask in job.masks]
    return Result(problems, content, bounds, labels, thumbnail)


def _check_file(job, problems):
    """A hash of the pixels, the upright image's (width, height), a thumbnail; None without."""
    if not os.path.isfile(job.file):
        problems.append(("image-missing", None, ""))
        return None, None, None
    if not os.path.getsize(job.file):
        problems.append(("image-empty", None, ""))
        return None, None, None
    check = "image-unreadable"
    try:
        with Image.open(job.file) as image:
            check = "image-truncated"
            image.load()
            orientation = _orientation(image)
            check = "image-unreadable"
            pixels = to_eight_bits(image).convert("RGB")
            thumbnail = pixels.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()
            pixels = pixels.tobytes()
    except Exception as error:  # Pillow has many kinds, and so has training
        problems.append((check, None, str(error).replace(job.file, "it")))
        return None, None, None
    if image.mode[0] in "IF":
        problems.append(("image-16-bit", None, f"Pillow calls its pixels {image.mode}"))
    upright = image.size[::-1] if orientation >= 5 else image.size
    _check_size(job.size, image.size, upright, orientation, problems)
    content = hashlib.blake2b(pixels, digest_size=16)
    content.update(repr((image.size, orientation)).encode())
    return content.hexdigest(), upright, thumbnail


def _check_size(annotated, unturned, upright, orientation, problems):
    text = f"annotated as {_text(annotated)}, it is {_text(upright)}"
    if annotated is not None and annotated != upright:
        is_unturned = annotated == unturned
        problems.append(("image-orientation-size" if is_unturned else "image-size", None, text))
    elif orientation > 1:
        problems.append(("image-orientation", None, f"its EXIF orientation is {orientation}"))


def _orientation(image):
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # detectron2, too, takes such an image as it is
        return 1
    return orientation if orientation in range(1, 9) else 1


def _check_label_map(job, size, problems):
    if not os.path.isfile(job.label_map):
        problems.append(("label-missing", None, f"there is no {job.label_map}"))
        return []
    try:
        with Image.open(job.label_map) as image:
            image.load()
    except Exception as error:
        problems.append(("label-unreadable", None, f"{job.label_map}: {error}"))
        return []
    name = Path(job.label_map).name
    if size is not None and image.size != size:
        text = f"{name} is {_text(image.size)}, the image {_text(size)}"
        problems.append(("label-size", None, text))
    if image.mode not in ("L", "P"):  # a palette does not matter
        problems.append(("label-mode", None, f"Pillow calls the pixels of {name} {image.mode}"))
        return []
    labels = np.flatnonzero(np.bincount(np.asarray(image).ravel())).tolist()
    wrong = [label for label in labels if label >= job.classes and label != job.ignore_label]
    if wrong:
        text = f"{name} has {', '.join(map(str, wrong[:5]))}{', ...' if wrong[5:] else ''}"
        problems.append(("label-value", None, f"{text}; classes are 0 to {job.classes - 1}"))
    return labels


def _check_mask(number, mask, size, problems):
    """The bounds of a mask, XYXY, NaN if it has none."""
    is_rle = isinstance(mask, dict)
    check, text, bounds = _check_rle(mask, size) if is_rle else _check_polygons(mask)
    if check:
        problems.append((check, number, text))
    return bounds


def _check_polygons(polygons):
    try:
        points = [np.array(polygon, dtype=np.float64).ravel() for polygon in polygons]
    except (TypeError, ValueError):
        return "mask-polygon", "it is not a list of lists of numbers", UNKNOWN
    for polygon in points:
        if len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            return "mask-polygon", f"a polygon is {_shortened(polygon)}", UNKNOWN
    if not points:
        return "mask-polygon", "it has no polygon", UNKNOWN
    points = [polygon.reshape(-1, 2) for polygon in points]
    everything = np.concatenate(points)
    bounds = (*everything.min(axis=0).tolist(), *everything.max(axis=0).tolist())
    outlines = shapely.polygons([shapely.linearrings(polygon) for polygon in points])
    is_valid = shapely.is_valid(outlines)
    if is_valid.all():
        return None, "", bounds
    return "mask-self-overlap", shapely.is_valid_reason(outlines[is_valid.argmin()]), bounds


def _check_rle(rle, size):
    height_width = rle.get("size")
    height_width = list(height_width) if isinstance(height_width, (list, tuple)) else []
    if len(height_width) != 2 or (size and height_width != [size[1], size[0]]):
        text = f"its size is {height_width}, the image's [height, width] {size and [*size[::-1]]}"
        return "mask-rle", text, UNKNOWN
    try:
        counts = rle["counts"]
        runs = list(counts) if isinstance(counts, (list, tuple)) else decode(counts)
        if not all(isinstance(run, int) and run >= 0 for run in runs):
            raise ValueError("they are not all whole numbers from 0 up")
        if sum(runs) != math.prod(height_width):
            raise ValueError(f"they add up to {sum(runs)}, not to {math.prod(height_width)}")
    except (KeyError, TypeError, ValueError) as error:
        return "mask-rle", f"its counts cannot be used: {error}", UNKNOWN
    # Only now: pycocotools reads beyond its memory if counts are wrong.
    if isinstance(counts, (list, tuple)):
        rle = mask_util.frPyObjects({"size": height_width, "counts": runs}, *height_width)
    if not mask_util.area(rle):
        return "mask-empty", "its run-length encoding has no pixel", UNKNOWN
    x, y, width, height = mask_util.toBbox(rle).tolist()
    return None, "", (x, y, x + width, y + height)


def _text(size):
    return f"{size[0]} x {size[1]}" if size else "unknown"


def _shortened(numbers):
    text = ", ".join(f"{number:g}" for number in numbers[:6])
    return f"[{text}{', ...' if len(numbers) > 6 else ''}]"
