"""Writes the generated shapes as data sets of other formats, each in its usual layout."""

import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("circle", "square", "triangle")
SPLITS = ("train", "val")


def read_shapes(shapes: Path, split: str) -> dict:
    """The annotations, with boxes of whole pixels, which every format can say exactly."""
    content = json.loads((shapes / f"annotations/instances_{split}.json").read_text())
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        x0, y0, x1, y1 = round(x), round(y), round(x + width), round(y + height)
        annotation["bbox"] = [x0, y0, x1 - x0, y1 - y0]
    return content


def by_image(content: dict) -> list[tuple[dict, list[dict]]]:
    annotations = content["annotations"]
    return [
        (image, [a for a in annotations if a["image_id"] == image["id"]])
        for image in content["images"]
    ]


def link_images(shapes: Path, split: str, folder: Path):
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(shapes / f"images_{split}", folder)


def write_json(file: Path, content: dict):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_coco(shapes: Path, root: Path):
    for split in SPLITS:
        link_images(shapes, split, root / split)
        write_json(root / f"annotations/{split}.json", read_shapes(shapes, split))


def write_lvis(shapes: Path, root: Path):
    for split in SPLITS:
        link_images(shapes, split, root / split)
        content = read_shapes(shapes, split)
        for image in content["images"]:
            image["coco_url"] = f"http://localhost/{split}/{image.pop('file_name')}"
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for category in content["categories"]:
            category |= {"synonyms": [category["name"]], "frequency": "f"}
        write_json(root / f"lvis_{split}.json", content)


def write_voc(shapes: Path, root: Path, classes=CLASSES, lists=SPLITS):
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split in SPLITS:
        stems = []
        for image, annotations in by_image(read_shapes(shapes, split)):
            stem = f"{split}_{image['id']:06d}"
            stems.append(stem)
            os.symlink(
                shapes / f"images_{split}" / image["file_name"], root / f"JPEGImages/{stem}.jpg"
            )
            xml = ET.Element("annotation")
            size = ET.SubElement(xml, "size")
            for key in ("width", "height"):
                ET.SubElement(size, key).text = str(image[key])
            for annotation in annotations:
                x, y, width, height = annotation["bbox"]
                element = ET.SubElement(xml, "object")
                ET.SubElement(element, "name").text = classes[annotation["category_id"] - 1]
                for key in ("truncated", "difficult"):
                    ET.SubElement(element, key).text = "0"
                ET.SubElement(element, "pose").text = "Unspecified"
                box = ET.SubElement(element, "bndbox")
                corners = (x + 1, y + 1, x + width, y + height)
                for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                    ET.SubElement(box, key).text = str(value)
            ET.ElementTree(xml).write(root / f"Annotations/{stem}.xml")
        name = dict(zip(SPLITS, lists, strict=True))[split]
        (root / f"ImageSets/Main/{name}.txt").write_text("\n".join(stems))


def write_yolo(shapes: Path, root: Path, polygons: bool = False):
    for split in SPLITS:
        link_images(shapes, split, root / f"images/{split}")
        (root / f"labels/{split}").mkdir(parents=True)
        for image, annotations in by_image(read_shapes(shapes, split)):
            lines = []
            for annotation in annotations:
                x, y, width, height = annotation["bbox"]
                numbers = np.array([x + width / 2, y + height / 2, width, height])
                if polygons:
                    numbers = np.array(annotation["segmentation"][0])
                numbers = " ".join(f"{v:.6f}" for v in numbers / image["width"])  # a square
                lines.append(f"{annotation['category_id'] - 1} {numbers}")
            stem = Path(image["file_name"]).stem
            (root / f"labels/{split}/{stem}.txt").write_text("\n".join(lines))
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
    yaml = f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}"
    (root / "data.yaml").write_text(yaml)


def write_coco_panoptic(shapes: Path, root: Path):
    for split in SPLITS:
        link_images(shapes, split, root / split)
        os.symlink(shapes / f"panoptic_{split}", root / f"panoptic_{split}")
        content = json.loads((shapes / f"annotations/panoptic_{split}.json").read_text())
        write_json(root / f"annotations/panoptic_{split}.json", content)


def write_semantic(shapes: Path, root: Path):
    for split in SPLITS:
        link_images(shapes, split, root / f"images/{split}")
        (root / "labels").mkdir(exist_ok=True)
        os.symlink(shapes / f"semantic_{split}", root / f"labels/{split}")
    (root / "classes.txt").write_text("\n".join([*CLASSES, "sky", "ground"]))


def write_cityscapes(shapes: Path, root: Path):
    """Circles are cars, squares persons, triangles a group of persons; sky and road."""
    ids = np.array([26, 24, 24, 23, 7])
    for split in SPLITS:
        images, labels = root / f"leftImg8bit/{split}/town", root / f"gtFine/{split}/town"
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        content = json.loads((shapes / f"annotations/panoptic_{split}.json").read_text())
        for annotation in content["annotations"]:
            stem = Path(annotation["file_name"]).stem
            with Image.open(shapes / f"images_{split}/{stem}.jpg") as image:
                image.save(images / f"town_{stem}_leftImg8bit.png")
            segments = np.array(Image.open(shapes / f"panoptic_{split}/{stem}.png"))[..., 0]
            instances = np.zeros(segments.shape, dtype=np.uint16)
            for info in annotation["segments_info"]:
                shape = info["category_id"] - 1
                is_instance = shape < 2
                value = ids[shape] * 1000 + info["id"] if is_instance else ids[shape]
                instances[segments == info["id"]] = value
            classes = np.where(instances < 1000, instances, instances // 1000).astype(np.uint8)
            Image.fromarray(instances).save(labels / f"town_{stem}_gtFine_instanceIds.png")
            Image.fromarray(classes).save(labels / f"town_{stem}_gtFine_labelIds.png")
            objects = [
                {"label": "car" if shape == 0 else "person", "polygon": [[0, 0], [9, 0], [9, 9]]}
                for shape in [info["category_id"] - 1 for info in annotation["segments_info"]]
                if shape < 2
            ]
            write_json(
                labels / f"town_{stem}_gtFine_polygons.json",
                {"imgWidth": 128, "imgHeight": 128, "objects": objects},
            )


WRITERS = {
    "coco": write_coco,
    "coco_panoptic": write_coco_panoptic,
    "semantic": write_semantic,
    "voc": write_voc,
    "yolo": write_yolo,
    "lvis": write_lvis,
    "cityscapes": write_cityscapes,
}
