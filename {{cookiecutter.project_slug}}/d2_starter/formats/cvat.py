"""CVAT for images 1.1: one XML file with boxes, polygons, ellipses and skeletons."""

import os
import re
import xml.etree.ElementTree as ElementTree

from .base import Sources, Split, bounds, ellipse, split_of
from .files import Tree, glance, plain
from .problems import Unusable

NEEDS = "CVAT's annotations.xml (CVAT for images 1.1)"


def find(tree: Tree) -> Sources:
    """Finds XML files of many images; their subsets are splits."""
    found: Sources = {}
    for count, file in enumerate(tree.files(".xml")):
        if count == 50:
            break
        text = glance(tree.path(file))
        if not re.search(r"<annotations>[\s\S]*<image\s", text):
            continue
        subsets = dict.fromkeys(re.findall(r'<image [^>]*subset="([^"]*)"', text)) or {"": None}
        for subset in subsets:
            split = split_of(subset) or split_of(file)
            folder = os.path.dirname(file)
            source = {"annotations": file, "subset": subset, "images": folder}
            found.setdefault(split, []).append(source)
    return found


def read(split: Split):
    """Reads images with boxes, polygons, masks and points."""
    path = split.path("annotations")
    with open(path, "rb") as file:
        if b"<!ENTITY" in file.read(1 << 20):
            raise Unusable(f"{path!a} declares entities, which annotations do not need")
    try:
        for _, element in ElementTree.iterparse(path):
            if element.tag == "image":
                if element.get("subset", "") == split.source["subset"]:
                    _read_image(split, element, path)
                element.clear()
    except ElementTree.ParseError as error:
        raise Unusable(f"{path!a} is not XML: {plain(error)}") from None


def _read_image(split, element, path):
    name = element.get("name", "")
    folder = split.source["images"]
    number = element.get("id", "")
    try:
        size = [int(float(element.get(side) or 0)) for side in ("width", "height")]
    except ValueError:
        size = [0, 0]
    image_id = int(number) if number.isdigit() else name
    record = split.add_image(split.image_file(name, folder), image_id, *size)
    for place, shape in enumerate(element, start=1):
        where = f"{path}, {name}, shape {place}"
        try:
            _read_shape(split, record, shape, where)
        except (KeyError, TypeError, ValueError) as error:
            split.problems.add("annotations-invalid", f"{where}: {plain(error)}")


def _points(shape):
    return [float(v) for pair in shape.attrib["points"].split(";") for v in pair.split(",")]


def _read_shape(split, record, shape, where):
    label, at = shape.get("label"), shape.attrib
    if float(at.get("rotation") or 0) % 360:
        split.problems.add("box-rotated", where)
    elif shape.tag == "box":
        box = [float(at[side]) for side in ("xtl", "ytl", "xbr", "ybr")]
        split.add_object(record, label, box, where=where)
    elif shape.tag == "polygon":
        split.add_object(record, label, polygons=[_points(shape)], where=where)
    elif shape.tag == "ellipse":
        polygon = ellipse(*(float(at[key]) for key in ("cx", "cy", "rx", "ry")))
        split.add_object(record, label, polygons=[polygon], where=where)
    elif shape.tag == "mask":
        x, y, width, height = (float(at[key]) for key in ("left", "top", "width", "height"))
        split.problems.add("shape-unsupported", f"{where}: mask, read as its box")
        split.add_object(record, label, [x, y, x + width, y + height], where=where)
    elif shape.tag == "skeleton":
        points = {}
        for point in shape.iterfind("points"):
            if point.get("outside") != "1":
                x, y = _points(point)[:2]
                points[point.get("label")] = (x + 0.5, y + 0.5, 1 + (point.get("occluded") != "1"))
        flat = [value - 0.5 for x, y, _ in points.values() for value in (x, y)]
        split.add_object(record, label, bounds([flat]) if flat else None, (), points, where)
    elif shape.tag != "tag":  # which says something of the whole image
        split.problems.add("shape-unsupported", f"{where}: {plain(shape.tag)}")
