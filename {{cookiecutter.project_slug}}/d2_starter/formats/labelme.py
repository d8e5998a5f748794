"""labelme's JSON, one file an image: rectangles, polygons, circles; points that share a group."""

import math
import os

from .base import Sources, Split, ellipse, folders_by_split
from .files import Tree, plain, read_json, stem
from .problems import Unusable

NEEDS = "labelme's JSON files, one per image, with shapes and imagePath"


def find(tree: Tree) -> Sources:
    """Finds folders of JSON files, one an image."""
    is_labelme = [
        f for f, text in tree.glances.items() if '"shapes"' in text and '"imagePath"' in text
    ]
    found = folders_by_split(dict.fromkeys(map(os.path.dirname, is_labelme)))
    return {split: [{"annotations": folders}] for split, folders in found.items()}


def read(split: Split):
    """Reads the JSON files of a split."""
    for folder in split.source["annotations"]:
        names = [name for name in split.tree.names(folder) if name.lower().endswith(".json")]
        for name in names:
            path = split.tree.path(f"{folder}/{name}")
            try:
                _read_one(split, folder, name, path, read_json(path))
            except (
                AttributeError,
                IndexError,
                KeyError,
                OverflowError,
                TypeError,
                ValueError,
            ) as e:
                reason = f"no {e}" if isinstance(e, KeyError) else plain(e)
                split.problems.add("annotations-invalid", f"{path}: {reason}")
    if not split.records and split.problems.counts["annotations-invalid"]:
        raise Unusable(split.problems.examples["annotations-invalid"][0])


def _read_one(split, folder, name, path, data):
    image = split.image_file(data["imagePath"] or stem(name), folder)
    size = (data.get(key) or 0 for key in ("imageWidth", "imageHeight"))
    record = split.add_image(image, f"{folder}/{stem(name)}".lstrip("/"), *size)
    groups: dict = {}
    for place, shape in enumerate(data["shapes"], start=1):
        points = [(float(x), float(y)) for x, y in shape["points"]]
        kind, label, group = (
            shape.get("shape_type", "polygon"),
            shape["label"],
            shape.get("group_id"),
        )
        where = f"{path}, shape {place}"
        key = (group, None if kind == "point" else label) if group is not None else place
        if kind == "point":
            groups.setdefault((group, None), {})[label] = (
                points[0][0] + 0.5,
                points[0][1] + 0.5,
                2,
            )
            continue
        if kind in ("rectangle", "mask"):
            (x0, y0), (x1, y1) = points[:2]
            box = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
            polygons = []
            if kind == "mask":
                split.problems.add("shape-unsupported", f"{where}: mask, read as its box")
        elif kind in ("polygon", "circle"):
            box, polygons = None, [[value for point in points for value in point]]
            if kind == "circle":
                (x, y), edge = points[:2]
                polygons = [ellipse(x, y, *[math.dist((x, y), edge)] * 2)]
        else:
            split.problems.add("shape-unsupported", f"{where}: {plain(kind)}")
            continue
        if key in groups and not box and groups[key][1]:  # another part of the same object
            groups[key][1].extend(polygons)
        else:
            groups[key if key not in groups else place] = (box, polygons, label, group, where)
    points = {key[0]: those for key, those in groups.items() if isinstance(those, dict)}
    for about in [about for about in groups.values() if not isinstance(about, dict)]:
        box, polygons, label, group, where = about
        keypoints = points.pop(group, None) if group is not None else None
        split.add_object(record, label, box, polygons, keypoints, where=where)
    for those in points.values():
        split.problems.add("shape-unsupported", f"{path}: points of no object {sorted(those)}")
