"""A table with a line for each box, whose header says its columns: Open Images', Kaggle's, ...

Known columns are those of COLUMNS, in any order and case. Without a header, lines are read as
those of RetinaNet's tables: image, x1, y1, x2, y2, class.
"""

import csv
import os
import re

from .base import Sources, Split, split_of
from .files import Tree, encoding_of, glance, plain
from .problems import Unusable

NEEDS = "a .csv whose header names an image, a class and xmin, ymin, xmax, ymax (or x, y, w, h)"
COLUMNS = {
    "image": "image filename file_name image_name image_id imageid image_path img_path path file",
    "class": "class class_name label labelname category category_name name",
    "x0": "xmin x1 x_min left xtl bbox_x1",
    "y0": "ymin y1 y_min top ytl bbox_y1",
    "x1": "xmax x2 x_max right xbr bbox_x2",
    "y1": "ymax y2 y_max bottom ybr bbox_y2",
    "x": "x bbox_x bx",
    "y": "y bbox_y by",
    "w": "w bbox_width bbox_w bw box_width",
    "h": "h bbox_height bbox_h bh box_height",
    "bbox": "bbox box",
    "crowd": "isgroupof iscrowd",
}
RETINANET = ["image", "x0", "y0", "x1", "y1", "class"]
MAX_LINE = 1 << 20


def columns(row: list[str]) -> list[str]:
    """Returns which of COLUMNS each column is, "" for others; empty if it has no boxes."""
    names = [re.sub(r"[\s-]", "_", name.strip().lstrip("\ufeff").lower()) for name in row]
    found = [next((c for c, n in COLUMNS.items() if name in n.split()), "") for name in names]
    for kind, name in (("w", "width"), ("h", "height")):  # else they are the image's
        if {"x", "y"} <= set(found) and kind not in found and name in names:
            found[names.index(name)] = kind
    boxes = ({"x0", "y0", "x1", "y1"}, {"x", "y", "w", "h"}, {"bbox"})
    if "image" in found and any(those <= set(found) for those in boxes):
        return found
    number = r"\s*[\d.]*\s*"
    if len(row) == 6 and all(re.fullmatch(number, value) for value in row[1:5]) and "." in row[0]:
        return RETINANET
    return []


def find(tree: Tree) -> Sources:
    """Finds tables whose header names columns of boxes."""
    found: Sources = {}
    for count, file in enumerate(tree.files(".csv")):
        if count == 50:
            break
        first = next(csv.reader(glance(tree.path(file))[:MAX_LINE].splitlines()[:1]), [])
        if columns(first):
            split = split_of(os.path.basename(file)) or split_of(file)
            source = {"annotations": file, "images": os.path.dirname(file)}
            found.setdefault(split, []).append(source)
    return found


def read(split: Split):
    """Reads a table, one object a line."""
    path = split.path("annotations")
    records: dict[str, dict] = {}
    csv.field_size_limit(MAX_LINE)
    try:
        with open(path, encoding=encoding_of(path), errors="replace", newline="") as file:
            rows = csv.reader(file)
            first = next(rows, [])
            names = columns(first)
            for row in [first] * (names is RETINANET):
                _read_row(split, records, names, row, 1)
            for number, row in enumerate(rows, start=2):
                if row:
                    _read_row(split, records, names, row, number)
    except csv.Error as error:
        raise Unusable(f"{path!a} is not a table: {plain(error)}") from None
    codes = _codes(split)
    for record in split.records:
        for annotation in record["annotations"]:
            name = annotation["category_id"]
            annotation["category_id"] = codes.get(name, name)


def _codes(split):
    """Returns {"/m/0199g": "Bicycle", ...}, if Open Images' table of them is there."""
    for file in Tree(split.tree.root).files(".csv"):
        if "class-descriptions" in file:
            with open(split.tree.path(file), encoding="utf-8-sig", newline="") as table:
                return {row[0]: row[1] for row in csv.reader(table) if len(row) >= 2}
    return {}


def _read_row(split, records, names, row, number):
    path = split.path("annotations")
    values = {name: value.strip() for name, value in zip(names, row, strict=False) if name}
    name = values.get("image", "")
    if not name:
        return split.problems.add("annotations-invalid", f"{path}, line {number}: no image")
    if name not in records:
        file = split.image_file(name, split.source["images"])
        records[name] = split.add_image(file, name)
    record, where = records[name], f"{path}, line {number}"
    try:
        box = _box(values, record)
    except ValueError:
        return split.problems.add("box-invalid", where)
    if not box:  # an image without objects
        return None
    label = values.get("class", "" if "class" in names else "object")
    before = len(record["annotations"])
    split.add_object(record, label, box, where=where)
    if values.get("crowd") == "1" and len(record["annotations"]) > before:
        record["annotations"][-1]["iscrowd"] = 1


def _box(values, record):
    """Returns XYXY in pixels; Open Images has shares of the image's size. None: there is none."""
    if "bbox" in values:
        found = re.findall(r"[-+.\deE]+", values["bbox"])
        x, y, w, h = map(float, found) if found else (None,) * 4
        return [x, y, x + w, y + h] if found else None
    texts = [values.get(key, "") for key in ("x0", "y0", "x1", "y1")]
    if "x" in values:
        texts = [values[key] for key in ("x", "y", "w", "h")]
    if not any(texts):
        return None
    x0, y0, x1, y1 = map(float, texts)
    if "x" in values:
        x1, y1 = x0 + x1, y0 + y1
    if max(abs(x0), abs(y0), abs(x1), abs(y1)) <= 1 and "width" in record:
        width, height = record["width"], record["height"]
        return [x0 * width, y0 * height, x1 * width, y1 * height]
    return [x0, y0, x1, y1]
