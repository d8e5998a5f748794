"""The reader of Pascal VOC's format, which a project for such data has."""

import numpy as np
import pytest
from detectron2.data.datasets import load_voc_instances
from PIL import Image

from my_detector.data.voc import class_names, load_voc

XML = """<annotation>{size}
<object><name>{name}</name><difficult>0</difficult>
<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30.5</xmax><ymax>40</ymax></bndbox></object>
</annotation>"""
SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"


@pytest.fixture
def root(tmp_path):
    """VOC's own layout, with three images."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for name, kind in (("a", "cat"), ("b", "dog"), ("c", "cat")):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / f"JPEGImages/{name}.jpg")
        text = XML.format(name=kind, size=SIZE)
        (tmp_path / f"Annotations/{name}.xml").write_text(text)
    (tmp_path / "ImageSets/Main/train.txt").write_text("c\na\n")
    return tmp_path


def load(root, listed="ImageSets/Main/train.txt", classes=("cat", "dog")):
    listed = listed and root / listed
    return load_voc("pets", listed, root / "Annotations", root / "JPEGImages", list(classes))


def test_same_as_detectron2_in_its_layout(root):
    records = load(root)
    expected = load_voc_instances(str(root), "train", ["cat", "dog"])
    for record in records:
        assert record["annotations"][0].pop("iscrowd") == 0
    assert records == expected


def test_other_layouts_and_types_of_images(root):
    (root / "ImageSets/Main/one.txt").write_text("b  1\n")  # with one image; two columns
    assert [record["image_id"] for record in load(root, "ImageSets/Main/one.txt")] == ["b"]
    (root / "JPEGImages/b.jpg").rename(root / "JPEGImages/b.PNG")
    assert load(root, "ImageSets/Main/one.txt")[0]["file_name"].endswith("b.PNG")
    assert [record["image_id"] for record in load(root, "")] == ["a", "b", "c"]
    flat = load_voc("pets", "", root / "Annotations", root / "Annotations", ["cat", "dog"])
    assert flat[0]["file_name"] == str(root / "Annotations/a.jpg")  # which the checks will miss


def test_size_comes_from_the_image_where_the_file_has_none(root):
    (root / "Annotations/a.xml").write_text(XML.format(name="cat", size=""))
    assert [(r["height"], r["width"]) for r in load(root)] == [(48, 64), (48, 64)]


def test_class_names(root):
    assert class_names("pets", [root / "Annotations"]) == ["cat", "dog"]


@pytest.mark.parametrize(
    "content, words",
    [
        (XML.format(name="cow", size=SIZE), r"a.xml cannot be used: 'cow' is not in list"),
        (XML.format(name="cat", size=SIZE).replace("30.5", "x"), r"a.xml cannot be used: .*'x'"),
        (XML.format(name="cat", size=SIZE).replace("bndbox", "box"), r"a.xml cannot be used"),
        ("<annotation><object>", r"a.xml is not XML"),
    ],
)
def test_file_that_cannot_be_used_is_named(root, content, words):
    (root / "Annotations/a.xml").write_text(content)
    with pytest.raises(ValueError, match=words):
        load(root)


def test_missing_file_is_named(root):
    (root / "Annotations/a.xml").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"'pets' needs \S+/Annotations/a.xml, which is not"
    ):
        load(root)
