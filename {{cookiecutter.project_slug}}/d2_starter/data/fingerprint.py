"""Fingerprints of datasets: whether two runs have seen the same images and annotations."""

import hashlib
import json
from collections import Counter
from pathlib import Path

FILES = ("file_name", "sem_seg_file_name", "pan_seg_file_name")


def fingerprint(dataset_dicts: list[dict]) -> str:
    """Returns 16 hexadecimal digits that change when an image or an annotation does.

    Images count by their file names without folders, so that a moved dataset stays the same. Label
    maps count by name and size in bytes. The contents of images are not read.
    """
    digest = hashlib.sha256()
    for record in dataset_dicts:
        content = {key: value for key, value in record.items() if key not in FILES}
        for key in FILES:
            if record.get(key):
                path = Path(record[key])
                is_label = key != "file_name" and path.exists()
                content[key] = [path.name, path.stat().st_size if is_label else None]
        digest.update(json.dumps(content, sort_keys=True, default=repr).encode())
    return digest.hexdigest()[:16]


def describe(dataset_dicts: list[dict], thing_classes: list[str]) -> dict:
    """Returns {"images", "without_objects", "objects": {class: number}, "fingerprint"}."""
    objects = [[a["category_id"] for a in r.get("annotations", ())] for r in dataset_dicts]
    counts = Counter(category for image in objects for category in image)
    return {
        "images": len(dataset_dicts),
        "without_objects": sum(not image for image in objects),
        "objects": {name: counts[index] for index, name in enumerate(thing_classes)},
        "fingerprint": fingerprint(dataset_dicts),
    }
