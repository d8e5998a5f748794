"""COCO's panoptic form: a PNG of segments for each image, their classes in a JSON file.

The records have `pan_seg_file_name` and `segments_info`; data/panoptic.py makes instances and label
maps of the PNGs.
"""

import re

from . import coco
from .base import Sources, Split
from .files import Tree, json_entries, plain
from .problems import Unusable

NEEDS = "a JSON file whose annotations have segments_info, and a folder of PNGs"


def find(tree: Tree) -> Sources:
    """Finds JSON files of panoptic segments, each with its folder of PNG files."""
    found = coco.find(tree, "coco_panoptic")
    for split, sources in found.items():
        for source in sources:
            file = source["annotations"]
            options = {"wanted": "panoptic|mask", "unwanted": ""}
            source["segments"] = coco.image_folder(tree, file, split, "file_name", **options)
            names = coco.names_in(tree.path(file))
            if not tree.has(f"{source['segments']}/{_png(names)}".lstrip("/")):
                source["segments"] = _png_folder(tree, _png(names), split) or source["segments"]
            if tree.path(source["images"]) == tree.path(source["segments"]):
                source["images"] = _image_folder(tree, names, split) or source["images"]
            other = file.replace("panoptic", "instances")
            source["instances"] = other if other != file and tree.has(other) else ""
    return found


def _png(names):
    return next((name for name in names if name.endswith(".png")), "")


def _png_folder(tree, name, split):
    found = [f for f in tree.folders() if name and tree.has(f"{f}/{name}".lstrip("/"))]
    return max(found, key=lambda f: coco.split_of(f) == split, default="")


def _image_folder(tree, names, split):
    stems = {name.rpartition(".")[0] for name in names}
    return max(
        (f for f in tree.folders() if not re.search("panoptic|mask|semantic", f.lower())),
        key=lambda f: (
            len({n.rpartition(".")[0] for n in tree.names(f)} & stems),
            coco.split_of(f) == split,
        ),
        default="",
    )


def read(split: Split):
    """Reads images, segments and categories."""
    path, folder = split.path("annotations"), split.source["images"]
    images, categories, annotations = {}, {}, []
    try:
        for key, entry in json_entries(path):
            if key == "images":
                images[entry["id"]] = entry
            elif key == "categories":
                categories[entry["id"]] = entry
            elif key == "annotations":
                annotations.append(entry)
        _read(split, folder, images, categories, annotations)
    except (AttributeError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {plain(error)}"
        raise Unusable(f"{path!a}: an entry is not as in COCO's panoptic JSON ({reason})") from None
    split.metadata |= {"panoptic_json": path, "panoptic_root": split.path("segments")}
    split.tasks = {"boxes", "masks", "panoptic", "semantic"}  # the project makes one of another


def _read(split, folder, images, categories, annotations):
    order = sorted(categories)
    things = [number for number in order if categories[number].get("isthing", 1)]
    stuff = [number for number in order if number not in things]
    split.classes = [str(categories[number]["name"]) for number in things]
    split.stuff = [str(categories[number]["name"]) for number in stuff]
    split.metadata["things"] = {number: i for i, number in enumerate(things)}
    split.metadata["stuff"] = {number: i for i, number in enumerate(stuff, start=1)}
    for annotation in sorted(annotations, key=lambda a: coco._order(a["image_id"])):
        if annotation["image_id"] not in images:
            text = f"{split.path('annotations')}: image_id {annotation['image_id']!r}"
            split.problems.add("annotation-without-image", text)
            continue
        image = images[annotation["image_id"]]
        file = split.image_file(image["file_name"], folder)
        size = (image.get(side) or 0 for side in ("width", "height"))
        record = split.add_image(file, image["id"], *size)
        record["pan_seg_file_name"] = split.tree.path(
            f"{split.source['segments']}/{annotation['file_name']}"
        )
        record["segments_info"] = segments = []
        for info in annotation["segments_info"]:
            if info["category_id"] not in categories:
                text = f"{file}: category_id {info['category_id']!r}"
                split.problems.add("category-unknown", text)
                continue
            crowd = int(info.get("iscrowd") or 0)
            whole = {"id": info["id"], "category_id": info["category_id"], "iscrowd": crowd}
            segments.append(whole)
            if split.is_light and info["category_id"] in things:  # else made of the PNG
                x, y, width, height = info.get("bbox") or (0, 0, 0, 0)
                name = str(categories[info["category_id"]]["name"])
                split.add_object(record, name, (x, y, x + width, y + height))
        split.metadata["objects"] = split.metadata.get("objects", 0) + len(segments)
