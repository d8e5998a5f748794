"""Pascal VOC's format with any classes, layouts and image types.

detectron2's own loader reads one layout, and .jpg alone.
"""

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from detectron2.structures import BoxMode
from PIL import Image

from ..data.catalog import IMAGES, existing


def load_voc(
    name: str, listed: Path | str, annotations: Path, images: Path, classes: list[str]
) -> list[dict]:
    """The dataset dicts of images with an XML file each, boxes in pixels, those of VOC minus 1.

    Args:
        name: of the data set, for messages.
        listed: text file with a line for each image, its name without extension first; or "" for
            all that have annotations.
        annotations, images: folders.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a file cannot be read, or has a class that is not in `classes`.
    """
    if listed:
        lines = existing(listed, name).read_text(encoding="utf-8").splitlines()
        stems = [line.split()[0] for line in lines if line.strip()]
    else:
        stems = [path.stem for path in _annotation_files(existing(annotations, name))]
    files = {}
    for entry in os.scandir(existing(images, name)):
        stem, extension = os.path.splitext(entry.name)
        if extension.lower() in IMAGES:
            files[stem] = entry.path
    return [
        _read(
            existing(annotations / f"{stem}.xml", name),
            # A missing image is found where it is read, or by tools/check_dataset.py before.
            files.get(stem, str(images / f"{stem}.jpg")),
            classes,
        )
        for stem in stems
    ]


def class_names(name: str, folders: Iterable[Path]) -> list[str]:
    """All classes in the annotations in some folders, sorted."""
    return sorted({found for folder in folders for found in _classes_in(existing(folder, name))})


def _read(file, image, classes):
    root = _parse(file)
    try:
        width, height = (root.findtext(f"size/{side}") for side in ("width", "height"))
        if width is None or height is None:
            width, height = Image.open(image).size
        return {
            "file_name": image,
            "image_id": file.stem,
            "height": int(height),
            "width": int(width),
            "annotations": [_annotation(element, classes) for element in root.iterfind("object")],
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be used: {error}. Each object needs a name out of {classes} and a "
            "bndbox with xmin, ymin, xmax and ymax."
        ) from error


def _annotation(element, classes):
    # VOC counts pixels from 1, and a box includes its last pixel.
    box = element.find("bndbox")
    x0, y0, x1, y1 = (float(box.find(side).text) for side in ("xmin", "ymin", "xmax", "ymax"))
    return {
        "bbox": [x0 - 1, y0 - 1, x1, y1],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": classes.index(element.find("name").text),
        "iscrowd": 0,
    }


@cache
def _classes_in(folder):
    files = _annotation_files(folder)
    return {e.text for file in files for e in _parse(file).iterfind("object/name")}


def _annotation_files(folder):
    return sorted(folder.glob("*.xml"))


def _parse(file):
    try:
        return ET.parse(file).getroot()
    except ET.ParseError as error:
        raise ValueError(f"{file} is not XML: {error}.") from error
