"""COCO's JSON of instances: boxes, masks as polygons or RLE, keypoints."""

import os
import re

from .base import SPLIT_WORDS, XYWH, Sources, Split, bounds, is_numbers, is_polygon, split_of
from .files import Tree, encoding_of, is_image, json_entries, plain, spread
from .problems import Unusable

NEEDS = "a JSON file with the keys images, annotations and categories"
KIND = "coco"
MAX_SIDE = 1 << 20  # pixels
WORDS = ("val", "valid", "validation", "dev", "test")


def kind_of(glance: str) -> str:
    """Returns coco, coco_panoptic, lvis or "": keys can be in any order, only parts are there."""
    if not glance.lstrip().startswith("{") or '"shapes"' in glance[:2000]:
        return ""
    if '"segments_info"' in glance:
        return "coco_panoptic"
    if '"coco_url"' in glance and '"neg_category_ids"' in glance:
        return "lvis"
    is_coco = '"category_id"' in glance or ('"images"' in glance and '"categories"' in glance)
    return "coco" if is_coco else ""


def find(tree: Tree, kind: str = KIND) -> Sources:
    """Finds the JSON files of a kind, preferably instances_*.json, then person_keypoints_*.json."""
    kinds = {file: kind_of(text) for file, text in tree.glances.items()}
    if tree.given and kind == "coco" and tree.given.endswith(".json") and not kinds[tree.given]:
        kinds[tree.given] = "coco" if "{" in tree.glances[tree.given][:9] else ""
    ranked: dict[str, dict[int, list[str]]] = {}
    for file in [file for file, found in kinds.items() if found == kind]:
        name = os.path.basename(file)
        rank = [name.startswith(family) for family in ("instances", "person_keypoints", "")]
        ranked.setdefault(_split(file), {}).setdefault(rank.index(True), []).append(file)
    found = {split: ranks[min(ranks)] for split, ranks in ranked.items()}
    if len(found.get("train", [])) == 1:
        for word in WORDS:
            if other := _other_split(tree, found["train"][0], word, kind):
                found.setdefault(split_of(word), [other])
    return {split: [_source(tree, file, split) for file in files] for split, files in found.items()}


def _split(file):
    return split_of(os.path.splitext(os.path.basename(file))[0]) or split_of(os.path.dirname(file))


def _other_split(tree, file, word, kind):
    """Returns the file named as this one for training, with another split in its name."""

    def renamed(name):
        return re.sub(rf"(?<![a-z])({SPLIT_WORDS['train']})(?![a-z])", word, name, flags=re.I)

    folder, name = os.path.split(file)
    for other in (
        os.path.join(folder, renamed(name)),
        os.path.join(renamed(folder), renamed(name)),
        os.path.join(renamed(folder), name),
    ):
        if other != file and tree.has(other):
            one = Tree(tree.root, other)
            if kind_of(one.glances[other]) == kind:
                return other


def _source(tree, file, split):
    return {"annotations": file, "images": image_folder(tree, file, _split(file) or split)}


def names_in(path: str, key: str = "file_name") -> list[str]:
    """Returns up to 2,000 of the names in a JSON file, from its start."""
    with open(path, encoding=encoding_of(path), errors="ignore") as file:
        return re.findall(rf'"{key}"\s*:\s*"([^"]+)"', file.read(1 << 20))[:2000]


def image_folder(tree: Tree, file: str, split: str, key="file_name", wanted="", unwanted="pan"):
    """Returns the folder that has most of the files named in a JSON file, likely ones first."""
    names = [name.replace("\\\\", "/") for name in names_in(tree.path(file), key)]
    if key == "coco_url":
        names = ["/".join(name.split("/")[-2:]) for name in names]
    images = [name for name in names if is_image(name)]
    sample = spread(images or names, 20)

    def fitness(folder):
        last = folder.lower()
        likely = bool(re.search(wanted, last)) and not (unwanted and re.search(unwanted, last))
        number = sum(tree.has(f"{folder}/{name}".lstrip("/")) for name in sample)
        return number, likely and split_of(last) == split, likely, -last.count("/")

    return max(tree.folders(), key=fitness)


def read(split: Split, kind: str = KIND):
    """Reads images, annotations and categories, in whatever order they are in the file."""
    path, folder = split.path("annotations"), split.source["images"]
    images: dict = {}
    categories: dict = {}
    objects: dict[object, list] = {}
    numbers = dict.fromkeys(("images", "annotations", "categories"), 0)
    # Whether COCO's own evaluation can read the file; else it gets what was read here.
    is_complete = encoding_of(path) == "utf-8"
    ids = set()
    for key, entry in json_entries(path):
        if key not in numbers:
            continue
        numbers[key] += 1
        try:
            if key == "annotations":
                image, annotation, is_whole = _annotation(split, entry, path)
                is_complete &= is_whole
                if (own := entry.get("id")) is not None:
                    if own in ids:
                        is_complete = False
                        split.problems.add("annotation-id-duplicate", f"{path}: id {own!r}")
                    ids.add(own)
                if annotation:
                    objects.setdefault(image, []).append(annotation)
            elif key == "images":
                own = entry["id"]
                if own in images:
                    name = _name(entry, kind)
                    text = f"{path}: id {own!r} of {images[own]['file_name']} and of {name}"
                    split.problems.add("image-id-duplicate", text)
                    continue
                is_complete &= bool(entry.get("width") and entry.get("height"))
                images[own] = _image(split, entry, folder, kind)
            else:
                if entry["id"] in categories:
                    raise Unusable(f"{path!a}: two categories have the id {entry['id']!a}")
                categories[entry["id"]] = entry | {"name": str(entry["name"])}
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            if isinstance(error, Unusable):
                raise
            reason = f"no {error}" if isinstance(error, KeyError) else plain(error)
            split.problems.add(
                "annotations-invalid", f"{path}: {key} number {numbers[key]}: {reason}"
            )
            is_complete = False
            if split.problems.counts["annotations-invalid"] > max(1000, sum(numbers.values()) // 2):
                raise Unusable(f"{path!a}: entries are not as in COCO's JSON: {reason}") from None
    for key, found in (("images", numbers["images"]), ("categories", categories)):
        if not found and (key == "images" or numbers["annotations"]):
            raise Unusable(
                f"{path!a} lacks the key '{key}', or it is empty; COCO's JSON has images,"
                " annotations and categories"
            )
    categories = dict(sorted(categories.items(), key=lambda item: _order(item[0])))
    _read_categories(split, categories)
    _join(split, images, objects, categories, path)
    split.metadata["is_complete"] = is_complete and "has_faults" not in split.metadata
    names = {number: category["name"] for number, category in categories.items()}
    split.metadata |= {"json_file": path, "image_root": split.path("images"), "categories": names}


def _order(value):
    return isinstance(value, str), value


def _name(entry, kind):
    """Returns an image's file; LVIS has addresses, which end with a folder and the file."""
    if kind == "lvis" and entry.get("coco_url"):
        return "/".join(entry["coco_url"].split("/")[-2:])
    if not entry["file_name"] or not isinstance(entry["file_name"], str):
        raise ValueError(f"the file_name {str(entry['file_name'])[:40]!r}")
    return entry["file_name"]


def _image(split, entry, folder, kind):
    hash(entry["id"])
    path = split.image_file(_name(entry, kind), folder)
    size = []
    for side in ("width", "height"):
        value = entry.get(side) or 0
        if not isinstance(value, int | float | str) or not 0 <= float(value) < MAX_SIDE:
            raise ValueError(f"the {side} {str(value)[:40]!r}")
        size.append(int(float(value)))
    record = split.add_image(path, entry["id"], *size)
    for key in ("not_exhaustive_category_ids", "neg_category_ids"):
        if kind == "lvis":
            record[key] = entry.get(key, [])
    return record


def _annotation(split, entry, path):
    """Returns the id of the image, the annotation, None if it is left out, and if it is whole."""
    image, crowd = entry["image_id"], int(entry.get("iscrowd") or 0)
    hash(image)
    box = entry.get("bbox")
    masks, is_rle, is_odd = entry.get("segmentation"), False, False
    if isinstance(masks, dict):
        is_rle = True
    elif masks:
        if is_odd := isinstance(masks, list) and not isinstance(masks[0], list):
            masks = [masks]  # one flat list
        whole = [polygon for polygon in masks if is_polygon(polygon)]
        if len(whole) < len(masks):
            is_odd = True
            text = f"{path}, annotation {entry.get('id')}: {str(masks)[:60]}"
            split.problems.add("mask-polygon", text)
            if not whole:  # as detectron2 does
                return image, None, False
        masks = whole
    has_box = isinstance(box, list) and len(box) == 4
    if not has_box and masks and not box:
        if is_rle:
            from .rle import bounds as rle_bounds

            x0, y0, x1, y1 = rle_bounds(masks)
        else:
            x0, y0, x1, y1 = bounds(masks)
        box = [x0, y0, x1 - x0, y1 - y0]
        text = f"{path}, annotation {entry.get('id')} of image {image}: {[round(v) for v in box]}"
        split.problems.add("box-from-mask", text)
    try:
        total = box[0] + box[1] + box[2] + box[3]
        is_box = len(box) == 4 and total - total == 0  # else it is infinite, or not a number
    except (IndexError, KeyError, TypeError):
        is_box = False
    if not is_box:
        text = f"{path}, annotation {entry.get('id')} of image {image}: bbox {str(box)[:40]}"
        split.problems.add("box-invalid" if box else "box-missing", text)
        return image, None, False
    category = entry["category_id"]
    hash(category)
    annotation = {"bbox": box, "bbox_mode": XYWH, "category_id": category, "iscrowd": crowd}
    if masks:
        annotation["segmentation"] = True if split.is_light else masks
    if split.keeps_ids and "id" in entry:
        annotation["id"] = entry["id"]
    if points := entry.get("keypoints"):
        annotation["keypoints"] = points
    is_whole = has_box and not is_odd and "area" in entry and "iscrowd" in entry and "id" in entry
    return image, annotation, is_whole and (not points or "num_keypoints" in entry)


def _read_categories(split, categories):
    seen = set()
    for category in categories.values():
        name = category["name"]
        if name in seen:
            split.problems.add("class-duplicate-name", repr(name))
            continue
        seen.add(name)
        split.classes.append(name)
        names = category.get("keypoints")
        if isinstance(names, list) and split.keypoints and names != split.keypoints:
            text = f"'{name}' has {names}, others have {split.keypoints}"
            split.problems.add("keypoints-names", text)
        if isinstance(names, list) and names and not split.keypoints:
            split.keypoints = [str(one) for one in names]
            pairs = category.get("skeleton") or []  # of numbers that start at 1
            split.skeleton = [
                (names[a - 1], names[b - 1])
                for a, b in pairs
                if 1 <= min(a, b) and max(a, b) <= len(names)
            ]


def _join(split, images, objects, categories, path):
    """Gives each image its annotations, with names of classes; keypoints as detectron2 has them."""
    named = {number: category["name"] for number, category in categories.items()}
    for image, annotations in objects.items():
        if image not in images:
            text = f"{path}: image_id {image!r}"
            split.problems.add_all("annotation-without-image", annotations, lambda _, t=text: t)
            continue
        for annotation in annotations:
            name = named.get(annotation["category_id"])
            if name is None:
                text = f"{path}, image {image!r}: category_id {annotation['category_id']!r}"
                split.problems.add("category-unknown", text)
                continue
            annotation["category_id"] = name
            if points := annotation.get("keypoints"):
                if split.keypoints and is_numbers(points, 3 * len(split.keypoints)):
                    # COCO counts pixels from their upper left corner, detectron2 from their middle.
                    shifted = [v + 0.5 * (i % 3 != 2) for i, v in enumerate(points)]
                    annotation["keypoints"] = shifted
                elif split.keypoints:
                    del annotation["keypoints"]
                    text = f"{path}, an object of image {image!r}: {str(points)[:40]}"
                    split.problems.add("keypoints-invalid", text)
                    split.metadata["has_faults"] = True
                else:
                    del annotation["keypoints"]
                    split.problems.counts["keypoints-unnamed"] = 1
                    split.problems.examples["keypoints-unnamed"] = [path]
            images[image]["annotations"].append(annotation)
    split.records.sort(key=lambda record: _order(record["image_id"]))
