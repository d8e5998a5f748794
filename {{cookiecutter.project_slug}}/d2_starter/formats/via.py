"""VGG Image Annotator's JSON: rectangles, polygons, circles and ellipses."""

import os
from collections import Counter

from .base import Sources, Split, ellipse, split_of
from .files import Tree, plain, read_json
from .problems import Unusable

NEEDS = "VIA's JSON, whose images have filename and regions"
LABELS = ("label", "class", "class_name", "name", "category", "type")


def find(tree: Tree) -> Sources:
    """Finds the JSON files of the VGG Image Annotator."""
    found: Sources = {}
    for file, text in tree.glances.items():
        if '"shape_attributes"' in text and '"filename"' in text:
            split = split_of(os.path.basename(file)) or split_of(file)
            source = {"annotations": file, "images": os.path.dirname(file)}
            found.setdefault(split, []).append(source)
    return found


def read(split: Split):
    """Reads images and their regions."""
    path = split.path("annotations")
    data = read_json(path)
    data = data.get("_via_img_metadata", data) if isinstance(data, dict) else {}
    images = [image for image in data.values() if isinstance(image, dict) and "filename" in image]
    if not images:
        raise Unusable(f"{path!a} has no images as VIA's JSON has them")
    attribute = _attribute(images)
    for image in sorted(images, key=lambda image: str(image["filename"])):
        file = split.image_file(str(image["filename"]), split.source["images"])
        record = split.add_image(file, str(image["filename"]))
        for place, region in enumerate(_regions(image), start=1):
            where = f"{path}, {image['filename']}, region {place}"
            try:
                _read_region(split, record, region, attribute, where)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                split.problems.add("annotations-invalid", f"{where}: {plain(error)}")


def _regions(image):
    regions = image.get("regions") or []  # VIA 1 has a mapping
    return list(regions.values()) if isinstance(regions, dict) else regions


def _attribute(images):
    """Returns which attribute of regions is the class: one of LABELS, else the commonest."""
    keys = Counter(
        key
        for image in images
        for region in _regions(image)
        if isinstance(region, dict)
        for key in region.get("region_attributes") or {}
    )
    return next((key for key in LABELS if key in keys), max(keys, key=keys.get, default=""))


def _read_region(split, record, region, attribute, where):
    shape = region["shape_attributes"]
    name = (region.get("region_attributes") or {}).get(attribute, "object" if not attribute else "")
    if isinstance(name, dict):  # check boxes
        name = next((key for key, chosen in name.items() if chosen), "")
    if shape["name"] == "rect":
        x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
        split.add_object(record, name, [x, y, x + width, y + height], where=where)
    elif shape["name"] in ("polygon", "circle", "ellipse"):
        if shape["name"] == "polygon":
            pairs = zip(shape["all_points_x"], shape["all_points_y"], strict=True)
            polygon = [float(value) for pair in pairs for value in pair]
        else:
            rx, ry = (float(shape.get(key, shape.get("r"))) for key in ("rx", "ry"))
            polygon = ellipse(float(shape["cx"]), float(shape["cy"]), rx, ry)
        split.add_object(record, name, polygons=[polygon], where=where)
    else:
        split.problems.add("shape-unsupported", f"{where}: {plain(shape['name'])}")
