"""Tests of read_dataset.py: tiny data sets of every format and layout, and every refusal."""

import gc
import json
import os
import re
import struct
import sys
from pathlib import Path

import pytest
from PIL import Image

from read_dataset import (
    BUILTIN,
    FORMATS,
    READERS,
    Unusable,
    image_size,
    label_values,
    parse,
    read,
    split_of,
)

HELD_OUT = "There is one set of annotations: a share will be held out for validation."


def write(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def images(folder: Path, *names: str, size=(64, 48), mode="RGB", value=0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new(mode, size, value).save(folder / name)


def coco(names, objects=1, **more) -> dict:
    """A JSON with `objects` boxes of 10 x 40 px in each image, in turns of cat (3) and dog (7)."""
    return {
        "images": [
            {"id": i, "file_name": n, "width": 64, "height": 48} for i, n in enumerate(names)
        ],
        "annotations": [
            {"id": i * 10 + k, "image_id": i, "category_id": (3, 7)[k % 2], "bbox": [1, 2, 10, 40]}
            | {"segmentation": [[1, 2, 11, 2, 11, 42]], "iscrowd": 0}
            for i in range(len(names))
            for k in range(objects)
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    } | more


def coco_root(root: Path) -> Path:
    """COCO's own layout, with captions and a list of test images."""
    for split, names in {"train2017": ["a.jpg", "b.jpg"], "val2017": ["c.jpg"]}.items():
        images(root / split, *names)
        text = json.dumps(coco(names, objects=3))
        write(root / f"annotations/instances_{split}.json", text)
    captions = {"images": [], "annotations": [{"image_id": 1, "caption": "A cat."}]}
    write(root / "annotations/captions_train2017.json", json.dumps(captions))
    test = coco(["t.jpg"])
    del test["annotations"]
    write(root / "annotations/image_info_test2017.json", json.dumps(test))
    return root


def xml(*names: str, size=(64, 48)) -> str:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax>"
        "<ymax>42</ymax></bndbox></object>"
        for name in names
    )
    size = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation>{size}{objects}</annotation>"


def voc_flat(root: Path) -> Path:
    images(root, "a.jpg", "b.jpg", "c.jpg", size=(30, 20))
    write(root / "a.xml", xml("ok", "worn", size=None))
    write(root / "b.xml", "<annotation><object>")
    return root


def yolo_root(root: Path, yaml: str | None = None) -> Path:
    images(root / "train/images", "a.jpg", "b.png", size=(100, 200))
    images(root / "valid/images", "c.jpg")
    images(root / "test/images", "d.jpg")
    write(root / "train/labels/a.txt", "1 0.5 0.5 0.1 0.2\n0 0.1 0.1 0.2 0.1 0.2 0.3 0.1 0.3\n")
    write(root / "valid/labels/c.txt", "0 0.5 0.5 0.1 0.2\n")
    if yaml is not None:
        write(root / "data.yaml", yaml)
    return root


def semantic_root(root: Path, labels="masks", classes: str | None = None, **mask) -> Path:
    for split in ("train", "val"):
        images(root / "images" / split, "a.jpg", "b.jpg")
        images(root / labels / split, "a.png", **{"mode": "L", "value": 2} | mask)
    if classes is not None:
        write(root / "classes.txt", classes)
    return root


def city_root(root: Path) -> Path:
    for split, label in {"train": "car", "val": "car", "test": "out of roi"}.items():
        images(root / f"leftImg8bit/{split}/ulm", "ulm_0_0_leftImg8bit.png")
        polygon = {"label": label, "polygon": [[0, 0], [10, 0], [10, 40]]}
        data = {"imgWidth": 64, "imgHeight": 48, "objects": [polygon, {"label": "sky"}]}
        write(root / f"gtFine/{split}/ulm/ulm_0_0_gtFine_polygons.json", json.dumps(data))
    return root


def auto(path, format="auto") -> dict:
    result = read(str(path), format, [])
    assert json.loads(json.dumps(result)) == result
    assert set(result["splits"]) <= {"train", "val", "test"} and result["format"] in FORMATS
    assert all(note.isascii() and note.endswith(".") for note in result["notes"])
    return result


def expected(root: Path, format: str, **more) -> dict:
    """The whole result for two classes in images of 64 x 48 px with boxes of 10 x 40 px."""
    return {
        "format": format, "root": str(root), "name": "pets", "classes": ["cat", "dog"],
        "tasks": ["boxes"],
        "size": {"short": 48, "long": 64, "object": 20.0}, "notes": [], "extension": "jpg",
    } | more  # fmt: skip


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return tmp_path / "pets"


def test_coco_in_its_own_layout_as_folder_and_as_file(pets):
    coco_root(pets)
    name = "annotations/instances_%s2017.json"
    train = {"annotations": name % "train", "folder": "train2017", "images": 2, "objects": 6}
    val = {"annotations": name % "val", "folder": "val2017", "images": 1, "objects": 3}
    whole = expected(
        pets, "coco", splits={"train": train, "val": val}, counts={"cat": 4, "dog": 2},
        tasks=["boxes", "masks"],
    )  # fmt: skip
    ignored = "Other JSON files were ignored: 'annotations/captions_train2017.json'."
    left_out = "The split test is left out: it has no annotations."
    assert auto(pets) == whole | {"notes": [ignored, left_out]}
    assert auto(pets / (name % "train")) == whole
    assert read("pets/" + name % "train", "coco", [pets, pets.parent]) == whole


def test_coco_exported_by_roboflow(pets):
    for split in ("train", "valid", "test"):
        images(pets / split, "a.jpg")
        write(pets / split / "_annotations.coco.json", json.dumps(coco(["a.jpg"])))
    for path in (pets, pets / "train/_annotations.coco.json"):
        found = auto(path)
        assert found["root"] == str(pets) and found["name"] == "pets"
        for split, folder in {"train": "train", "val": "valid", "test": "test"}.items():
            place = {"annotations": f"{folder}/_annotations.coco.json", "folder": folder}
            assert found["splits"][split] == place | {"images": 1, "objects": 1}
        assert found["notes"] == ["1 classes have no objects in train: 'dog'."]


@pytest.mark.parametrize(
    "folder, file, given",
    [
        ("images", "annotations/instances_default.json", ""),  # CVAT
        ("data", "labels.json", ""),  # FiftyOne
        (".", "all.json", "all.json"),
        ("images/train", "train.json", "train.json"),
        ("train/images", "annotations/train.json", ""),
        ("train", "annotations/val.json", ""),  # the only one: used for training
    ],
)
def test_coco_with_one_set_of_annotations(pets, folder, file, given):
    images(pets / folder, "a.jpg", "b.jpg")
    write(pets / file, json.dumps(coco(["a.jpg", "b.jpg"])))
    found = auto(pets / given)
    train = {"annotations": file, "folder": folder, "images": 2, "objects": 2}
    assert found["root"] == str(pets) and found["splits"] == {"train": train}
    assert HELD_OUT in found["notes"]


def test_coco_with_keypoints_and_crowds(pets):
    data = coco(["a.jpg"], objects=4)
    names = ["nose", "left_eye", "right_eye"]
    data["categories"][0]["keypoints"] = names
    data["annotations"][0] |= {"keypoints": [1, 1, 2] + [0] * 6}
    data["annotations"][1]["segmentation"] = {"counts": "x", "size": [48, 64]}
    data["annotations"][2] |= {"segmentation": [], "bbox": [0, 0, 3, 3]}
    data["annotations"][3] |= {"iscrowd": 1, "bbox": [0, 0, 1, 1]}
    images(pets, "a.jpg")
    found = auto(write(pets / "train.json", json.dumps(data)).parent)
    assert found["tasks"] == ["boxes", "masks", "keypoints"]
    assert found["notes"] == [HELD_OUT]
    assert found["size"]["object"] == 3.0 and found["counts"] == {"cat": 2, "dog": 2}
    data["annotations"][0]["keypoints"] = [0] * 9
    data["annotations"][1] |= {"segmentation": [], "iscrowd": 0}
    write(pets / "train.json", json.dumps(data))
    assert auto(pets)["tasks"] == ["boxes"]


def test_panoptic_beside_instances(pets):
    coco_root(pets)
    for split, name in {"train2017": "a", "val2017": "c"}.items():
        segments = [{"id": 1, "category_id": 3, "bbox": [1, 2, 10, 40], "iscrowd": 0}] * 2
        annotation = {"image_id": 0, "file_name": f"{name}.png", "segments_info": segments}
        text = json.dumps(coco([f"{name}.jpg"], annotations=[annotation]))
        write(pets / f"annotations/panoptic_{split}.json", text)
        images(pets / f"panoptic_{split}", f"{name}.png")
    notes = auto(pets)["notes"]
    note = "Read as coco; the files are also coco_panoptic: type data=coco_panoptic:..."
    assert f"{note} to have them read so." in notes
    for path, format in [
        (pets, "coco_panoptic"),
        (pets / "annotations/panoptic_train2017.json", "auto"),
    ]:
        found = auto(path, format)
        assert found["splits"]["train"] == {
            "annotations": "annotations/panoptic_train2017.json", "folder": "train2017",
            "masks": "panoptic_train2017", "instances": "annotations/instances_train2017.json",
            "images": 1, "objects": 2,
        }  # fmt: skip
        assert found["splits"]["val"]["masks"] == "panoptic_val2017"
        assert found["tasks"] == ["boxes", "masks", "panoptic", "semantic"]
        assert found["counts"]["cat"] == 2
    (pets / "annotations/instances_train2017.json").unlink()
    found = auto(pets / "annotations/panoptic_train2017.json")
    assert found["splits"]["train"]["instances"] == ""
    (pets / "panoptic_train2017/a.png").unlink()
    with pytest.raises(Unusable, match=r"1 of 1 masks of train are missing; looked in .*'a.png'"):
        auto(pets, "coco_panoptic")


def test_lvis(pets):
    data = coco(["ignored.jpg"])
    data["images"][0] |= {"coco_url": "http://x/val2017/a.jpg", "neg_category_ids": []}
    images(pets / "val2017", "a.jpg")
    write(pets / "annotations/lvis_v1_train.json", json.dumps(data))
    found = auto(pets)
    train = {"annotations": "annotations/lvis_v1_train.json", "folder": "."}
    assert found["format"] == "lvis" and found["tasks"] == ["boxes", "masks"]
    assert found["splits"] == {"train": train | {"images": 1, "objects": 1}}


def test_voc_in_its_own_layout(pets):
    images(pets / "JPEGImages", "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    for number in "1234":
        write(pets / f"Annotations/{number}.xml", xml("cat", "dog", "cat"))
    lists = {"train": "1  1\n2 -1\n", "val": "3\n", "trainval": "1\n2\n3\n", "test": "4\n5\n"}
    for name, text in (lists | {"cat_train": "1 1\n", "train_val": "9 1\n"}).items():
        write(pets / f"ImageSets/Main/{name}.txt", text)
    places = {"annotations": "Annotations", "folder": "JPEGImages"}
    splits = {
        name: {"list": f"ImageSets/Main/{name}.txt"} | places | {"images": n, "objects": 3 * n}
        for name, n in {"train": 2, "val": 1, "test": 1}.items()
    }
    notes = ["1 images of test have no XML: '5'."]
    counts = {"cat": 4, "dog": 2}
    assert auto(pets) == expected(pets, "voc", splits=splits, counts=counts, notes=notes)
    (pets / "ImageSets/Main/val.txt").unlink()
    found = auto(pets.rename(pets.with_name("VOC2012")).parent)  # the folder around it
    assert found["splits"]["train"]["list"] == "VOC2012/ImageSets/Main/trainval.txt"
    assert found["splits"]["val"]["list"] == "VOC2012/ImageSets/Main/test.txt"
    assert "The split train is left out: it is part of trainval." in found["notes"]
    assert "There is no split val, so test is used for it." in found["notes"]


def test_voc_beside_the_images(pets):
    found = auto(voc_flat(pets))
    places = {"list": "", "annotations": ".", "folder": "."}
    assert found["splits"] == {"train": places | {"images": 2, "objects": 2}}
    assert found["classes"] == ["ok", "worn"] and found["size"]["short"] == 20
    broken = "1 XML files of train are broken: 'b.xml'."
    assert found["notes"] == [broken, "1 images of train have no XML: 'c'.", HELD_OUT]


@pytest.mark.parametrize("annotations, folder", [("%s", "%s"), ("annotations/%s", "images/%s")])
def test_voc_in_split_folders(pets, annotations, folder):
    for split in ("train", "valid", "test"):  # of the same names
        images(pets / (folder % split), "a.jpg")
        write(pets / (annotations % split) / "a.xml", xml("dog" if split == "valid" else "cat"))
    found = auto(pets)
    place = {"list": "", "annotations": annotations % "valid", "folder": folder % "valid"}
    assert found["splits"]["val"] == place | {"images": 1, "objects": 1}
    assert found["classes"] == ["cat", "dog"] and found["counts"] == {"cat": 1, "dog": 0}


@pytest.mark.parametrize(
    "yaml",
    [
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat, dog]",
        "path: /gone\ntrain: train\nval: [valid/images]\ntest: test\nnames: {1: dog, 0: cat}",
    ],
)
def test_yolo_with_yaml(pets, yaml):
    yolo_root(pets, yaml)
    whole = expected(
        pets, "yolo", counts={"cat": 1, "dog": 1}, tasks=["boxes", "masks"],
        splits={
            "train": {"folder": "train/images", "images": 2, "objects": 2},
            "val": {"folder": "valid/images", "images": 1, "objects": 1},
        },
        size={"short": 100, "long": 200, "object": round((10 * 40) ** 0.5, 1)},
        notes=[
            "The split test is left out: it has no annotations.",
            "1 images of train have no label file: they have no objects.",
        ],
    )  # fmt: skip
    assert auto(pets) == auto(pets / "data.yaml") == whole


@pytest.mark.parametrize("names", ["classes.txt", "obj.names", "labels/classes.txt", ""])
def test_yolo_without_yaml(pets, names):
    for split, number in {"train": 1, "val": 2}.items():
        images(pets / "images" / split, "a.jpg")
        write(
            pets / f"labels/{split}/a.txt",
            f"{number} .5 .5 .1 .1\n2 .5 .5 .1 .1 .9\n-1 .5 .5 .1 .1\n",
        )
    if names:
        write(pets / names, "cat\ndog\nemu\n")
    found = auto(pets)
    assert found["splits"]["val"] == {"folder": "images/val", "images": 1, "objects": 1}
    classes = ["cat", "dog", "emu"] if names else ["class_0", "class_1", "class_2"]
    assert found["classes"] == classes and found["tasks"] == ["boxes"]
    assert "2 lines in labels of train are neither boxes nor polygons." in found["notes"]


def test_yolo_lists_of_images_and_poses(pets):
    images(pets / "obj_train_data", "a.jpg")
    write(pets / "obj_train_data/a.txt", "0 .5 .5 .1 .1 .2 .2 2 .3 .3 2\n")
    write(pets / "train.txt", "obj_train_data/a.jpg\n")
    write(pets / "p.yaml", "train: train.txt\nval: train.txt\nnc: 1\nkpt_shape: [2, 3]\n")
    found = auto(pets)
    assert found["splits"]["train"] == {"folder": "train.txt", "images": 1, "objects": 1}
    assert found["tasks"] == ["boxes"] and found["classes"] == ["class_0"]
    pose = "YOLO's keypoints are not read, only the boxes."
    assert found["notes"] == [pose, "The splits train and val are the same files."]


@pytest.mark.parametrize(
    "labels, classes, names",
    [
        ("labels", "cat\ndog\n", ["cat", "dog"]),
        ("SegmentationClass", "0: cat\n1: dog\n", ["cat", "dog"]),
        ("masks", "# label:color\ncat:0,0,0::\ndog:9,9,9::\n", ["cat", "dog"]),
        ("annotations", None, ["class_0", "class_1", "class_2"]),
    ],
)
def test_semantic(pets, labels, classes, names):
    notes = [
        f"1 images of {split} have no label map and are left out." for split in ("train", "val")
    ]
    if classes is None:
        notes.insert(0, "No classes.txt, so the 3 classes are those in 1 label maps.")
    splits = {
        split: {
            "labels": f"{labels}/{split}",
            "folder": f"images/{split}",
            "images": 1,
            "objects": 1,
        }
        for split in ("train", "val")
    }
    assert auto(semantic_root(pets, labels, classes)) == expected(
        pets, "semantic", splits=splits, classes=names, counts={}, tasks=["semantic"], notes=notes,
        size={"short": 48, "long": 64, "object": None},
    )  # fmt: skip


def test_cityscapes(pets):
    found = auto(city_root(pets))
    place = {"folder": "leftImg8bit/val", "labels": "gtFine/val", "images": 1, "objects": 1}
    assert found["splits"]["val"] == place and set(found["splits"]) == {"train", "val"}
    assert found["format"] == "cityscapes" and found["tasks"] == ["boxes", "masks", "semantic"]
    assert found["classes"][2] == "car" and found["counts"]["car"] == 1 == sum(
        found["counts"].values()
    )
    assert found["size"] == {"short": 48, "long": 64, "object": 20.0}


def test_a_folder_may_be_called_like_the_data_sets_of_cityscapes(tmp_path):
    root = city_root(tmp_path / "cityscapes_small")
    assert read("cityscapes_small", "auto", [tmp_path])["root"] == str(root)


def test_built_in_names(pets):
    (pets / "coco_2017").mkdir(parents=True)
    found = read("coco_2017_train", "auto", [pets])
    splits = {
        s: {"name": f"coco_2017_{s}", "images": None, "objects": None} for s in ("train", "val")
    }
    size = {"short": None, "long": None, "object": None}
    more = {"name": "coco_2017", "classes": [], "counts": {}, "extension": ""}
    more["tasks"] = ["boxes", "masks"]
    assert found == expected("", "builtin", splits=splits, size=size, **more)
    for name in BUILTIN:
        assert read(name, "builtin", [])["name"] == name
    assert read("voc_2007", "auto", [])["splits"]["val"]["name"] == "voc_2007_test"
    with pytest.raises(Unusable, match=r"'coco_2017' is a data set .* or 'coco:./coco_2017' for"):
        read("coco_2017", "coco", [pets])
    with pytest.raises(Unusable, match="coco_2017' has 0 images, but no annotations were found"):
        read("./coco_2017", "auto", [pets])


@pytest.mark.parametrize(
    "folder, name",
    [("Pets & Co", "pets_co"), ("2024", "my_2024"), ("coco_2017x", "my_coco_2017x"),
     ("p" * 99, "p" * 40), ("\u00fc", "my_dataset"), ("pets/train", "pets")],
)  # fmt: skip
def test_suggested_name(tmp_path, folder, name):
    assert auto(voc_flat(tmp_path / folder))["name"] == name


def changed(**more):
    return lambda root: write(root / "train.json", json.dumps(coco(["a.jpg"]) | more))


def images_only(root):
    images(root, "a.jpg")
    return root


def no_images(root):
    coco_root(root)
    (root / "train2017/a.jpg").unlink()
    (root / "train2017/b.jpg").unlink()
    return root


def two_sets(root):
    coco_root(root)
    file = root / "annotations/instances_train2017.json"
    write(file.with_name("instances_train2014.json"), file.read_text())
    return root


def broken_xml(root):
    return write(root / "a.xml", "<annotation>").parent


def no_training(root):
    for split in ("val", "test"):
        write(root / f"{split}.json", json.dumps(coco(["a.jpg"])))
    return root


DOG = {"id": 7, "name": "dog"}
TWO = [{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]
YAML = "train: train/images\nval: valid/images\nnames: [cat, dog]\n"


def named(old: str, new: str):
    return lambda root: yolo_root(root, YAML.replace(old, new))


def file(name: str, text: str = ""):
    return lambda root: write(root / name, text)


REFUSALS = [
    (lambda r: r / "cat.json", "auto", r"'\S*cat.json' is not there; looked for '\S*cat.json'"),
    (images_only, "auto", r"has 1 images, but no annotations were found.* yolo: data.yaml"),
    (file("pets.zip"), "auto", r"pets.zip' is a file of none of the formats"),
    (coco_root, "yolo", r"pets' is not yolo, which needs data.yaml.*it looks like coco\Z"),
    (coco_root, "builtin", r"pets' is not builtin: one of the names coco_2014"),
    (coco_root, "koko", r"format 'koko' is none of auto, coco"),
    (no_images, "auto", r"2 of 2 images of train are missing; looked in '\S+', .* for 'a.jpg'"),
    (two_sets, "auto", r"there are 2 sets of annotations for train; type .* of one: .*2014"),
    (no_training, "auto", r"there are the splits test and val, but none for training"),
    (file("a.json", '{"images": ['), "auto", r"a.json' is not JSON, or not all of it"),
    (file("a.json", "[]"), "auto", r"a.json' lacks the key 'images'"),
    (file("a.json", '{"images": []}'), "auto", r"lacks the key 'categories'"),
    (changed(annotations=[]), "auto", r"no annotations for training in '\S+', '\S+pets'\."),
    (changed(annotations=[{}]), "auto", r"train.json': an entry .*KeyError: 'category_id'"),
    (changed(categories=TWO), "auto", r"train.json': two categories have the id 3"),
    (changed(categories=[DOG]), "auto", r"category_id '3', which categories does not list"),
    (broken_xml, "voc", r"a.xml' .* not Pascal VOC's XML"),
    (named(", dog", ""), "auto", r"has the class 1, but only 1 have names, from 0: 'cat'"),
    (named("valid", "v"), "auto", r"val is not there; looked for '\S+v/images'"),
    (named("[cat, dog]", "{1: a}"), "auto", r"does not number the names 0, 1"),
    (named("[cat, dog]", "cat"), "auto", r"names is not a list or mapping"),
    (named("valid/images", "[a, b]"), "auto", r"val has 2 folders; put .* into one folder"),
    (named("dog]", ""), "auto", r"data.yaml' is not YAML: "),
    (lambda r: semantic_root(r, mode="RGB"), "auto", r"a.png' is a PNG of 8-bit RGB; .* Convert"),
    (lambda r: semantic_root(r, mode="I;16"), "auto", r"a.png' is a PNG of 16-bit gray; "),
    (lambda r: semantic_root(r, value=255), "auto", r"only the values \[255\].* write 1 instead"),
    (lambda r: semantic_root(r, classes="1 a\n2 b"), "auto", r"does not number the classes 0, 1"),
]


@pytest.mark.parametrize("make, format, message", REFUSALS)
def test_refusals(pets, make, format, message):
    with pytest.raises(Unusable, match=message) as refusal:
        auto(make(pets), format)
    assert str(refusal.value).isascii() and "\n" not in str(refusal.value)
    assert gc.isenabled()


@pytest.mark.parametrize(
    "data, message",
    [
        ("", "'' is not auto: one of the names"),
        ("coco_2016", "'coco_2016' is not there; .* Near are 'coco_201"),
        ("sub/pet", r"'sub/pet' is not there; looked for '\S+sub/pet'. Near are '\S+sub/pets'"),
        ("cityscapes_fine_instance_seg", "outside of Meta .* leftImg8bit/"),
        ("\u00fcber", r"'\\xfcber' is not there"),
    ],
)
def test_refused_names(tmp_path, data, message):
    (tmp_path / "sub/pets").mkdir(parents=True)
    with pytest.raises(Unusable, match=message) as refusal:
        read(data, "auto", [tmp_path])
    assert str(refusal.value).isascii()


@pytest.mark.parametrize(
    "data, format, path",
    [
        *[(f"{format}:", format, "") for format in READERS],
        ("yolo:pets", "yolo", "pets"),
        ("yolo:C:\\pets", "yolo", "C:\\pets"),
        ("voc:~/my pets", "voc", "~/my pets"),
        ("voc:coco", "voc", "coco"),
        ("pets", "auto", "pets"),
        ("C:\\pets", "auto", "C:\\pets"),
        ("d:pets", "auto", "d:pets"),
        ("dogs/at 10:30", "auto", "dogs/at 10:30"),
        ("~/coco", "auto", "~/coco"),
        ("coco_2017", "auto", "coco_2017"),
        ("", "auto", ""),
        ("semantic", "auto", "semantic"),  # is there
        ("pets:2024", "auto", "pets:2024"),  # too
    ],
)
def test_what_was_typed_has_a_format_and_a_path(tmp_path, data, format, path):
    (tmp_path / "semantic").mkdir()
    (tmp_path / "pets:2024").mkdir()
    assert parse(data, [tmp_path / "elsewhere", tmp_path]) == (format, path)


@pytest.mark.parametrize(
    "data, message",
    [
        ("coco", "type 'coco:path/to/it', or 'coco:' for data that come later"),
        ("YOLO", "type 'yolo:path/to/it', or 'yolo:' for"),
        ("yollo:pets", "'yollo' is none of the formats .*voc.*'yollo:pets' is not .* 'yolo:pets'"),
        ("COCO:pets", "'COCO' is none of the formats .* type 'coco:pets'"),
        ("panoptic:", "'panoptic' is none of the formats .* type 'coco_panoptic:'"),
        ("builtin:coco_2017", "'builtin' is none of the formats .* type 'FORMAT:path/to/it'"),
        ("https://a.b/c.zip", "'https' is none of the formats .* type 'FORMAT:path/to/it'"),
        ("\u00fcber:pets", r"'\\xfcber' is none of the formats"),
        ("custom:pets", "custom reads no files; type 'custom' alone"),
        ("shapes:", "shapes reads no files; type 'shapes' alone"),
    ],
)
def test_refused_formats(tmp_path, data, message):
    with pytest.raises(Unusable, match=message) as refusal:
        parse(data, [tmp_path])
    assert str(refusal.value).isascii()


def test_refuses_what_may_not_be_read(pets, monkeypatch):
    coco_root(pets)
    monkeypatch.setattr(
        os,
        "scandir",
        lambda folder: (_ for _ in ()).throw(PermissionError(13, "Permission denied", folder)),
    )
    with pytest.raises(Unusable, match=r"pets' cannot be read: Permission denied"):
        auto(pets)


def test_yolo_needs_pyyaml(pets, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(Unusable, match="cannot be read without PyYAML"):
        auto(yolo_root(pets, YAML))


def test_sizes_are_read_from_images_where_json_has_none(pets):
    images(pets, "a.jpg", size=(30, 20))
    data = coco(["a.jpg"], images=[{"id": 0, "file_name": "a.jpg"}])
    assert auto(write(pets / "a.json", json.dumps(data)))["size"]["long"] == 30


def test_a_few_missing_images_are_a_note(pets):
    coco_root(pets)
    (pets / "train2017/b.jpg").unlink()
    notes = auto(pets)["notes"]
    assert any(re.match("1 of 2 images of train are missing, .*b.jpg'", note) for note in notes)


@pytest.mark.parametrize(
    "options, values",
    [({"mode": "L"}, {0, 3, 9}), ({"mode": "P"}, {0, 3, 9}), ({"mode": "P", "bits": 4}, {0, 3, 9})],
)
def test_label_values(tmp_path, options, values):
    image = Image.new(options["mode"], (33, 50))
    image.putpalette([0] * 48) if options["mode"] == "P" else None
    for x, y, value in [(5, 5, 3), (6, 5, 9), (7, 30, 9), (5, 31, 3)]:
        image.paste(value, (x, y, x + 20, y + 10))
    image.save(tmp_path / "a.png", **{k: v for k, v in options.items() if k == "bits"})
    assert label_values(tmp_path / "a.png") == values


def test_rows_of_every_png_filter():
    from read_dataset import unfiltered

    above, row = bytes([10, 200, 30, 40]), bytes([12, 190, 250, 41])
    left = bytes([0, *row[:-1]])
    paeth = [10, 200, 30, 250]  # by hand, from the specification
    for kind, guess in enumerate(
        [bytes(4), left, above, [(a + b) // 2 for a, b in zip(left, above, strict=True)], paeth]
    ):
        line = bytes((value - g) & 255 for value, g in zip(row, guess, strict=True))
        assert unfiltered(kind, line, above) == row


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "progressive.jpg", "exif.jpg", "a.bmp"])
def test_image_size(tmp_path, name):
    options = {"progressive.jpg": {"progressive": True}, "exif.jpg": {"exif": Image.Exif()}}
    Image.new("RGB", (70, 31)).save(tmp_path / name, **options.get(name, {}))
    assert image_size(tmp_path / name) == (None if name == "a.bmp" else (70, 31))


@pytest.mark.parametrize(
    "name, split",
    [("instances_train2017", "train"), ("training", "train"), ("valid", "val"), ("dev", "val"),
     ("test-dev2017", "test"), ("trainval", "trainval"), ("valves", ""), ("latest", ""),
     ("Validation", "val"), ("obj_train_data", "train"), ("images/test", "test")],
)  # fmt: skip
def test_split_of(name, split):
    assert split_of(name) == split


def test_truncated_images_have_no_size(tmp_path):
    for start in (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13), b""):
        (tmp_path / "a.jpg").write_bytes(start)
        assert image_size(tmp_path / "a.jpg") is None
