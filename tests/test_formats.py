"""The readers of formats, with the standard library alone: what they find, and every refusal."""

import gc
import json
import os
import re
import struct
import sys

import pytest
from made_data import (
    city_root,
    coco,
    coco_root,
    images,
    keypoints_root,
    lvis_root,
    panoptic_root,
    semantic_root,
    voc_flat,
    voc_root,
    write,
    xml,
    yolo_root,
)
from PIL import Image

from d2_starter.formats import READERS, Scan, Unusable, builtin, parse, scan
from d2_starter.formats.base import split_of
from d2_starter.formats.files import image_size, json_entries, read_lines
from d2_starter.formats.semantic import _unfiltered, label_values

HELD_OUT = "There is one set of annotations: a share will be held out for validation."


@pytest.fixture
def pets(tmp_path):
    return tmp_path / "pets"


def found(path, format="") -> Scan:
    result = scan(f"{format}:{path}" if format else str(path), [])
    assert json.loads(json.dumps(result.entry)) == result.entry
    assert all(note.isascii() and note.endswith((".", "them")) for note in result.notes)
    return result


def test_coco_in_its_own_layout_as_folder_and_as_file(pets):
    coco_root(pets)
    name = "annotations/instances_%s2017.json"
    result = found(pets)
    assert result.entry == {
        "name": "pets", "format": "coco", "root": str(pets), "tasks": ["boxes", "masks"],
        "classes": ["cat", "dog"],
        "splits": {
            split: {"annotations": name % split, "images": f"{split}2017"}
            for split in ("train", "val")
        },
    }  # fmt: skip
    assert result.images == {"train": 2, "val": 1} and result.objects == {"train": 6, "val": 3}
    assert result.counts == {"cat": 4, "dog": 2}
    assert (result.short, result.long, result.small) == (48, 64, 20.0)
    assert result.notes == ["The split test is left out: it has no annotations."]
    assert found(pets / (name % "train")).entry == result.entry
    assert scan("pets/" + name % "train", [pets, pets.parent]).entry == result.entry


def test_coco_exported_by_roboflow(pets):
    for split in ("train", "valid", "test"):
        images(pets / split, "a.jpg")
        write(pets / split / "_annotations.coco.json", json.dumps(coco(["a.jpg"])))
    for path in (pets, pets / "train/_annotations.coco.json"):
        result = found(path)
        assert result.entry["root"] == str(pets)
        for split, folder in {"train": "train", "val": "valid", "test": "test"}.items():
            place = {"annotations": f"{folder}/_annotations.coco.json", "images": folder}
            assert result.entry["splits"][split] == place
        assert result.notes == ["1 classes have no objects in train: 'dog'."]


@pytest.mark.parametrize(
    "folder, file, given",
    [
        ("images", "annotations/instances_default.json", ""),  # CVAT
        ("data", "labels.json", ""),  # FiftyOne
        ("", "all.json", "all.json"),
        ("images/train", "train.json", "train.json"),
        ("train/images", "annotations/train.json", ""),
        ("train", "annotations/val.json", ""),  # the only one: used for training
    ],
)
def test_coco_with_one_set_of_annotations(pets, folder, file, given):
    images(pets / folder, "a.jpg", "b.jpg")
    write(pets / file, json.dumps(coco(["a.jpg", "b.jpg"])))
    result = found(pets / given)
    assert result.entry["splits"] == {"train": {"annotations": file, "images": folder}}
    assert result.entry["val_share"] == 0.2 and HELD_OUT in result.notes


def test_coco_with_keypoints_and_crowds(pets):
    data = coco(["a.jpg"], objects=4)
    names = ["nose", "left_eye", "right_eye"]
    data["categories"][0] |= {"keypoints": names, "skeleton": [[1, 2]]}
    data["annotations"][0] |= {"keypoints": [1, 1, 2] + [0] * 6}
    data["annotations"][1]["segmentation"] = {"counts": "x", "size": [48, 64]}
    data["annotations"][2] |= {"segmentation": [], "bbox": [0, 0, 3, 3]}
    data["annotations"][3] |= {"iscrowd": 1, "bbox": [0, 0, 1, 1]}
    images(pets, "a.jpg")
    result = found(write(pets / "train.json", json.dumps(data)).parent)
    assert result.entry["tasks"] == ["boxes", "masks", "keypoints"]
    pairs = {"flips": [["left_eye", "right_eye"]]}
    assert result.entry["keypoints"] == {"names": names, "skeleton": [["nose", "left_eye"]]} | pairs
    assert result.small == 3.0 and result.counts == {"cat": 2, "dog": 2}
    data["annotations"][0]["keypoints"] = [0] * 9
    data["annotations"][1] |= {"segmentation": [], "iscrowd": 0}
    write(pets / "train.json", json.dumps(data))
    assert found(pets).entry["tasks"] == ["boxes"]


def test_panoptic_beside_instances(pets):
    coco_root(pets)
    panoptic_root(pets / "p")
    for split, name in {"train2017": "a", "val2017": "c"}.items():
        annotation = {"image_id": 0, "file_name": f"{name}.png"}
        annotation["segments_info"] = [{"id": 1, "category_id": 3, "bbox": [1, 2, 10, 40]}] * 2
        text = json.dumps(coco([f"{name}.jpg"], annotations=[annotation]))
        write(pets / f"annotations/panoptic_{split}.json", text)
        images(pets / f"panoptic_{split}", f"{name}.png")
    import shutil

    shutil.rmtree(pets / "p")
    note = "Read as coco; the files are also coco_panoptic: type coco_panoptic:..."
    assert f"{note} to have them read so." in found(pets).notes
    result = found(pets, "coco_panoptic")
    assert result.entry["splits"]["train"] == {
        "annotations": "annotations/panoptic_train2017.json", "images": "train2017",
        "segments": "panoptic_train2017", "instances": "annotations/instances_train2017.json",
    }  # fmt: skip
    assert result.entry["tasks"] == ["boxes", "masks", "panoptic", "semantic"]
    assert result.counts["cat"] == 2 and result.objects["train"] == 2
    (pets / "panoptic_train2017/a.png").unlink()
    with pytest.raises(Unusable, match=r"1 of 1 masks of train are missing; looked in .*'a.png'"):
        found(pets, "coco_panoptic")


def test_lvis(pets):
    result = found(lvis_root(pets))
    assert result.entry["format"] == "lvis" and result.entry["tasks"] == ["boxes", "masks"]
    assert result.entry["splits"]["val"] == {"annotations": "lvis_val.json", "images": ""}


def test_voc_in_its_own_layout(pets):
    voc_root(pets)
    write(pets / "ImageSets/Main/trainval.txt", "a\nb\nc\n")
    write(pets / "ImageSets/Main/test.txt", "c\nmissing\n")
    write(pets / "ImageSets/Main/ok_train.txt", "a  1\nb -1\n")
    result = found(pets)
    places = {"annotations": "Annotations", "images": "JPEGImages"}
    assert result.entry["splits"]["train"] == {"list": "ImageSets/Main/train.txt"} | places
    assert result.images == {"train": 2, "val": 1, "test": 1}
    assert result.entry["classes"] == ["ok", "worn"] and result.counts == {"ok": 2, "worn": 1}
    assert result.notes[-1].startswith("1 image without a file of annotations, for example 'miss")
    (pets / "ImageSets/Main/val.txt").unlink()
    result = found(pets.rename(pets.with_name("VOC2012")).parent)  # the folder around it
    assert result.entry["splits"]["train"]["list"] == "VOC2012/ImageSets/Main/trainval.txt"
    assert result.entry["splits"]["val"]["list"] == "VOC2012/ImageSets/Main/test.txt"
    assert "There is no split val, so test is used for it." in result.notes


def test_voc_beside_the_images(pets):
    result = found(voc_flat(pets))
    assert result.entry["splits"] == {"train": {"list": "", "annotations": "", "images": ""}}
    assert result.entry["classes"] == ["ok", "worn"] and result.short == 20
    assert any("b.xml' is not XML" in note for note in result.notes)


@pytest.mark.parametrize("annotations, folder", [("%s", "%s"), ("annotations/%s", "images/%s")])
def test_voc_in_split_folders(pets, annotations, folder):
    for split in ("train", "valid", "test"):  # of the same names
        images(pets / (folder % split), "a.jpg")
        write(pets / (annotations % split) / "a.xml", xml("dog" if split == "valid" else "cat"))
    result = found(pets)
    place = {"list": "", "annotations": annotations % "valid", "images": folder % "valid"}
    assert result.entry["splits"]["val"] == place
    assert result.entry["classes"] == ["cat", "dog"] and result.counts == {"cat": 1, "dog": 0}


@pytest.mark.parametrize(
    "yaml",
    [
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat, dog]",
        "path: /gone\ntrain: train\nval: [valid/images]\ntest: test\nnames: {1: dog, 0: cat}",
    ],
)
def test_yolo_with_yaml(pets, yaml):
    yolo_root(pets, yaml)
    for path in (pets, pets / "data.yaml"):
        result = found(path)
        place = {"images": ["valid/images"], "description": "data.yaml"}
        assert result.entry["splits"]["val"] == place
        assert result.entry["tasks"] == ["boxes", "masks"] and result.counts == {"cat": 1, "dog": 1}
        assert (result.short, result.small) == (100, round((10 * 40) ** 0.5, 1))
        assert "The split test is left out: it has no annotations." in result.notes


@pytest.mark.parametrize("names", ["classes.txt", "obj.names", "labels/classes.txt", ""])
def test_yolo_without_yaml(pets, names):
    for split, number in {"train": 1, "val": 2}.items():
        images(pets / "images" / split, "a.jpg")
        lines = f"{number} .5 .5 .1 .1\n2 .5 .5 .1 .1 .9 .9\n-1 .5 .5 .1 .1\n2 .5 .5 .1 .1 .9\n"
        write(pets / f"labels/{split}/a.txt", lines)
    if names:
        write(pets / names, "cat\ndog\nemu\n")
    result = found(pets)
    assert result.entry["splits"]["val"] == {"images": ["images/val"], "description": names}
    classes = ["cat", "dog", "emu"] if names else ["class_0", "class_1", "class_2"]
    assert result.entry["classes"] == classes and result.objects == {"train": 3, "val": 3}
    assert any(note.startswith("2 lines that are neither a box") for note in result.notes)


def test_yolo_lists_of_images_and_poses(pets):
    images(pets / "obj_train_data", "a.jpg")
    write(pets / "obj_train_data/a.txt", "0 .5 .5 .1 .1 .2 .2 2 .3 .3 0\n")
    write(pets / "train.txt", "obj_train_data/a.jpg\n")
    flip = "kpt_shape: [2, 3]\nflip_idx: [1, 0]\n"
    write(pets / "p.yaml", f"train: train.txt\nval: train.txt\nnc: 1\n{flip}")
    result = found(pets)
    assert result.entry["classes"] == ["class_0"]
    assert result.entry["tasks"] == ["boxes", "keypoints"]
    assert result.entry["keypoints"]["flips"] == [["keypoint_0", "keypoint_1"]]
    assert result.notes == ["The splits train and val are the same files."]


@pytest.mark.parametrize(
    "labels, classes, names",
    [
        ("labels", "cat\ndog\nemu\n", ["cat", "dog", "emu"]),
        ("SegmentationClass", "0: cat\n1: dog\n2: emu", ["cat", "dog", "emu"]),
        ("masks", "# label:color\ncat:0,0,0::\ndog:9,9,9::\nemu:1,1,1::", ["cat", "dog", "emu"]),
        ("annotations", None, ["class_0", "class_1", "class_2"]),
    ],
)
def test_semantic(pets, labels, classes, names):
    result = found(semantic_root(pets, labels, classes))
    place = {"labels": f"{labels}/val", "images": "images/val"}
    assert result.entry["splits"]["val"].items() >= place.items()
    assert result.entry["tasks"] == ["semantic"] and result.entry["classes"] == names
    assert result.images == {"train": 1, "val": 1} and (result.short, result.long) == (48, 64)
    sample = "No classes.txt, so the 3 classes are those in 1 maps."
    assert (sample in result.notes) == (classes is None)


@pytest.mark.parametrize("value, ignored", [(200, 200), (255, None), (1, None)])
def test_a_value_that_is_no_class_is_ignored(pets, value, ignored):
    result = found(semantic_root(pets, classes="cat\ndog\n", value=value))
    assert result.entry.get("ignore_label") == ignored


def test_cityscapes(pets):
    result = found(city_root(pets))
    place = {"images": "leftImg8bit/val", "labels": "gtFine/val"}
    assert result.entry["splits"] == {"train": place | {k: v.replace("val", "train")
                                      for k, v in place.items()}, "val": place}  # fmt: skip
    assert result.entry["tasks"] == ["boxes", "masks", "semantic"]
    assert result.entry["classes"][2] == "car" and sum(result.counts.values()) == 1
    assert (result.short, result.long, result.small) == (48, 64, 20.0)


def test_a_folder_may_be_called_like_the_datasets_of_cityscapes(tmp_path):
    root = city_root(tmp_path / "cityscapes_small")
    assert scan("cityscapes_small", [tmp_path]).entry["root"] == str(root)


def test_built_in_names(pets):
    (pets / "coco_2017").mkdir(parents=True)
    result = scan("coco_2017_train", [pets])
    assert result.entry["splits"]["val"] == {"name": "coco_2017_val"}
    assert result.entry["tasks"] == ["boxes", "masks"] and not result.images
    for name in builtin.TASKS:
        assert scan(name, []).entry["name"] == name
    assert scan("voc_2007", []).entry["splits"]["val"]["name"] == "voc_2007_test"
    with pytest.raises(Unusable, match=r"'coco_2017' is a dataset .* or 'coco:./coco_2017' for"):
        scan("coco:coco_2017", [pets])
    with pytest.raises(Unusable, match=r"coco_2017' has 0 images, but no annotations were found"):
        scan("./coco_2017", [pets])


@pytest.mark.parametrize(
    "folder, name",
    [("Pets & Co", "pets_co"), ("2024", "my_2024"), ("coco_2017x", "my_coco_2017x"),
     ("p" * 99, "p" * 40), ("\u00fc", "my_dataset"), ("pets/train", "pets")],
)  # fmt: skip
def test_suggested_name(tmp_path, folder, name):
    assert found(voc_flat(tmp_path / folder)).entry["name"] == name


def changed(**more):
    return lambda root: write(root / "train.json", json.dumps(coco(["a.jpg"]) | more))


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


def no_training(root):
    for split in ("val", "test"):
        write(root / f"{split}.json", json.dumps(coco(["a.jpg"])))
    return root


YAML = "train: train/images\nval: valid/images\nnames: [cat, dog]\n"
TWO = [{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]


def named(old: str, new: str):
    return lambda root: yolo_root(root, YAML.replace(old, new))


def file(name: str, text: str = ""):
    return lambda root: write(root / name, text)


def in_folder(name: str, text: str = ""):
    return lambda root: write(root / name, text).parent


def only_images(root):
    images(root, "a.jpg")
    return root


def many_lines(root):
    yolo_root(root, YAML)
    write(root / "train/labels/a.txt", "0 30 40 20 20\n1 50 60 10 12\n")
    return root


REFUSALS = [
    (lambda r: r / "cat.json", "", r"'\S*cat.json' is not there; looked for '\S*cat.json'"),
    (only_images, "", r"has 1 images, but no annotations were found.* yolo: data.yaml"),
    (only_images, "", r"datum convert -i PATH -f coco"),
    (file("pets.zip"), "", r"pets.zip' is an archive; unpack it and type the folder 'pets'"),
    (in_folder("pets.zip"), "", r"Unpack 'pets.zip' first"),
    (file("notes.txt"), "", r"notes.txt' is a file of none of the formats"),
    (coco_root, "yolo", r"pets' is not yolo, which needs data.yaml.*it looks like coco\Z"),
    (no_images, "", r"2 of 2 images of train are missing; looked in '\S+', .* for 'a.jpg'"),
    (two_sets, "", r"there are 2 sets of annotations for train; type .* of one: .*2014"),
    (no_training, "", r"there are the splits test and val, but none for training"),
    (file("a.json", '{"images": ['), "", r"a.json' is not JSON, or not all of it"),
    (file("a.json", '{"images": []}'), "", r"lacks the key 'images'"),
    (changed(annotations=[]), "", r"no annotations for training in '\S+train.json'\."),
    (changed(annotations=[{}]), "", r"no annotations for training.* no 'image_id'"),
    (changed(categories=TWO), "", r"train.json': two categories have the id 3"),
    (changed(categories=[{"id": 7, "name": "dog"}]), "", r"no annotations .* category_id 3'"),
    (in_folder("a.xml", "<annotation><object>"), "voc", r"none of the files is Pascal VOC's XML"),
    (named(", dog", ""), "", r"has the class 1, but only 1 have names, from 0: 'cat'"),
    (named("valid", "v"), "", r"val is not there; looked for '\S+v/images'"),
    (named("[cat, dog]", "{1: a}"), "", r"does not number the names 0, 1"),
    (named("[cat, dog]", "cat"), "", r"names is not a list or mapping"),
    (named("[cat, dog]", "[[cat], dog]"), "", r"names are not all text"),
    (named("names: [cat, dog]", "nc: 1000000000"), "", r"nc is 1000000000; up to 10000 classes"),
    (named("dog]", ""), "", r"data.yaml' is not YAML: "),
    (named("[cat, dog]", "!!python/object/apply:os.system [false]"), "", r"is not YAML: .*tag"),
    (many_lines, "", r"2 of 2 lines have numbers above 1.*pixels"),
    (lambda r: semantic_root(r, mode="RGB"), "", r"a.png' is a PNG of 8-bit RGB; .* Convert"),
    (lambda r: semantic_root(r, mode="I;16"), "", r"a.png' is a PNG of 16-bit gray; "),
    (lambda r: semantic_root(r, value=255), "", r"only the values \[255\].* write 1 instead"),
    (lambda r: semantic_root(r, classes="1 a\n2 b"), "", r"does not number the classes 0, 1"),
]


@pytest.mark.parametrize("make, format, message", REFUSALS)
def test_refusals(pets, make, format, message):
    with pytest.raises(Unusable, match=message) as refusal:
        found(make(pets), format)
    assert str(refusal.value).isascii() and "\n" not in str(refusal.value)
    assert gc.isenabled()


@pytest.mark.parametrize(
    "data, message",
    [
        ("coco_2016", "'coco_2016' is not there; .* Near are 'coco_201"),
        ("sub/pet", r"'sub/pet' is not there; looked for '\S+sub/pet'. Near are '\S+sub/pets'"),
        ("cityscapes_fine_instance_seg", "outside of Meta .* leftImg8bit/"),
        ("\u00fcber", r"'\\xfcber' is not there"),
        ("coco", "type 'coco:path/to/it', or 'coco:' for data that come later"),
        ("YOLO", "type 'yolo:path/to/it', or 'yolo:' for"),
        ("yollo:pets", "'yollo' is none of the formats .*voc.*'yollo:pets' is not .* 'yolo:pets'"),
        ("builtin:coco_2017", "'builtin' is none of the formats .* type 'FORMAT:path/to/it'"),
        ("https://a.b/c.zip", "'https' is none of the formats .* type 'FORMAT:path/to/it'"),
        ("custom:pets", "custom reads no files; type 'custom' alone"),
        ("shapes:", "shapes reads no files; type 'shapes' alone"),
    ],
)
def test_refused_names(tmp_path, data, message):
    (tmp_path / "sub/pets").mkdir(parents=True)
    with pytest.raises(Unusable, match=message) as refusal:
        scan(data, [tmp_path])
    assert str(refusal.value).isascii()


@pytest.mark.parametrize(
    "data, format, path",
    [
        *[(f"{format}:", format, "") for format in READERS],
        ("yolo:C:\\pets", "yolo", "C:\\pets"),
        ("voc:~/my pets", "voc", "~/my pets"),
        ("C:\\pets", "auto", "C:\\pets"),
        ("dogs/at 10:30", "auto", "dogs/at 10:30"),
        ("semantic", "auto", "semantic"),  # is there
        ("pets:2024", "auto", "pets:2024"),  # too
    ],
)
def test_what_was_typed_has_a_format_and_a_path(tmp_path, data, format, path):
    (tmp_path / "semantic").mkdir()
    (tmp_path / "pets:2024").mkdir()
    assert parse(data, [tmp_path / "elsewhere", tmp_path]) == (format, path)


def test_refuses_what_may_not_be_read(pets, monkeypatch):
    coco_root(pets)

    def scandir(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(Unusable, match=r"pets' cannot be read: Permission denied"):
        found(pets)


def test_yolo_needs_pyyaml(pets, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(Unusable, match=r"cannot be read without PyYAML"):
        found(yolo_root(pets, YAML))


def test_a_few_missing_images_are_a_note(pets):
    coco_root(pets)
    (pets / "train2017/b.jpg").unlink()
    notes = found(pets).notes
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
    assert label_values(str(tmp_path / "a.png")) == values


def test_rows_of_every_png_filter():
    above, row = bytes([10, 200, 30, 40]), bytes([12, 190, 250, 41])
    left = bytes([0, *row[:-1]])
    paeth = [10, 200, 30, 250]  # by hand, from the specification
    for kind, guess in enumerate(
        [bytes(4), left, above, [(a + b) // 2 for a, b in zip(left, above, strict=True)], paeth]
    ):
        line = bytes((value - g) & 255 for value, g in zip(row, guess, strict=True))
        assert _unfiltered(kind, line, above) == row


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "progressive.jpg", "turned.jpg", "a.bmp"])
def test_image_size(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"progressive.jpg": {"progressive": True}, "turned.jpg": {"exif": exif}}
    Image.new("RGB", (70, 31)).save(tmp_path / name, **options.get(name, {}))
    expected = (31, 70) if name == "turned.jpg" else (70, 31)
    assert image_size(str(tmp_path / name)) == expected


def test_truncated_images_have_no_size(tmp_path):
    for start in (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13), b""):
        (tmp_path / "a.jpg").write_bytes(start)
        assert image_size(str(tmp_path / "a.jpg")) is None


@pytest.mark.parametrize(
    "name, split",
    [("instances_train2017", "train"), ("training", "train"), ("valid", "val"), ("dev", "val"),
     ("test-dev2017", "test"), ("trainval", "trainval"), ("valves", ""), ("latest", ""),
     ("Validation", "val"), ("obj_train_data", "train"), ("images/test", "test")],
)  # fmt: skip
def test_split_of(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("size", [7, 100, 1 << 20])
def test_json_is_read_in_parts(tmp_path, monkeypatch, indent, size):
    monkeypatch.setattr("d2_starter.formats.files.CHUNK", size)
    content = {"a": [{"b": [1, 2.5]}, "\u00fc}", 3], "c": {"d": None}, "e": [], "f": [[1], [2]]}
    file = write(tmp_path / "a.json", json.dumps(content, indent=indent))
    entries = [("a", x) for x in content["a"]] + [("c", {"d": None}), ("f", [1]), ("f", [2])]
    assert list(json_entries(file)) == entries
    assert list(json_entries(write(file, "[1, {}]"))) == [("", 1), ("", {})]
    for text in ("", "{", '{"a": [1', '{"a": [1,]}', '{"a" 1}', "3"):
        with pytest.raises(Unusable, match=r"is not JSON"):
            list(json_entries(write(file, text)))


def test_lines(tmp_path):
    file = write(tmp_path / "a.txt", "\ufeffone\n\n# two\n  three four \r\n")
    assert read_lines(file) == ["one", "three four"]


def test_keypoints_are_named(pets):
    assert found(keypoints_root(pets)).entry["keypoints"]["names"][0] == "nose"
