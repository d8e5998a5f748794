"""Ground truth that is drawn: images whose pixels are the ids of segments or classes."""

import hashlib
import os
from collections.abc import Callable
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode
from PIL import Image

from .catalog import atomic_folder, cache_folder

IGNORED = 255  # the label of pixels that count for nothing


def derived_label_maps(
    name: str, jobs: list[tuple], convert: Callable[..., np.ndarray]
) -> list[str]:
    """Returns the label maps made from other files, which are made if they are not there yet.

    They appear in the cache, all at once, and are named like the files they are made from.

    Args:
        name: of the maps, one for each split and kind.
        jobs: for each map the arguments of `convert`, the file it is made from first. Other maps
            are made when one of these changes.
        convert: makes a map, (H, W) uint8. It is called in many processes.
    """
    stats = [(os.stat(job[0]).st_size, os.stat(job[0]).st_mtime_ns) for job in jobs]
    key = hashlib.sha256(repr((jobs, stats)).encode()).hexdigest()[:12]
    folder = cache_folder() / f"{name}-{key}"
    if not folder.exists():
        with atomic_folder(folder) as temporary, Pool() as pool:
            pool.starmap(_write, [(temporary, convert, job) for job in jobs], chunksize=16)
    return [str(folder / Path(job[0]).with_suffix(".png").name) for job in jobs]


def _write(folder, convert, job):
    Image.fromarray(convert(*job)).save(folder / Path(job[0]).with_suffix(".png").name)


def segments_to_annotations(segments: np.ndarray, categories: dict[int, int]) -> list[dict]:
    """Returns the annotations of drawn instances, their masks as RLE.

    Args:
        segments: (H, W) int, the id of the instance that a pixel belongs to.
        categories: the class index of each instance; other ids are no instances.
    """
    annotations = []
    for segment in np.intersect1d(np.unique(segments), list(categories)).tolist():
        rle = mask_util.encode(np.asfortranarray(segments == segment, dtype=np.uint8))
        annotations.append(
            {
                "bbox": mask_util.toBbox(rle).tolist(),
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": categories[segment],
                "segmentation": rle,
                "iscrowd": 0,
            }
        )
    return annotations
