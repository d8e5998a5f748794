"""Mended copies of annotations, as COCO's JSON, with a record of every change."""

import json
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from ..data.catalog import clean_boxes
from ..formats.problems import Problems
from .annotations import duplicates
from .reading import Objects, read


def write_fixed(name: str, folder: Path) -> str:
    """Writes FOLDER/<name>.json and <name>.changes.txt; the original files stay as they are.

    What training leaves out or corrects while it reads is left out or corrected in the copy: boxes
    that are none, reach out of their image or are there twice, names of files, ids. What only a
    person can decide, such as which class is right, stays as it is.

    Returns:
        a sentence on what was written.

    Raises:
        FileExistsError: the files are there already.
        ValueError: there are no boxes to mend.
    """
    kept, Problems.kept = Problems.kept, sys.maxsize
    try:
        dataset = read(name)
    finally:
        Problems.kept = kept
    if not dataset.is_readable or not dataset.things:
        raise ValueError(f"'{name}' has no boxes that could be mended. {dataset.error}")
    changes = [
        f"{check}: {example}. {dataset.found.checks[check].effect}"
        for check, examples in dataset.found.examples.items()
        for example in examples
    ]
    objects = Objects(dataset)
    for i, other in duplicates(objects).items():
        changes.append(f"box-duplicate: {objects.box(i)}, like {objects.number(other)}: removed")
        objects.annotations[i]["is_twin"] = True
    for record in dataset.records:
        annotations = [a for a in record.get("annotations", ()) if not a.pop("is_twin", False)]
        record["annotations"] = annotations
    records, reports = clean_boxes(dataset.records, examples=sys.maxsize)
    for report in reports:
        what, _, examples = report.partition(": ")
        changes += [f"{what.split(' ', 1)[1]}: {example}" for example in examples.split("; ")]
    files = [folder / f"{name}.json", folder / f"{name}.changes.txt"]
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} is there already; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    content = _coco(records, dataset.things, MetadataCatalog.get(name))
    files[0].write_text(json.dumps(content), encoding="utf-8")
    files[1].write_text("".join(f"{change}\n" for change in changes), encoding="utf-8")
    number = len(content["annotations"])
    return (
        f"{name}: {len(changes)} changes ({files[1]}), {number} annotations in {files[0]}. Its "
        f"images are named by their full paths: uv run tools/set_dataset.py {folder}"
    )


def _coco(records, names, metadata):
    """Returns dataset dicts as COCO's JSON, complete."""
    images, annotations = [], []
    keypoints = metadata.get("keypoint_names")
    for number, record in enumerate(records, start=1):
        image = {"id": number, "file_name": str(Path(record["file_name"]).absolute())}
        images.append(image | {"width": record["width"], "height": record["height"]})
        for annotation in record["annotations"]:
            box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
            entry = {"id": len(annotations) + 1, "image_id": number}
            entry |= {"category_id": annotation["category_id"] + 1, "bbox": list(map(float, box))}
            entry |= {"iscrowd": annotation.get("iscrowd", 0), "area": float(box[2] * box[3])}
            if mask := annotation.get("segmentation"):
                if isinstance(mask, dict):
                    counts = mask["counts"]
                    counts = counts.decode() if isinstance(counts, bytes) else counts
                    mask = {"size": list(mask["size"]), "counts": counts}
                    entry["area"] = float(mask_util.area(mask)) if isinstance(counts, str) else 0.0
                else:
                    entry["area"] = sum(map(_area, mask))
                entry["segmentation"] = mask
            if points := annotation.get("keypoints"):
                shifted = [float(v) - 0.5 * (i % 3 != 2) for i, v in enumerate(points)]
                entry["keypoints"] = shifted
                entry["num_keypoints"] = sum(v > 0 for v in shifted[2::3])
            annotations.append(entry)
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    if keypoints:
        for category in categories:
            category["keypoints"] = list(keypoints)
    return {"images": images, "annotations": annotations, "categories": categories}


def _area(polygon):
    x, y = np.array(polygon, dtype=float).reshape(-1, 2).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
