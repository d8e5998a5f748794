"""Writes predictions as annotation tools read them: a person corrects instead of draws.

An object is COCO's annotation with `name`, of its class; `segmentation`, if it is there, is a list
of polygons [x, y, x, y, ...] in pixels.
"""

import json
import os
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np


class _Writer:
    def __init__(self, folder: Path, classes: list[str]):
        self.folder, self.classes = folder, classes
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, file: str, height: int, width: int, objects: list[dict]):
        """Writes, or keeps until the end, what was found in one image.

        Args:
            name: of the image's results, without extension; it may have folders.
            file: path of the image.
        """
        raise NotImplementedError

    def close(self):
        """Writes what is written at the end."""

    def _write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


class Yolo(_Writer):
    """A text file for each image, `class x y width height` or polygons; and data.yaml."""

    def add(self, name, file, height, width, objects):
        lines = []
        for o in objects:
            points = max(_polygons(o), key=len, default=None)
            if points is None:
                x, y, w, h = o["bbox"]
                points = [x + w / 2, y + h / 2, w, h]
            numbers = [v / size for v, size in zip(points, [width, height] * len(points))]
            lines.append(" ".join([str(o["category_id"]), *(f"{v:.6f}" for v in numbers)]))
        self._write(f"labels/{name}.txt", "".join(line + "\n" for line in lines))

    def close(self):
        names = "".join(f"  {i}: {json.dumps(n)}\n" for i, n in enumerate(self.classes))
        self._write("data.yaml", f"names:\n{names}")


class Voc(_Writer):
    """An XML file for each image, with boxes."""

    def add(self, name, file, height, width, objects):
        root = ET.Element("annotation")
        ET.SubElement(root, "filename").text = os.path.basename(file)
        _fill(ET.SubElement(root, "size"), width=width, height=height, depth=3)
        for o in objects:
            element = ET.SubElement(root, "object")
            _fill(element, name=o["name"], difficult=0)
            x, y, w, h = o["bbox"]  # VOC counts pixels from 1, its last one is inside
            box = dict(xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
            _fill(ET.SubElement(element, "bndbox"), **{k: round(v) for k, v in box.items()})
        self._write(f"{name}.xml", _xml(root))


class Coco(_Writer):
    """One JSON file."""

    def __init__(self, folder, classes):
        super().__init__(folder, classes)
        self.content = {"images": [], "annotations": []}
        self.content["categories"] = [{"id": i + 1, "name": n} for i, n in enumerate(classes)]

    def add(self, name, file, height, width, objects):
        images, annotations = self.content["images"], self.content["annotations"]
        image = {"id": len(images) + 1, "file_name": file, "height": height, "width": width}
        images.append(image)
        for o in objects:
            entry = {k: v for k, v in o.items() if k not in ("name", "score")}
            entry["category_id"] += 1
            entry |= {"id": len(annotations) + 1, "image_id": image["id"], "iscrowd": 0}
            annotations.append(entry)

    def close(self):
        self._write("annotations.json", json.dumps(self.content))


class Labelme(_Writer):
    """A JSON file of labelme for each image."""

    def add(self, name, file, height, width, objects):
        shapes = []
        for number, o in enumerate(objects):
            x, y, w, h = o["bbox"]
            box = ("rectangle", [x, y, x + w, y + h])
            for kind, points in [("polygon", p) for p in _polygons(o)] or [box]:
                shape = {"label": o["name"], "points": _pairs(points), "group_id": number}
                shapes.append({**shape, "shape_type": kind, "flags": {}})
        image = os.path.relpath(file, (self.folder / name).parent)
        content = {"version": "5.0.0", "flags": {}, "shapes": shapes, "imagePath": image}
        content |= {"imageData": None, "imageHeight": height, "imageWidth": width}
        self._write(f"{name}.json", json.dumps(content))


class Cvat(_Writer):
    """annotations.xml, "CVAT for images 1.1"."""

    def __init__(self, folder, classes):
        super().__init__(folder, classes)
        self.root, self.number = ET.Element("annotations"), 0
        ET.SubElement(self.root, "version").text = "1.1"

    def add(self, name, file, height, width, objects):
        image = ET.SubElement(self.root, "image", id=str(self.number), name=os.path.basename(file))
        image.attrib |= {"width": str(width), "height": str(height)}
        self.number += 1
        for number, o in enumerate(objects):
            same = {"label": o["name"], "occluded": "0", "source": "auto", "group_id": str(number)}
            for points in _polygons(o):
                text = ";".join(f"{x:.2f},{y:.2f}" for x, y in _pairs(points))
                ET.SubElement(image, "polygon", points=text, **same)
            if not _polygons(o):
                x, y, w, h = o["bbox"]
                box = {"xtl": x, "ytl": y, "xbr": x + w, "ybr": y + h}
                ET.SubElement(image, "box", {k: f"{v:.2f}" for k, v in box.items()}, **same)

    def close(self):
        self._write("annotations.xml", _xml(self.root))


class Via(_Writer):
    """via.json, annotations of the VGG Image Annotator 2."""

    def __init__(self, folder, classes):
        super().__init__(folder, classes)
        self.content = {}

    def add(self, name, file, height, width, objects):
        regions = []
        for o in objects:
            x, y, w, h = o["bbox"]
            shapes = [
                {"name": "polygon", "all_points_x": p[::2], "all_points_y": p[1::2]}
                for p in _polygons(o)
            ] or [{"name": "rect", "x": x, "y": y, "width": w, "height": h}]
            label = {"class": o["name"]}
            regions += [{"shape_attributes": s, "region_attributes": label} for s in shapes]
        size, base = os.path.getsize(file), os.path.basename(file)
        self.content[f"{file}{size}"] = {
            "filename": base,
            "size": size,
            "regions": regions,
            "file_attributes": {},
        }

    def close(self):
        self._write("via.json", json.dumps(self.content))


class LabelStudio(_Writer):
    """tasks.json, tasks with predictions, for Label Studio's import."""

    def __init__(self, folder, classes):
        super().__init__(folder, classes)
        self.tasks = []

    def add(self, name, file, height, width, objects):
        found = []
        for o in objects:
            same = {"from_name": "label", "to_name": "image", "score": o["score"]}
            same |= {"original_width": width, "original_height": height}
            x, y, w, h = (100 * v / s for v, s in zip(o["bbox"], (width, height) * 2))
            box = {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
            values = [("rectanglelabels", box)]
            if _polygons(o):
                scaled = [_pairs(p) / [width, height] * 100 for p in map(np.array, _polygons(o))]
                values = [("polygonlabels", {"points": p.tolist()}) for p in scaled]
            found += [{**same, "type": k, "value": {**v, k: [o["name"]]}} for k, v in values]
        self.tasks.append({"data": {"image": file}, "predictions": [{"result": found}]})

    def close(self):
        self._write("tasks.json", json.dumps(self.tasks))


WRITERS = {
    "coco": Coco,
    "cvat": Cvat,
    "labelme": Labelme,
    "labelstudio": LabelStudio,
    "via": Via,
    "voc": Voc,
    "yolo": Yolo,
}


def _polygons(annotation):
    return annotation.get("segmentation") or []


def _pairs(points):
    if isinstance(points, np.ndarray):
        return points.reshape(-1, 2)
    return list(zip(points[::2], points[1::2]))


def _fill(element, **texts):
    for name, value in texts.items():
        ET.SubElement(element, name).text = str(value)


def _xml(root):
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
