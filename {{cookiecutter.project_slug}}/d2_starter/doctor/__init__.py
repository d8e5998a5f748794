"""Checks datasets: what would stop a training, spoil it, or is not as one may think.

formats/problems.py and findings.py list all that can be found. The readers of formats/ go on after
mistakes; images.py looks at one image with its masks and its label map, annotations.py at all
annotations at once, pairs.py at two datasets. command.py is tools/check_dataset.py.
"""

import gc
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from .annotations import (
    check_boxes,
    check_classes,
    check_keypoints,
    check_masks,
    check_sizes,
    class_counts,
)
from .images import Job, check_image
from .pairs import compare
from .reading import Dataset, Model, Objects, read, read_model

POWERS = -4, 20  # of two, the bounds of sizes that are told apart
POOL_FROM = 200  # images; with fewer it takes longer to start other processes
# Findings with which detectron2's own loader of COCO files stops.
STOP_LOADING = {"annotations-invalid", "annotation-id-duplicate", "category-unknown"}
STOP_LOADING |= {"box-invalid", "box-missing", "mask-polygon", "mask-rle", "keypoints-invalid"}
COCO_DETECTIONS, COCO_SMALL = 100, 32  # an image; side of an area, pixels


def check(
    names: Iterable[str],
    experiment=None,
    with_images: bool = True,
    track: Callable[[Iterable, int, str], Iterable] = lambda iterable, total, name: iterable,
) -> dict:
    """Checks datasets, each and against each other.

    Args:
        names: registered datasets.
        experiment: to check against its model.
        with_images: whether image files are read, and not only annotations.
        track: passes on an iterable, and shows its progress.

    Returns:
        what tools/check_dataset.py prints as JSON.
    """
    model = read_model(experiment) if experiment is not None else None
    reports, datasets = {}, []
    try:
        for name in names:
            dataset = read(name)
            reports[name] = check_dataset(dataset, model, with_images, track)
            dataset.files = [record["file_name"] for record in dataset.records]
            dataset.records = []  # memory for the next one
            datasets.append(dataset)
    finally:
        gc.enable()
    report = {"datasets": reports, "findings": compare(datasets).as_list()}
    return report | ({"model": model._asdict()} if model else {})


def check_dataset(dataset: Dataset, model: Model | None, with_images, track) -> dict:
    """The report on one dataset; see `check`."""
    found = dataset.found
    report = {"images": len(dataset.records), "annotations": 0, "crowds": 0, "classes": {}}
    report |= {"images_with_class": {}, "object_sizes": {}}
    if dataset.is_readable:
        objects = Objects(dataset)
        results = _inspect(dataset, with_images, track)
        check_records(dataset, objects)
        check_classes(dataset, objects)
        is_usable = check_boxes(objects, found)
        check_images(dataset, objects, results)
        check_masks(objects, is_usable, results, model, found)
        check_keypoints(dataset, objects, is_usable, model)
        sizes = check_sizes(objects, is_usable, model, found)
        labels = check_labels(dataset, results) if with_images else {}
        report |= _numbers(dataset, objects, sizes, labels, model.anchors if model else [])
        report["coco_small"] = check_counts(dataset, objects, is_usable, sizes, model)
        dataset.counts = report["classes"]
    if dataset.error and not STOP_LOADING & found.counts.keys():  # else it says it again
        found.add("not-loadable", dataset.error)
    return report | {"findings": found.as_list()}


def _inspect(dataset, with_images, track):
    """The results of `check_image` for each record, in all cores."""
    jobs = (_job(dataset, record, with_images) for record in dataset.records)
    number = len(dataset.records)
    if number < POOL_FROM:
        return list(track(map(check_image, jobs), number, dataset.name))
    # Processes that are forked have what they need already; others would import PyTorch again.
    method = "fork" if sys.platform == "linux" else None
    with multiprocessing.get_context(method).Pool() as pool:
        return list(track(pool.imap(check_image, jobs, chunksize=32), number, dataset.name))


def _job(dataset, record, with_images):
    masks = [
        (number, annotation["segmentation"])
        for number, annotation in enumerate(record.get("annotations") or ())
        if annotation.get("segmentation") is not None
    ]
    return Job(
        file=record["file_name"] if with_images else None,
        size=(record["width"], record["height"]) if {"width", "height"} <= record.keys() else None,
        masks=masks,
        label_map=record.get("sem_seg_file_name"),
        classes=len(dataset.stuff),
        ignore_label=dataset.ignore_label,
    )


def check_records(dataset: Dataset, objects: Objects):
    """The list of images: none, doubled, or without an object."""
    found, records = dataset.found, dataset.records
    if not records:
        found.add("no-images", dataset.name)
    first = {}
    for record in records:
        file = os.path.abspath(record["file_name"])
        if first.setdefault(file, record) is not record:
            ids = f"ids {first[file].get('image_id')} and {record.get('image_id')}"
            found.add("image-listed-twice", f"{record['file_name']}: {ids}")
    ids = Counter(record["image_id"] for record in records if "image_id" in record)
    repeated = [record for record in records if ids[record.get("image_id")] > 1]
    found.add_all("image-id-duplicate", repeated, lambda r: f"{r['file_name']}: id {r['image_id']}")
    has_objects = np.bincount(objects.owners[~objects.is_crowd], minlength=len(records)) > 0
    has_labels = np.array(["sem_seg_file_name" in record for record in records], dtype=bool)
    empty = np.flatnonzero(~has_objects & ~has_labels)
    is_all = len(empty) == len(records)
    check = "no-annotations" if is_all else "image-without-annotations"
    found.add_all(check, empty, lambda i: records[i]["file_name"])


def check_images(dataset: Dataset, objects: Objects, results: list):
    """Collects what `check_image` found in files and masks; images that are there twice."""
    for i, (record, result) in enumerate(zip(dataset.records, results)):
        for check, number, text in result.problems:
            is_image = number is None
            what = record["file_name"] if is_image else objects.name(objects.starts[i] + number)
            dataset.found.add(check, f"{what}: {text}" if text else what)
        if result.thumbnail:
            dataset.thumbnails[record["file_name"]] = result.thumbnail
        content = result.content or os.path.abspath(record["file_name"])
        files = dataset.contents.setdefault(content, [])
        if record["file_name"] not in files:
            files.append(record["file_name"])
    repeated = [(files[0], f) for files in dataset.contents.values() for f in files[1:]]
    dataset.found.add_all("image-duplicate", repeated, " = ".join)


def check_labels(dataset: Dataset, results: list) -> dict[str, int]:
    """Label maps that are missing in some images, and classes that are in none.

    Returns:
        the number of images with each class.
    """
    records = dataset.records
    if not dataset.stuff or not any("sem_seg_file_name" in record for record in records):
        return {}
    without = [record["file_name"] for record in records if "sem_seg_file_name" not in record]
    dataset.found.add_all("label-missing", without, lambda f: f"{f} has no sem_seg_file_name")
    counts = Counter(label for result in results for label in result.labels)
    absent = [name for i, name in enumerate(dataset.stuff) if not counts[i]]
    dataset.found.add_all("label-class-absent", absent, lambda name: f"{dataset.name}: {name}")
    return {name: counts[i] for i, name in enumerate(dataset.stuff)}


def check_counts(dataset, objects, is_usable, sizes, model) -> list[float]:
    """Images with more objects than evaluations count; the share of those that COCO calls small.

    Returns:
        the share of small objects, as in the files, and as the model gets them; []: none.
    """
    found, is_object = dataset.found, ~objects.is_crowd
    numbers = np.bincount(objects.owners[is_object], minlength=len(dataset.records))
    limit = min(COCO_DETECTIONS, model.detections if model else COCO_DETECTIONS)
    found.add_all(
        "objects-many",
        np.flatnonzero(numbers > limit),
        lambda i: f"{dataset.records[i]['file_name']}: {numbers[i]} objects, {limit} are counted",
    )
    rows = np.flatnonzero(is_usable & is_object)
    if not len(rows):
        return []
    extents = objects.boxes[rows, 2:] - objects.boxes[rows, :2]
    is_small = np.sqrt(extents.prod(axis=1)) < COCO_SMALL
    resized = float((sizes < COCO_SMALL).mean())
    return [float(is_small.mean()), resized]


def _numbers(dataset, objects, sizes, labels, anchors):
    """The part of the report that counts."""
    report = {"annotations": len(objects.annotations), "crowds": int(objects.is_crowd.sum())}
    for key, per_image in (("classes", False), ("images_with_class", True)):
        counts = Counter()
        numbers = class_counts(dataset, objects, per_image).tolist()
        for name, number in zip(dataset.things, numbers):  # a name may be there twice
            counts[name] += number
        report[key] = dict(counts)
    report["images_with_class"] |= labels
    powers = np.floor(np.log2(sizes[np.isfinite(sizes)]))
    powers = Counter(powers.clip(*POWERS).astype(int).tolist())
    marks = [*powers, *np.floor(np.log2(anchors)).astype(int).tolist()] if powers else []
    steps = range(min(marks), max(marks) + 1) if marks else ()
    report["object_sizes"] = {f"{2**p:g}-{2 ** (p + 1):g}": powers[p] for p in steps}
    return report
