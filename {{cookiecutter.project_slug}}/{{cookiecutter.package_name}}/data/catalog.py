"""detectron2's catalogs, with errors in words: registration, class names, clean boxes."""

import difflib
import logging
import os
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.colormap import colormap

logger = logging.getLogger(__name__)


def datasets_root() -> Path:
    """The folder of all data sets: `$DETECTRON2_DATASETS`, or `datasets` in the current folder."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def register(name: str, load: Callable[[], list[dict]], **metadata):
    """Registers a data set; again is harmless, and the last registration counts.

    Args:
        load: returns the dataset dicts. It is not called before someone asks for them.
        metadata: what evaluation and drawing need: `evaluator_type`, `thing_classes`, ...
    """
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    DatasetCatalog.register(name, lambda: drop_bad_boxes(load(), name))
    MetadataCatalog.get(name).set(**metadata)


def get_metadata(name: str) -> Metadata:
    """The metadata of a registered data set, with the names and colors of its classes.

    Raises:
        KeyError: there is no such data set; the message has the nearest names.
    """
    if name not in DatasetCatalog.list():
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3, cutoff=0.4)
        raise KeyError(
            f"data set '{name}' is not registered. Nearest names: {', '.join(near) or 'none'}. "
            "Data sets are registered in data/dataset.py and named in DATASETS.TRAIN and TEST."
        )
    metadata = MetadataCatalog.get(name)
    if not (metadata.get("thing_classes") or metadata.get("stuff_classes")):
        logging.disable(logging.WARNING)  # the loading that follows reports what it finds
        try:
            DatasetCatalog.get(name)  # functions that read class names from a file set them
        finally:
            logging.disable(logging.NOTSET)
    for kind in ("thing", "stuff"):
        names = metadata.get(f"{kind}_classes")
        if names and not metadata.get(f"{kind}_colors"):
            palette = cycle(colormap(rgb=True).astype(int).tolist())
            metadata.set(**{f"{kind}_colors": list(islice(palette, len(names)))})
    return metadata


def drop_bad_boxes(dataset_dicts: list[dict], name: str) -> list[dict]:
    """Clips boxes to their image, and drops those that are at most a pixel wide or high.

    Such boxes can make the losses NaN, and nothing can be found in them; a warning counts both.
    """
    clipped, dropped = [], []
    for record in dataset_dicts:
        kept = []
        for annotation in record.get("annotations", ()):
            if "width" not in record or annotation["bbox_mode"] == BoxMode.XYWHA_ABS:
                kept.append(annotation)  # no limits to compare with; rotated boxes may leave them
                continue
            box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            limits = np.array([record["width"], record["height"]] * 2, dtype=float)
            inside = np.clip(box, 0, limits)
            example = f"{record['file_name']} {[round(float(v), 1) for v in box]}"
            if min(inside[2] - inside[0], inside[3] - inside[1]) <= 1:
                dropped.append(example)
                continue
            if np.abs(inside - box).max() >= 1:  # less is rounding
                clipped.append(example)
                annotation["bbox"], annotation["bbox_mode"] = inside.tolist(), BoxMode.XYXY_ABS
            kept.append(annotation)
        if "annotations" in record:
            record["annotations"] = kept
    for what, examples in (("clipped to their image", clipped), ("dropped as empty", dropped)):
        if examples:
            logger.warning(
                "%s: %d boxes %s: %s%s",
                name, len(examples), what, "; ".join(examples[:3]), "; ..." if examples[3:] else "",
            )  # fmt: skip
    return dataset_dicts
