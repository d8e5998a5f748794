"""What people's tools really write, after public reports: read right, or refused in words.

Each dataset has ten images with one cat and one dog (`made_data.boxes`). The right reading is these
20 objects, unless the case says otherwise.
"""

import json
import os
import re
import shutil

import pytest
from made_data import (
    NAMES,
    boxes,
    images,
    pets_coco,
    pets_images,
    pets_voc,
    pets_yolo,
    write,
)
from PIL import Image

from d2_starter.formats import Unusable, read_split, scan


def contents(path, splits=("train", "val")):
    """Returns the scan, and {image: {class: box}} of all records as training reads them."""
    found = scan(str(path), [])
    entry, read = found.entry, {}
    names = entry.get("keypoints", {}).get("names", [])
    for split in [split for split in splits if split in entry["splits"]]:
        for record in read_split(entry, split, entry["classes"], names).records:
            objects = read.setdefault(os.path.basename(record["file_name"]), {})
            for annotation in record["annotations"]:
                a, b, c, d = annotation["bbox"]
                is_xyxy = annotation["bbox_mode"] == 0
                box = (a, b, c - a, d - b) if is_xyxy else (a, b, c, d)
                objects[entry["classes"][annotation["category_id"]]] = pytest.approx(box, abs=0.02)
            assert os.path.exists(record["file_name"])
            assert (record["width"], record["height"]) == (120, 80)
    return found, read


def expected(ending=".jpg"):
    return {f"{name}{ending}": boxes(i) for i, name in enumerate(NAMES)}


def said(found, text):
    return any(re.search(text, note) for note in found.notes)


# ---- COCO --------------------------------------------------------------------------------------


def each(kind, change):
    def apply(content):
        for entry in content[kind]:
            change(entry)

    return apply


def without(kind, *keys):
    return each(kind, lambda entry: [entry.pop(key, None) for key in keys])


def name_as(pattern):
    return each("images", lambda image: image.update(file_name=pattern(image["file_name"])))


def polygon(annotation):
    x, y, w, h = annotation["bbox"]
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def with_keypoints(annotation):
    x, y, w, h = annotation["bbox"]
    annotation["keypoints"] = [x, y, 2, x + w, y + h, 2]


def named_keypoints(content):
    each("annotations", with_keypoints)(content)
    content["categories"][0]["keypoints"] = ["left", "right"]


FOUND = "images whose names in the annotations are not those of their files"
# name: what is done to the JSON, what is said, tasks
COCO_CASES = {
    "plain": (lambda c: None, "", ["boxes"]),
    "dup_ann_ids": (each("annotations", lambda a: a.update(id=0)), "19 annotations with the id", 0),
    "no_ann_ids": (without("annotations", "id"), "", 0),
    "flat_seg": (
        each("annotations", lambda a: a.update(segmentation=polygon(a))),
        "",
        ["boxes", "masks"],
    ),
    "no_bbox": (
        each("annotations", lambda a: a.update(segmentation=[polygon(a)], bbox=None)),
        "20 objects with a mask, but without a box",
        ["boxes", "masks"],
    ),
    "no_size": (without("images", "width", "height"), "", 0),
    "backslash": (name_as(lambda n: f"images\\{n}"), "", 0),
    "abs_posix": (name_as(lambda n: f"/home/somebody/data/images/{n}"), f"10 {FOUND}", 0),
    "case_mismatch": (name_as(str.upper), f"10 {FOUND}.*IMG_00.JPG is images/img_00.jpg", 0),
    "url_names": (name_as(lambda n: f"https://example.org/d/{n}"), f"10 {FOUND}", 0),
    "keypoints_no_names": (
        each("annotations", with_keypoints),
        "do not name the keypoints .*Only the boxes are read",
        ["boxes"],
    ),
    "no_area": (without("annotations", "area"), "", 0),
    "no_iscrowd": (without("annotations", "iscrowd"), "", 0),
    "no_num_keypoints": (named_keypoints, "", ["boxes", "keypoints"]),
    "rle_without_bbox": (
        each("annotations", lambda a: a.update(segmentation=rle(*a["bbox"]), bbox=[])),
        "20 objects with a mask, but without a box",
        ["boxes", "masks"],
    ),
}


def rle(x, y, w, h):
    runs = [x * 80 + y, h]
    for _ in range(w - 1):
        runs += [80 - h, h]
    return {"size": [80, 120], "counts": [*runs, 9600 - sum(runs)]}


@pytest.mark.parametrize("case", COCO_CASES)
def test_coco(tmp_path, case):
    change, note, tasks = COCO_CASES[case]
    content = pets_coco()
    change(content)
    pets_images(tmp_path / "images")
    write(tmp_path / "annotations/instances_default.json", json.dumps(content))
    found, read = contents(tmp_path)
    assert read == expected()
    assert said(found, note) and (note or len(found.notes) == 1)
    assert found.entry["tasks"] == (tasks or ["boxes"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_coco_with_a_byte_order_mark(tmp_path, encoding):
    pets_images(tmp_path / "images")
    write(tmp_path / "a.json", json.dumps(pets_coco()).encode(encoding))
    assert contents(tmp_path)[1] == expected()


def test_coco_with_an_empty_bbox(tmp_path):
    content = pets_coco()
    content["annotations"][3]["bbox"] = []
    pets_images(tmp_path / "images")
    write(tmp_path / "a.json", json.dumps(content))
    found, read = contents(tmp_path)
    assert read["img_01.jpg"] == {"cat": boxes(1)["cat"]} and found.objects == {"train": 19}
    assert said(found, "1 object without a box.*annotation 4 of image 2")


def test_coco_of_crowds_alone(tmp_path):
    content = pets_coco()
    each("annotations", lambda a: a.update(iscrowd=1, segmentation=rle(*a["bbox"])))(content)
    pets_images(tmp_path / "images")
    write(tmp_path / "a.json", json.dumps(content))
    with pytest.raises(Unusable, match=r"all 20 objects .* are crowds .*nothing is left"):
        scan(str(tmp_path), [])


# ---- Pascal VOC --------------------------------------------------------------------------------


def replaced(old, new, only=None):
    def change(root):
        for file in sorted(root.glob("Annotations/*.xml"))[only : only and only + 1]:
            file.write_text(re.sub(old, new, file.read_text(), count=1))

    return change


def listed(root, names):
    for split, some in (("train", names[:7]), ("val", names[7:])):
        write(root / f"ImageSets/Main/{split}.txt", "".join(f"{name}\n" for name in some))


def with_blanks(root):
    for i, name in enumerate(NAMES):
        for folder, ending in (("Annotations", "xml"), ("JPEGImages", "jpg")):
            file = root / folder / f"{name}.{ending}"
            if ending == "xml":
                file.write_text(file.read_text().replace(name, f"img {i:02d} (copy)"))
            file.rename(file.with_stem(f"img {i:02d} (copy)"))
    marks = ["", "  1", " -1", " 0"]
    listed(root, [f"img {i:02d} (copy){marks[i % 4]}" for i in range(10)])


def renamed_images(root):
    for i, file in enumerate(sorted(root.glob("JPEGImages/*"))):
        file.rename(file.with_name(f"photo-{i}.jpg"))
    for i, file in enumerate(sorted(root.glob("Annotations/*.xml"))):
        file.write_text(file.read_text().replace(f"{NAMES[i]}.jpg", f"photo-{i}.jpg"))


def reverse(root):
    replaced(r"<xmin>(\d+)</xmin>(.*?)<xmax>(\d+)<", r"<xmin>\3</xmin>\2<xmax>\1<", 3)(root)


VOC_CASES = {
    "plain": (lambda r: None, "", 20),
    "float_size": (replaced("<height>80<", "<height>80.0<"), "", 20),
    "zero_size": (replaced("<width>120</width><height>80<", "<width>0</width><height>0<"), "", 20),
    "list_ext": (lambda r: listed(r, [f"{name}.jpg" for name in NAMES]), "", 20),
    "reversed": (reverse, r"1 box whose first corner .*img_03.xml, object 1: .*in order", 20),
    "other_filename": (
        replaced("<filename>.*</filename>", "<filename>photo.jpg</filename>"),
        "10 files of annotations that name another .*img_00.xml says photo.jpg; .* read as img_00",
        20,
    ),
    "images_with_other_names": (renamed_images, "", 20),
    "no_bndbox": (
        replaced("<bndbox>.*?</bndbox>", "", 3),
        "1 object without a box.*img_03.xml, object 1",
        19,
    ),
    "empty_name": (
        replaced("<name>cat<", "<name> <", 3),
        "1 object without the name of a class.*img_03.xml, object 1",
        19,
    ),
    "spaces": (with_blanks, "", 20),
    "no_size": (replaced("<size>.*</size>", ""), "", 20),
}


@pytest.mark.parametrize("case", VOC_CASES)
def test_voc(tmp_path, case):
    change, note, number = VOC_CASES[case]
    pets_voc(tmp_path)
    change(tmp_path)
    found, read = contents(tmp_path)
    assert sum(found.objects.values()) == number
    assert found.images == ({"train": 7, "val": 3} if "val" in found.images else {"train": 10})
    assert found.entry["classes"] == ["cat", "dog"]
    if number == 20:
        assert list(read.values()) == list(expected().values())
    assert said(found, note) if note else not said(found, "for example")


def test_voc_with_another_image_in_filename(tmp_path):
    """All files contradict their names: <filename> decides, as each names one of its own."""
    pets_voc(tmp_path)
    for i, name in enumerate(NAMES):
        file = tmp_path / f"Annotations/{name}.xml"
        file.write_text(file.read_text().replace(f"{name}.jpg", f"{NAMES[i - 1]}.jpg"))
    found, read = contents(tmp_path)
    assert read == {f"{NAMES[i - 1]}.jpg": boxes(i) for i in range(10)}
    assert said(found, "10 files of annotations that name another .*img_00.xml says img_09.jpg")


def test_voc_with_one_image_in_two_filenames(tmp_path):
    pets_voc(tmp_path)
    file = tmp_path / "Annotations/img_03.xml"
    file.write_text(file.read_text().replace("img_03.jpg", "img_05.jpg"))
    found, read = contents(tmp_path)
    assert read == expected()
    assert said(found, "1 file of annotations .*img_03.xml says img_05.jpg; it is read as img_03")


def test_voc_classes_that_differ_by_case(tmp_path):
    pets_voc(tmp_path)
    replaced("<name>cat<", "<name>Cat<", 3)(tmp_path)
    found, _ = contents(tmp_path)
    assert found.entry["classes"] == ["Cat", "cat", "dog"]
    assert said(found, "1 class whose names differ by upper and lower case alone.*'Cat and cat'")


def test_voc_in_subfolders(tmp_path):
    pets_voc(tmp_path)
    names = []
    for i, name in enumerate(NAMES):
        for folder, ending in (("Annotations", "xml"), ("JPEGImages", "jpg")):
            file = tmp_path / folder / f"{name}.{ending}"
            (file.parent / f"batch{i % 2}").mkdir(exist_ok=True)
            file.rename(file.parent / f"batch{i % 2}" / file.name)
        names.append(f"batch{i % 2}/{name}\n")
    write(tmp_path / "ImageSets/Main/default.txt", "".join(names))
    assert contents(tmp_path)[1] == expected()


def test_voc_with_rotated_boxes(tmp_path):
    pets_voc(tmp_path)
    rotated = "<robndbox><cx>25</cx><cy>32</cy><w>30</w><h>25</h><angle>0.3</angle></robndbox>"
    for file in tmp_path.glob("Annotations/*.xml"):
        file.write_text(re.sub("<bndbox>.*?</bndbox>", rotated, file.read_text()))
    with pytest.raises(Unusable, match=r"rotated boxes \(robndbox\).* export upright boxes"):
        scan(str(tmp_path), [])
    pets_voc(tmp_path, names=NAMES[:9])
    assert said(scan(str(tmp_path), []), "2 boxes that are rotated.*left out")


# ---- YOLO --------------------------------------------------------------------------------------


def lines(change, only=None):
    def apply(root):
        for file in sorted(root.glob("labels/*/*.txt"))[only : only and only + 1]:
            file.write_text(change(file.read_text()))

    return apply


def nested(root):
    for i, name in enumerate(NAMES[:7]):
        for kind, ending in (("images", "jpg"), ("labels", "txt")):
            folder = root / f"{kind}/train/seq{1 + i // 4}"
            folder.mkdir(exist_ok=True)
            (folder.parent / f"{name}.{ending}").rename(folder / f"{name}.{ending}")


def two_folders(root):
    write(root / "data.yaml", "train: [a/images, b/images]\nnames: [cat, dog]\n")
    for kind in ("images", "labels"):
        for split, folder in (("train", "a"), ("val", "b")):
            shutil.move(root / kind / split, root / folder / kind)


def cvat_ultralytics(root):
    for kind in ("images", "labels"):
        for file in (root / kind / "val").iterdir():
            file.rename(root / kind / "train" / file.name)
    text = "".join(f"data/images/train/{name}.jpg\n" for name in NAMES)
    write(root / "train.txt", text)
    write(root / "data.yaml", "names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\n")


def roboflow(root):
    for split, folder in (("train", "train"), ("val", "valid")):
        for kind in ("images", "labels"):
            (root / folder).mkdir(exist_ok=True)
            shutil.move(root / kind / split, root / folder / kind)
    text = "train: pets-1/train/images\nval: pets-1/valid/images\nnc: 2\nnames: ['cat', 'dog']\n"
    write(root / "data.yaml", text)


def as_jfif(root):
    for file in list(root.glob("images/*/*.jpg")):
        file.rename(file.with_suffix(".jfif"))


def in_cmyk(root):
    for file in list(root.glob("images/*/*.jpg")):
        file.unlink()
        images(file.parent, f"{file.name}.jpeg", size=(120, 80), mode="CMYK")


def scored(text):
    return "".join(f"{line} 0.9\n" for line in text.splitlines())


YOLO_CASES = {
    "plain": (lambda r: None, "", ".jpg"),
    "bom": (lines(lambda t: f"\ufeff{t}"), "", ".jpg"),
    "comment": (lines(lambda t: f"# made by hand\n{t}", 3), "1 file of labels with", ".jpg"),
    "conf": (lines(scored), "20 lines with a sixth number", ".jpg"),
    "conf_some": (lines(lambda t: t.replace("\n", " 0.9\n", 1), 3), "1 line with a sixth", ".jpg"),
    "float_class": (lines(lambda t: re.sub("(?m)^(.)", r"\1.0", t)), "", ".jpg"),
    "nested": (nested, "", ".jpg"),
    "list_of_folders": (two_folders, "held out", ".jpg"),
    "cvat_ultra": (cvat_ultralytics, "held out", ".jpg"),
    "roboflow_abs": (roboflow, "", ".jpg"),
    "jfif": (as_jfif, "", ".jfif"),
    "cmyk": (in_cmyk, "", ".jpg.jpeg"),
}


@pytest.mark.parametrize("case", YOLO_CASES)
def test_yolo(tmp_path, case):
    change, note, ending = YOLO_CASES[case]
    pets_yolo(tmp_path)
    change(tmp_path)
    found, read = contents(tmp_path)
    assert read == expected(ending)
    assert said(found, note) if note else not found.notes


def test_yolo_poses(tmp_path):
    pets_yolo(tmp_path)
    points = " ".join(f"{k / 120:.6f} {(k + 1) / 80:.6f} {k % 3}" for k in range(17))
    lines(lambda text: "".join(f"{line} {points}\n" for line in text.splitlines()))(tmp_path)
    flip = [0, *(k + 1 if k % 2 else k - 1 for k in range(1, 17))]
    yaml = f"kpt_shape: [17, 3]\nflip_idx: {flip}\ntrain: images/train\nval: images/val\n"
    write(tmp_path / "data.yaml", yaml + "names: [cat, dog]\n")
    found, read = contents(tmp_path)
    assert read == expected() and found.entry["tasks"] == ["boxes", "keypoints"]
    about = found.entry["keypoints"]
    assert len(about["names"]) == 17 and ["keypoint_1", "keypoint_2"] in about["flips"]
    split = read_split(found.entry, "train", ["cat", "dog"], about["names"])
    keypoints = split.records[0]["annotations"][0]["keypoints"]
    assert keypoints[3:9] == [1.5, 2.5, 1, 2.5, 3.5, 2] and keypoints[:3] == [0, 0, 0]


def test_yolo_in_pixels(tmp_path):
    pets_yolo(tmp_path)
    for name in NAMES[:7]:
        write(tmp_path / f"labels/train/{name}.txt", "0 25 32 30 25\n1 80 45 40 30\n")
    with pytest.raises(Unusable, match=r"14 of 14 lines have numbers above 1.* pixels"):
        scan(str(tmp_path), [])


def test_yolo_with_corners(tmp_path):
    pets_yolo(tmp_path)
    for i, name in enumerate(NAMES):
        text = "".join(
            f"{k} {x / 120} {y / 80} {(x + w) / 120} {(y + h) / 80}\n"
            for k, (x, y, w, h) in enumerate(boxes(i).values())
        )
        write(tmp_path / f"labels/{'train' if i < 7 else 'val'}/{name}.txt", text)
    assert said(scan(str(tmp_path), []), "14 boxes that only make sense as two corners")


# ---- What annotation tools write ---------------------------------------------------------------


def square(box):
    x, y, w, h = box
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]


def labelme(root):
    for i, name in enumerate(NAMES):
        cat, dog = boxes(i).values()
        (a, _, b, _), polygon = square(cat), square(dog)
        shapes = [
            {"label": "cat", "points": [b, a], "shape_type": "rectangle", "group_id": 1},
            {"label": "dog", "points": polygon, "shape_type": "polygon", "group_id": None},
            {"label": "nose", "points": [a], "shape_type": "point", "group_id": 1},
            {"label": "way", "points": [a, b], "shape_type": "line"},
        ]
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imageData": None}
        content |= {"imagePath": f"..\\pictures\\{name}.jpg", "imageWidth": 120, "imageHeight": 80}
        write(root / f"labels/{name}.json", json.dumps(content))
    pets_images(root / "pictures")


def cvat(root):
    items = []
    for i, name in enumerate(NAMES):
        (x, y, w, h), dog = boxes(i).values()
        points = ";".join(f"{a}.0,{b}.0" for a, b in square(dog))
        items.append(
            f'<image id="{i}" name="{name}.jpg" width="120" height="80" subset="default">'
            f'<box label="cat" xtl="{x}.0" ytl="{y}.0" xbr="{x + w}.0" ybr="{y + h}.0" z="0"/>'
            f'<polygon label="dog" points="{points}"/><tag label="indoors"/>'
            f'<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9" rotation="30.0"/>'
            '<polyline label="way" points="1,1;2,2"/></image>'
        )
    meta = "<version>1.1</version><meta><task><name>pets</name></task></meta>"
    write(root / "annotations.xml", f"<annotations>{meta}{''.join(items)}</annotations>")
    pets_images(root / "images")


def via(root):
    content = {}
    for i, name in enumerate(NAMES):
        (x, y, w, h), dog = boxes(i).values()
        xs, ys = zip(*square(dog), strict=True)
        shapes = [
            {"name": "rect", "x": x, "y": y, "width": w, "height": h},
            {"name": "polygon", "all_points_x": xs, "all_points_y": ys},
            {"name": "point", "cx": 3, "cy": 4},
        ]
        kinds = ("cat", {"dog": True}, "cat")
        regions = [
            {"shape_attributes": s, "region_attributes": {"kind": k}}
            for s, k in zip(shapes, kinds, strict=True)
        ]
        content[f"{name}.jpg99"] = {"filename": f"{name}.jpg", "size": 99, "regions": regions}
    write(root / "via.json", json.dumps({"_via_settings": {}, "_via_img_metadata": content}))
    pets_images(root)


def label_studio(root):
    tasks = []
    for i, name in enumerate(NAMES):
        (x, y, w, h), dog = boxes(i).values()
        size = {"original_width": 120, "original_height": 80}
        cat = {"x": x / 1.2, "y": y / 0.8, "width": w / 1.2, "height": h / 0.8, "rotation": 0}
        points = [[a / 1.2, b / 0.8] for a, b in square(dog)]
        nose = {"x": 10, "y": 10, "keypointlabels": ["nose"]}
        results = [
            {"id": "a", "value": cat | {"rectanglelabels": ["cat"]}, **size},
            {"id": "b", "value": {"points": points, "polygonlabels": ["dog"]}, **size},
            {"id": "c", "parentID": "a", "value": nose, **size},
        ]
        done = [{"was_cancelled": True, "result": []}, {"result": results}]
        image = f"/data/upload/3/1a2b3c4d-{name}.jpg"
        tasks.append({"id": i + 1, "data": {"image": image}, "annotations": done})
    write(root / "project-1.json", json.dumps(tasks))
    pets_images(root / "images")


def table(header, row, name="train.csv"):
    def make(root):
        rows = [
            row.format(name=n, kind=k, x=x, y=y, w=w, h=h, x1=x + w, y1=y + h, fx=x / 120,
                       fy=y / 80, fx1=(x + w) / 120, fy1=(y + h) / 80)
            for i, n in enumerate(NAMES) for k, (x, y, w, h) in boxes(i).items()
        ]  # fmt: skip
        write(root / name, "\n".join([*[header] * bool(header), *rows, ""]))
        pets_images(root / "train")

    return make


TOOLS = {
    "labelme": (labelme, ["boxes", "masks", "keypoints"], "10 shapes of a kind .*line"),
    "cvat": (cvat, ["boxes", "masks"], "10 boxes that are rotated"),
    "via": (via, ["boxes", "masks"], "10 shapes of a kind .*point"),
    "label_studio": (label_studio, ["boxes", "masks", "keypoints"], ""),
    "csv": (
        table("filename,width,height,class,xmin,ymin,xmax,ymax",
              "{name}.jpg,120,80,{kind},{x},{y},{x1},{y1}"),
        ["boxes"], "",
    ),
    "csv of Open Images": (
        table("ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf",
              "{name},xclick,{kind},1,{fx},{fx1},{fy},{fy1},0,0", "oidv6-train-bbox.csv"),
        ["boxes"], "",
    ),
    "csv of Kaggle": (
        table("image_id,width,height,bbox,label", '{name},120,80,"[{x}, {y}, {w}, {h}]",{kind}'),
        ["boxes"], "",
    ),
    "csv with x, y, w, h": (
        table("image,label,x,y,width,height", "{name}.jpg,{kind},{x},{y},{w},{h}"), ["boxes"], "",
    ),
    "csv of RetinaNet": (
        table("", "train/{name}.jpg,{x},{y},{x1},{y1},{kind}"), ["boxes"], "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_tools(tmp_path, tool):
    make, tasks, note = TOOLS[tool]
    make(tmp_path)
    found, read = contents(tmp_path)
    assert found.entry["format"] == tool.split()[0]
    assert read == expected()
    assert found.entry["tasks"] == tasks
    assert said(found, note) if note else found.notes[:1] == [n for n in found.notes if "held" in n]


def test_cvat_subsets_are_splits(tmp_path):
    cvat(tmp_path)
    file = tmp_path / "annotations.xml"
    text = file.read_text().replace('subset="default"', 'subset="Train"', 7)
    file.write_text(text.replace('subset="default"', 'subset="Validation"'))
    found, read = contents(tmp_path)
    assert found.images == {"train": 7, "val": 3} and read == expected()


# ---- Files that would do harm ------------------------------------------------------------------


def fifo(root):
    root.mkdir()
    os.mkfifo(root / "a.json")
    os.mkfifo(root / "a.txt")
    return root


def loop(root):
    (root / "a").mkdir(parents=True)
    (root / "a/b").symlink_to(root, target_is_directory=True)
    (root / "c").symlink_to(root / "c")
    return root


def many(root):
    root.mkdir()
    for i in range(2000):
        (root / f"{i}.dat").touch()
    return root


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
HARMFUL = [
    (fifo, "no annotations were found"),
    (lambda r: fifo(r) / "a.json", "is neither a file nor a folder"),
    (loop, "no annotations were found"),
    (many, "no annotations were found"),
    (lambda r: write(r / "a.json", '{"images": ' + "[" * 100_000), "is not JSON"),
    (lambda r: write(r / "a.json", '{"categories": ["' + "x" * 5_000_000), "is not JSON"),
    (lambda r: write(r / "a.json", '{"images": [], "categories": []' + "\0" * 9), "is not JSON"),
    (lambda r: write(r / "a.json", b'{"images": [\xff\xfe\x00'), "is not JSON"),
    (lambda r: write(r / "a.xml", f"{BOMB}<annotation><object/></annotation>").parent, "entities"),
    (lambda r: write(r / "x.xml", f"{BOMB}<annotations><image name='&b;'/></annotations>"), "ent"),
    (lambda r: write(r / "data.yaml", "train: &a [*a]\nnames: x\nval: x"), "YAML|names|ther"),
    (lambda r: write(r / "data.yaml", "train: x\nval: x\nnames: " + "[" * 100_000), "is not YAML"),
    (
        lambda r: write(r / "a.json", json.dumps(pets_coco()).replace("120", "1" * 9)),
        "1: the width",
    ),
]


@pytest.mark.parametrize("make, message", HARMFUL)
def test_files_that_would_do_harm_end_in_a_message(tmp_path, make, message):
    with pytest.raises(Unusable, match=message):
        scan(str(make(tmp_path / "data")), [])


def test_image_of_many_pixels_is_not_decoded(tmp_path):
    """A label map whose header says 60,000 x 60,000 is not unpacked."""
    for split in ("train", "val"):
        images(tmp_path / f"images/{split}", "a.jpg")
        (tmp_path / f"masks/{split}").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / f"masks/{split}/a.png")
        file = tmp_path / f"masks/{split}/a.png"
        data = bytearray(file.read_bytes())
        data[16:24] = (60_000).to_bytes(4, "big") * 2
        file.write_bytes(data)
    with pytest.raises(Unusable, match=r"cannot be read as a PNG label map"):
        scan(str(tmp_path), [])
