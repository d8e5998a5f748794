"""The reader of YOLO's format, which a project for such data has."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from PIL import Image

from my_detector.data.yolo import ORIENTATION, class_names, load_yolo, yolo_files

CLASSES = ["cat", "dog"]


def image(file: Path, orientation=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(file, exif=exif)


def label(file: Path, text: str):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_boxes_polygons_and_images_without_objects(tmp_path):
    for name in ("b.jpg", "a.jpg", "empty.png"):
        image(tmp_path / "images/train" / name)
    label(tmp_path / "labels/train/a.txt", "1 0.5 0.5 0.1 0.2\n\n")
    label(tmp_path / "labels/train/b.txt", "0 0.1 0.1 0.2 0.1 0.2 0.333333\n1 0.5 0.5 1 1\n")
    a, b, empty = load_yolo("pets", tmp_path / "images/train", CLASSES)
    assert a == {
        "file_name": str(tmp_path / "images/train/a.jpg"),
        "image_id": "a",
        "height": 100,
        "width": 200,
        "annotations": [
            {
                "bbox": [90, 40, 110, 60],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": 1,
                "iscrowd": 0,
            }
        ],
    }
    polygon, box = b["annotations"]
    assert polygon["segmentation"] == [[20, 10, 40, 10, 40, 33.33]]
    assert polygon["bbox"] == [20, 10, 40, 33.33]
    assert box["bbox"] == [0, 0, 200, 100] and "segmentation" not in box
    assert empty["annotations"] == [] and empty["width"] == 200


def test_labels_of_a_photograph_on_its_side_are_those_of_the_upright_one(tmp_path):
    image(tmp_path / "images/a.jpg", orientation=6)
    label(tmp_path / "labels/a.txt", "0 0.5 0.25 1 0.5")
    (record,) = load_yolo("pets", tmp_path / "images", CLASSES)
    height, width = read_image(record["file_name"]).shape[:2]
    assert (record["height"], record["width"]) == (height, width) == (200, 100)
    assert record["annotations"][0]["bbox"] == [0, 0, 100, 100]


def test_lists_of_images(tmp_path):
    image(tmp_path / "train/images/a.jpg")
    label(tmp_path / "train/labels/a.txt", "0 0.5 0.5 1 1")
    label(tmp_path / "train.txt", "./train/images/a.jpg\n\n")
    (record,) = load_yolo("pets", tmp_path / "train.txt", CLASSES)
    assert len(record["annotations"]) == 1
    folders = {path.resolve() for path in yolo_files(tmp_path / "train.txt")}
    assert {tmp_path / "train/images", tmp_path / "train/labels"} <= folders


@pytest.mark.parametrize("names", ["[cat, dog]", "{1: dog, 0: cat}"])
def test_class_names(tmp_path, names):
    (tmp_path / "data.yaml").write_text(f"names: {names}\n")
    assert class_names("pets", tmp_path / "data.yaml") == CLASSES


@pytest.mark.parametrize(
    "line, words",
    [
        ("2 0.5 0.5 1 1", "there is no class 2"),
        ("-1 0.5 0.5 1 1", "there is no class -1"),
        ("0 0.5 0.5 1", "3 numbers are neither a box nor a polygon"),
        ("0 0 0 1 1 0.5 0.5 0.5", "7 numbers are neither a box nor a polygon"),
        ("cat 0.5 0.5 1 1", "invalid literal"),
    ],
)
def test_line_that_cannot_be_used_is_named(tmp_path, line, words):
    image(tmp_path / "images/a.jpg")
    label(tmp_path / "labels/a.txt", f"0 0.5 0.5 1 1\n{line}\n")
    with pytest.raises(ValueError, match=f"a.txt, line 2: .* cannot be used: {words}"):
        load_yolo("pets", tmp_path / "images", CLASSES)
