"""Small datasets of every format, made as people's tools write them."""

import json
from pathlib import Path

from PIL import Image


def write(file: Path, text: str | bytes = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
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
            | {"segmentation": [[1, 2, 11, 2, 11, 42]], "iscrowd": 0, "area": 400}
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


def keypoints_root(root: Path) -> Path:
    names = ["nose", "left_eye", "right_eye"]
    for split in ("train", "val"):
        images(root / split, "a.jpg")
        content = coco(["a.jpg"])
        for category in content["categories"]:
            category |= {"keypoints": names, "skeleton": [[1, 2], [1, 3]]}
        content["annotations"][0]["keypoints"] = [5, 5, 2] * 3
        write(root / f"annotations/{split}.json", json.dumps(content))
    return root


def lvis_root(root: Path) -> Path:
    for split in ("train", "val"):
        images(root / split, "a.jpg")
        content = coco(["a.jpg"])
        content["images"][0]["coco_url"] = f"http://localhost/{split}/a.jpg"
        content["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        write(root / f"lvis_{split}.json", json.dumps(content))
    return root


def panoptic_root(root: Path) -> Path:
    segment = {"id": 1, "category_id": 3}
    annotation = {"image_id": 0, "file_name": "a.png", "segments_info": [segment]}
    for split in ("train", "val"):
        images(root / split, "a.jpg")
        images(root / f"panoptic_{split}", "a.png")
        text = json.dumps(coco(["a.jpg"], annotations=[annotation]))
        write(root / f"annotations/panoptic_{split}.json", text)
    return root


def json_alone(root: Path) -> Path:
    images(root / "images", "a.jpg", "b.jpg")
    write(root / "labels.json", json.dumps(coco(["a.jpg", "b.jpg"])))
    return root


def xml(*names: str, size=(64, 48), more: str = "") -> str:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax>"
        "<ymax>42</ymax></bndbox></object>"
        for name in names
    )
    size = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation>{more}{size}{objects}</annotation>"


def voc_flat(root: Path) -> Path:
    images(root, "a.jpg", "b.jpg", "c.jpg", size=(30, 20))
    write(root / "a.xml", xml("ok", "worn", size=None))
    write(root / "b.xml", "<annotation><object>")
    return root


def voc_root(root: Path) -> Path:
    images(root / "JPEGImages", "a.jpg", "b.jpg", "c.jpg")
    for name, objects in {"a": ["worn", "ok"], "b": ["ok"], "c": ["ok"]}.items():
        write(root / f"Annotations/{name}.xml", xml(*objects))
    write(root / "ImageSets/Main/train.txt", "a\nb\n")
    write(root / "ImageSets/Main/val.txt", "c\n")
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


# ---- Ten images with a cat and a dog each, as in public reports of faults ------------------------

NAMES = [f"img_{i:02d}" for i in range(10)]


def boxes(i: int) -> dict[str, tuple[int, int, int, int]]:
    """{class: x, y, width, height} in image number i, of 120 x 80 pixels."""
    return {"cat": (10 + i, 20 + i % 3, 30, 25), "dog": (60 + i, 30 + i % 3, 40, 30)}


def pets_images(folder: Path, ending=".jpg", **options):
    images(folder, *(f"{name}{ending}" for name in NAMES), size=(120, 80), **options)


def pets_coco() -> dict:
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for i, name in enumerate(NAMES):
        image = {"id": i + 1, "file_name": f"{name}.jpg", "width": 120, "height": 80}
        content["images"].append(image)
        for k, box in enumerate(boxes(i).values()):
            content["annotations"].append(
                {"id": 2 * i + k + 1, "image_id": i + 1, "category_id": k + 1}
                | {"bbox": list(box), "area": box[2] * box[3], "iscrowd": 0}
            )
    return content


def pets_voc(root: Path, folder="", names=NAMES):
    pets_images(root / "JPEGImages")
    for i, name in enumerate(names):
        objects = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for kind, (x, y, w, h) in boxes(i).items()
        )
        size = "<size><width>120</width><height>80</height></size>"
        text = f"<annotation><filename>{NAMES[i]}.jpg</filename>{size}{objects}</annotation>"
        write(root / f"Annotations/{folder}{name}.xml", text)


def pets_yolo(root: Path, yaml="train: images/train\nval: images/val\nnames: [cat, dog]\n"):
    for i, name in enumerate(NAMES):
        split = "train" if i < 7 else "val"
        images(root / f"images/{split}", f"{name}.jpg", size=(120, 80))
        lines = [
            f"{k} {(x + w / 2) / 120:.6f} {(y + h / 2) / 80:.6f} {w / 120:.6f} {h / 80:.6f}\n"
            for k, (x, y, w, h) in enumerate(boxes(i).values())
        ]
        write(root / f"labels/{split}/{name}.txt", "".join(lines))
    write(root / "data.yaml", yaml)
