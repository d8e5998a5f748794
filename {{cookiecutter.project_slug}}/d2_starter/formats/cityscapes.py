"""Cityscapes, from its PNGs, without cityscapesscripts.

detectron2's loader of its instances imports a package that nobody has, at the commit of
pyproject.toml; that of its label maps needs files that are not in the download.
"""

from multiprocessing import Pool
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from PIL import Image

from ..data.catalog import existing
from ..data.label_maps import IGNORED, derived_label_maps, segments_to_annotations

CLASSES = [c for c in CITYSCAPES_CATEGORIES if c["trainId"] != IGNORED]
THINGS = [c for c in CLASSES if c["isthing"]]
# The id of an instance is its class * 1000 + a number; that of a group of them, just the class.
FACTOR = 1000


def load_instances(name: str, images: Path, labels: Path) -> list[dict]:
    """The dataset dicts, masks as RLE; groups of objects that cannot be told apart are left out.

    Args:
        name: of the data set, for messages.
        images, labels: folders of the cities' folders.
    """
    with Pool() as pool:
        return pool.starmap(_read_instances, _files(name, images, labels), chunksize=8)


def load_semantic(name: str, images: Path, labels: Path) -> list[dict]:
    """The dataset dicts with label maps of `CLASSES`, which are made on first use."""
    files = _files(name, images, labels)
    maps = derived_label_maps(
        f"{name}_semantic", [(f"{stem}_labelIds.png",) for _, stem in files], _label_map
    )
    return [
        {"file_name": image, "sem_seg_file_name": str(maps / Path(f"{stem}_labelIds.png").name)}
        for image, stem in files
    ]


def _files(name, images, labels):
    """Pairs of an image and what the names of its annotations start with."""
    found = sorted(existing(images, name).glob("*/*_leftImg8bit.png"))
    existing(labels, name)
    return [
        (str(p), str(labels / p.parent.name / p.name.replace("_leftImg8bit.png", "_gtFine")))
        for p in found
    ]


def _read_instances(image, stem):
    segments = np.asarray(Image.open(f"{stem}_instanceIds.png")).astype(np.int64)
    classes = {category["id"]: index for index, category in enumerate(THINGS)}
    instances = {
        segment: classes[segment // FACTOR]
        for segment in np.unique(segments).tolist()
        if segment // FACTOR in classes
    }
    return {
        "file_name": image,
        "image_id": Path(image).stem,
        "height": segments.shape[0],
        "width": segments.shape[1],
        "annotations": segments_to_annotations(segments, instances),
    }


def _label_map(file):
    table = np.full(256, IGNORED, dtype=np.uint8)
    for category in CLASSES:
        table[category["id"]] = category["trainId"]
    return table[np.asarray(Image.open(file))]
