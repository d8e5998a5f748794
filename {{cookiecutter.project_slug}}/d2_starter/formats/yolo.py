"""YOLO's format: one line for each object, in fractions of the image's width and height."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from detectron2.structures import BoxMode
from PIL import Image

from ..data.catalog import IMAGES, existing

ORIENTATION = 0x0112  # EXIF: how a camera was held; 5 to 8 mean on its side


def load_yolo(name: str, images: Path, classes: list[str]) -> list[dict]:
    """The dataset dicts of images with a text file each, which is missing if there is no object.

    A line is `class x y width height`, x and y of the center, or a polygon `class x y x y x y ...`.
    The size of an image is read from its file. Coordinates are rounded to 0.01 pixel: the files
    have about six digits.

    Args:
        name: of the data set, for messages.
        images: a folder, or a text file with a line for each image.

    Raises:
        FileNotFoundError: the folder or list is missing.
        ValueError: a line cannot be read, or its class is none of `classes`.
    """
    files = _image_files(existing(images, name))
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda file: _read(file, classes), files))


def class_names(name: str, file: Path) -> list[str]:
    """The `names` in a data.yaml, a list or a dict by id."""
    names = yaml.safe_load(existing(file, name).read_text(encoding="utf-8"))["names"]
    return [names[i] for i in sorted(names)] if isinstance(names, dict) else names


def yolo_files(images: Path) -> list[Path]:
    """The files and folders that `load_yolo` reads."""
    if images.is_dir():
        return [images, _labels(images / "any").parent]
    listed = _image_files(images) if images.exists() else []
    folders = {file.parent for file in listed} | {_labels(file).parent for file in listed}
    return [images, *sorted(folders)]


def _image_files(images):
    if images.is_dir():
        return sorted(p for p in images.iterdir() if p.suffix.lower() in IMAGES)
    lines = images.read_text(encoding="utf-8").split("\n")
    return [images.parent / line.strip() for line in lines if line.strip()]


def _labels(image: Path) -> Path:
    """The last folder of the name `images` becomes `labels`; else they are beside the image."""
    before, images, after = str(image).rpartition(f"{os.sep}images{os.sep}")
    labels = f"{before}{os.sep}labels{os.sep}{after}" if images else str(image)
    return Path(labels).with_suffix(".txt")


def _read(image, classes):
    record = {"file_name": str(image), "image_id": image.stem, "annotations": []}
    try:
        with Image.open(image) as opened:
            width, height = opened.size
            if opened.getexif().get(ORIENTATION, 1) >= 5:  # detectron2 turns the image upright
                width, height = height, width
            record |= {"height": height, "width": width}
    except OSError:
        pass  # it is found where it is read, or by tools/check_dataset.py before
    labels = _labels(image)
    lines = labels.read_text(encoding="utf-8").splitlines() if labels.exists() else []
    for number, line in enumerate(lines, start=1):
        if line.strip() and "width" in record:
            try:
                record["annotations"].append(_annotation(line, width, height, len(classes)))
            except ValueError as error:
                raise ValueError(
                    f"{labels}, line {number}: {line!r} cannot be used: {error}. It should be "
                    f"`class x y width height` or `class x y x y x y ...`, class from 0 to "
                    f"{len(classes) - 1} ({', '.join(classes[:3])}, ...)."
                ) from error
    return record


def _annotation(line, width, height, classes):
    first, *numbers = line.split()
    category, points = int(first), [float(number) for number in numbers]
    if not 0 <= category < classes:
        raise ValueError(f"there is no class {category}")
    if len(points) != 4 and (len(points) < 6 or len(points) % 2):
        raise ValueError(f"{len(points)} numbers are neither a box nor a polygon")
    annotation = {"bbox_mode": BoxMode.XYXY_ABS, "category_id": category, "iscrowd": 0}
    if len(points) == 4:
        x, y, w, h = points
        points = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    points = [round(v * size, 2) for v, size in zip(points, [width, height] * len(points))]
    if len(points) == 4:
        return annotation | {"bbox": points}
    xs, ys = points[::2], points[1::2]
    return annotation | {"bbox": [min(xs), min(ys), max(xs), max(ys)], "segmentation": [points]}
