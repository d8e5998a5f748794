"""Projects for the user's own data, in every format."""

import json
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytestmark = pytest.mark.training

SHORT = ["SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 0, "LOG_PERIOD", 1]
TINY = ["--config-file", "configs/tiny.yaml", *SHORT]


def boxes_only(project, name):
    """A config in the project: the smoke run's model, without masks, on the user's data set."""
    text = f'_BASE_: smoke.yaml\nDATASETS:\n  TRAIN: ("{name}_train",)\n  TEST: ("{name}_val",)\n'
    text += "MODEL:\n  MASK_ON: False\n"
    (project.folder / "configs/tiny.yaml").write_text(text, encoding="utf-8")


def write_voc(shapes: Path, root: Path):
    """The shapes as Pascal VOC, with one box of no height and one that leaves the image."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = {1: "circle", 2: "square", 3: "triangle"}
    for split in ("train", "val"):
        content = json.loads((shapes / f"annotations/instances_{split}.json").read_text())
        images = content["images"]
        stems = [f"{split}_{image['id']}" for image in images]
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems))
        for image, stem in zip(images, stems, strict=True):
            source = shapes / f"images_{split}" / image["file_name"]
            (root / f"JPEGImages/{stem}.jpg").write_bytes(source.read_bytes())
            xml = ET.Element("annotation")
            size = ET.SubElement(xml, "size")
            for key in ("width", "height"):
                ET.SubElement(size, key).text = str(image[key])
            objects = [
                (names[a["category_id"]], [round(v) for v in a["bbox"]])
                for a in content["annotations"]
                if a["image_id"] == image["id"]
            ]
            if stem == "train_1":
                objects += [("circle", [10, 10, 20, -1]), ("square", [100, 100, 60, 20])]
            for name, (x, y, width, height) in objects:
                element = ET.SubElement(xml, "object")
                ET.SubElement(element, "name").text = name
                box = ET.SubElement(element, "bndbox")
                corners = (x + 1, y + 1, x + width, y + height)
                for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                    ET.SubElement(box, key).text = str(value)
            ET.ElementTree(xml).write(root / f"Annotations/{stem}.xml")


def test_voc_project_trains_on_voc_files(project, make_project):
    write_voc(project.datasets / "shapes", project.datasets / "cells")
    voc = make_project(dataset_format="voc", dataset_name="cells", package_name="voc_cells")
    boxes_only(voc, "cells")
    output = voc.train(*TINY)
    assert "cells_train: 1 boxes dropped as empty" in output
    assert "cells_train: 1 boxes clipped to their image" in output
    metrics = voc.metrics("output/tiny")[2]
    assert {"bbox/AP", "bbox/AP-circle", "bbox/AP-square", "bbox/AP-triangle"} <= metrics.keys()
    assert " passed" in voc.run("pytest", "-q", "tests/test_config.py", "tests/test_dataset.py")


def test_voc_project_says_which_folder_is_missing(project, make_project):
    voc = make_project(dataset_format="voc", dataset_name="nowhere", package_name="voc_nowhere")
    boxes_only(voc, "nowhere")
    output = voc.train(*TINY, status=1)
    assert re.search(
        r"data set 'nowhere' needs \S+/nowhere/Annotations, which is not there", output
    )


def test_coco_project_trains_on_coco_files(project, make_project):
    root, shapes = project.datasets / "coins", project.datasets / "shapes"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        os.symlink(shapes / f"images_{split}", root / split)
        text = (shapes / f"annotations/instances_{split}.json").read_text()
        (root / f"annotations/{split}.json").write_text(text.replace("circle", "coin"))
    coco = make_project(dataset_format="coco", dataset_name="coins", package_name="coco_coins")
    boxes_only(coco, "coins")
    coco.train(*TINY, "MODEL.MASK_ON", True)
    assert {"bbox/AP-coin", "segm/AP-coin"} <= coco.metrics("output/tiny")[2].keys()


def test_custom_project_says_what_to_fill_in_and_then_trains(project, make_project):
    custom = make_project(dataset_format="custom", dataset_name="mine", package_name="custom_mine")
    boxes_only(custom, "mine")
    output = custom.train(*TINY, status=1)
    assert "data set 'mine': fill in load() and CLASSES in" in output

    file = custom.folder / "custom_mine/data/dataset.py"
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^CLASSES = .*", 'CLASSES = ("ring", "box", "tent")', text)
    text = re.sub(r"raise NotImplementedError.*", 'return DatasetCatalog.get("shapes_val")', text)
    text = text.replace(
        "from .catalog", "from detectron2.data import DatasetCatalog\n\nfrom .catalog", 1
    )
    file.write_text(text, encoding="utf-8")
    custom.train(*TINY)
    assert {"bbox/AP-ring", "bbox/AP-tent"} <= custom.metrics("output/tiny")[2].keys()
