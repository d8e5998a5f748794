"""Label Studio's JSON and JSON-MIN: rectangles, polygons, ellipses, key points inside of boxes."""

import os

from .base import Sources, Split, ellipse, split_of
from .files import Tree, json_entries, plain
from .problems import Unusable

NEEDS = "Label Studio's JSON or JSON-MIN, a list of tasks"
KINDS = ("rectanglelabels", "polygonlabels", "ellipselabels", "keypointlabels", "brushlabels")


def find(tree: Tree) -> Sources:
    """Finds JSON files of tasks with results of a kind that is read."""
    found: Sources = {}
    for file, text in tree.glances.items():
        if text.lstrip().startswith("[") and any(f'"{kind}"' in text for kind in KINDS):
            split = split_of(os.path.basename(file)) or split_of(file)
            source = {"annotations": file, "images": os.path.dirname(file)}
            found.setdefault(split, []).append(source)
    return found


def read(split: Split):
    """Reads tasks; coordinates there are percent of the image."""
    path = split.path("annotations")
    for place, (_, task) in enumerate(json_entries(path), start=1):
        where = f"{path}, task {place}"
        try:
            _read_task(split, task, where)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else plain(error)
            split.problems.add("annotations-invalid", f"{where}: {reason}")
    if not split.records:
        raise Unusable(f"{path!a} has no tasks as Label Studio's JSON has them")


def _read_task(split, task, where):
    values = task.get("data", task).values()
    image = next(v for v in values if isinstance(v, str) and ("/" in v or "." in v))
    if "data" in task:
        done = [a for a in task.get("annotations") or () if not a.get("was_cancelled")]
        results = done[0]["result"] if done else []
    else:  # JSON-MIN
        lists = [v for v in values if isinstance(v, list) and v and "original_width" in v[0]]
        results = [{"value": one, **one} for those in lists for one in those]
    sizes = [(r["original_width"], r["original_height"]) for r in results if "original_width" in r]
    width, height = sizes[0] if sizes else (0, 0)
    file = split.image_file(image, split.source["images"])
    record = split.add_image(file, task.get("id"), width, height)
    width, height = record.get("width", 100), record.get("height", 100)
    points: dict = {}
    for result in results:
        value = result.get("value", {})
        if labels := value.get("keypointlabels"):
            point = (value["x"] * width / 100 + 0.5, value["y"] * height / 100 + 0.5, 2)
            points.setdefault(result.get("parentID"), {})[labels[0]] = point
    for number, result in enumerate(results, start=1):
        here = f"{where}, result {number}"
        try:
            _read_result(split, record, result, (width, height), points, here)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            split.problems.add("annotations-invalid", f"{here}: {plain(error)}")


def _read_result(split, record, result, size, points, where):
    value = result.get("value", {})
    kind = next((kind for kind in KINDS if value.get(kind)), "")
    label = value[kind][0] if kind else ""
    keypoints = points.get(result.get("id")) if result.get("id") else None

    def scaled(*numbers):
        return [float(v) * size[i % 2] / 100 for i, v in enumerate(numbers)]

    if value.get("rotation"):
        split.problems.add("box-rotated", where)
    elif kind == "rectanglelabels":
        x, y, width, height = scaled(*(value[key] for key in ("x", "y", "width", "height")))
        box = [x, y, x + width, y + height]
        split.add_object(record, label, box, (), keypoints, where)
    elif kind in ("polygonlabels", "ellipselabels"):
        if kind == "polygonlabels":
            polygon = scaled(*(number for point in value["points"] for number in point))
        else:
            polygon = ellipse(*scaled(*(value[k] for k in ("x", "y", "radiusX", "radiusY"))))
        split.add_object(record, label, None, [polygon], keypoints, where)
    elif kind == "brushlabels":
        split.problems.add("shape-unsupported", f"{where}: brush; export it as COCO")
