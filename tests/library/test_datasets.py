"""Dataset dicts of every format: the same objects give the same, and the same first loss."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from made_data import pets_coco, pets_images, write
from PIL import Image
from shape_formats import CLASSES, WRITERS, by_image, read_shapes, write_yolo

from d2_starter.data import catalog
from d2_starter.data.datasets import is_held_out, register_project
from d2_starter.formats import scan
from d2_starter.formats.project import Project

BOXES = ("coco", "voc", "yolo", "lvis", "labelme", "cvat", "via", "label_studio", "csv")
MASKS = ("coco", "lvis", "yolo", "labelme", "cvat", "via", "label_studio")


def objects(shapes, split):
    """Yields (file name, image, [(class, x, y, w, h, polygon)]) of each image."""
    for image, annotations in by_image(read_shapes(shapes, split)):
        yield image["file_name"], image, [
            (CLASSES[a["category_id"] - 1], *a["bbox"], a["segmentation"][0]) for a in annotations
        ]  # fmt: skip


def link(shapes, split, root):
    (root / split).parent.mkdir(parents=True, exist_ok=True)
    (root / split).symlink_to(shapes / f"images_{split}", target_is_directory=True)


def points(polygon):
    return [[x, y] for x, y in zip(polygon[::2], polygon[1::2], strict=True)]


def write_labelme(shapes, root, polygons):
    for split in ("train", "val"):
        link(shapes, split, root / "images")
        for name, image, found in objects(shapes, split):
            marks = [
                {"label": c, "shape_type": "polygon", "points": points(p)}
                if polygons
                else {"label": c, "shape_type": "rectangle", "points": [[x, y], [x + w, y + h]]}
                for c, x, y, w, h, p in found
            ]
            content = {"shapes": marks, "imagePath": f"../../images/{split}/{name}"}
            content |= {"imageWidth": image["width"], "imageHeight": image["height"]}
            write(root / f"labels/{split}/{Path(name).stem}.json", json.dumps(content))


def write_cvat(shapes, root, polygons):
    items = []
    for split in ("train", "val"):
        link(shapes, split, root)
        for name, image, found in objects(shapes, split):
            marks = [
                f'<polygon label="{c}" points="{";".join(f"{a},{b}" for a, b in points(p))}"/>'
                if polygons
                else f'<box label="{c}" xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"/>'
                for c, x, y, w, h, p in found
            ]
            items.append(
                f'<image id="{image["id"]}" name="{split}/{name}" subset="{split}" width="128" '
                f'height="128">{"".join(marks)}</image>'
            )
    write(root / "annotations.xml", f"<annotations>{''.join(items)}</annotations>")


def write_via(shapes, root, polygons):
    for split in ("train", "val"):
        link(shapes, split, root)
        content = {}
        for name, _, found in objects(shapes, split):
            regions = []
            for c, x, y, w, h, p in found:
                shape = {"name": "rect", "x": x, "y": y, "width": w, "height": h}
                if polygons:
                    shape = {"name": "polygon", "all_points_x": p[::2], "all_points_y": p[1::2]}
                regions.append({"shape_attributes": shape, "region_attributes": {"label": c}})
            content[name] = {"filename": name, "regions": regions}
        write(root / f"via_{split}.json", json.dumps(content))


def write_label_studio(shapes, root, polygons):
    for split in ("train", "val"):
        link(shapes, split, root)
        tasks = []
        for name, image, found in objects(shapes, split):
            results = []
            for c, x, y, w, h, p in found:
                k = 100 / 128
                value = {"x": x * k, "y": y * k, "width": w * k, "height": h * k}
                value |= {"rectanglelabels": [c]}
                if polygons:
                    value = {"points": [[a * k, b * k] for a, b in points(p)]}
                    value |= {"polygonlabels": [c]}
                size = {"original_width": 128, "original_height": 128}
                results.append({"value": value} | size)
            about = {"id": image["id"], "data": {"image": f"/data/upload/1/{name}"}}
            tasks.append(about | {"annotations": [{"result": results}]})
        write(root / f"{split}.json", json.dumps(tasks))


def write_csv(shapes, root, polygons):
    for split in ("train", "val"):
        link(shapes, split, root)
        rows = ["filename,xmin,ymin,xmax,ymax,class"]
        for name, _, found in objects(shapes, split):
            rows += [f"{name},{x},{y},{x + w},{y + h},{c}" for c, x, y, w, h, _ in found]
            rows += [f"{name},,,,,"] * (not found)
        write(root / f"{split}.csv", "\n".join(rows))


TOOLS = {"labelme": write_labelme, "cvat": write_cvat, "via": write_via, "csv": write_csv}
TOOLS["label_studio"] = write_label_studio


def set_up(root, name="data"):
    """Registers a dataset as tools/set_dataset.py and a project do."""
    found = scan(str(root))
    found.entry["name"] = name
    project = Project.of(root, found)
    project.write()
    register_project(root)
    return found


def made(shapes, root, format, polygons=False):
    if format in TOOLS:
        TOOLS[format](shapes, root, polygons)
    elif format == "yolo":
        write_yolo(shapes, root, polygons)
    else:
        WRITERS[format](shapes, root)
    assert set_up(root, format).entry["format"] == format


def comparable(name, keys):
    """Without what names images, which each format does in its own way."""
    return [
        (
            re.sub("^(train|val)_", "", Path(record["file_name"]).name),
            (record["height"], record["width"]),
            [{key: annotation[key] for key in keys} for annotation in record["annotations"]],
        )
        for record in DatasetCatalog.get(name)
    ]


def test_same_objects_give_the_same_dataset_dicts_in_every_format(few_shapes, tmp_path):
    keys = ("bbox", "bbox_mode", "category_id", "iscrowd")
    expected = None
    for format in BOXES:
        made(few_shapes, tmp_path / format, format)
        for split in ("train", "val"):
            name = f"{format}_{split}"
            assert MetadataCatalog.get(name).thing_classes == list(CLASSES)
            found = comparable(name, keys)
            expected = (expected or {}) if format == "coco" else expected
            if format == "coco":
                expected[split] = found
                assert sum(len(those) for _, _, those in found) > 8
            assert found == expected[split], name


def test_first_loss_is_the_same_in_every_format(few_shapes, tmp_path):
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (64,), "none"
    torch.manual_seed(0)
    model = build_model(cfg)
    losses = {}
    for format in BOXES:
        made(few_shapes, tmp_path / format, format)
        records = DatasetCatalog.get(f"{format}_train")[:2]
        batch = [DatasetMapper(cfg, is_train=True)(record) for record in records]
        torch.manual_seed(1)
        with EventStorage(), torch.no_grad():
            losses[format] = {key: value.item() for key, value in model(batch).items()}
    assert len(losses) == 9 and all(loss == losses["coco"] for loss in losses.values())


def test_polygons_are_alike_in_every_format_that_has_them(few_shapes, tmp_path):
    masks = {}
    for format in MASKS:
        made(few_shapes, tmp_path / format, format, polygons=True)
        masks[format] = [
            annotation["segmentation"][0]
            for record in DatasetCatalog.get(f"{format}_train")
            for annotation in record["annotations"]
        ]
    for format, polygons in masks.items():
        for one, other in zip(masks["coco"], polygons, strict=True):
            assert one == pytest.approx(other, abs=0.011), format  # YOLO's are rounded to 0.01


def test_coco_as_detectron2_reads_it(few_shapes, tmp_path):
    """Records, keypoints with their half pixel, and the metadata of its evaluation."""
    made(few_shapes, tmp_path, "coco")
    file = tmp_path / "annotations/train.json"
    theirs = load_coco_json(str(file), str(tmp_path / "train"), "theirs")
    ours = catalog.load_uncleaned("coco_train")
    for one, other in zip(ours, theirs, strict=True):
        for annotation in one["annotations"]:
            annotation["bbox_mode"] = BoxMode(annotation["bbox_mode"])
        assert one == other
    metadata, expected = (MetadataCatalog.get(name) for name in ("coco_train", "theirs"))
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
        assert metadata.get(key) == expected.get(key)
    assert metadata.json_file == str(file)
    assert metadata.keypoint_names == expected.get("keypoint_names", metadata.keypoint_names)


@pytest.mark.parametrize("lacks", ["area", "iscrowd", "id", "bbox"])
def test_evaluation_does_not_read_an_incomplete_file(tmp_path, lacks):
    content = pets_coco()
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        del annotation[lacks]
    pets_images(tmp_path)
    write(tmp_path / "a.json", json.dumps(content))
    set_up(tmp_path, f"lacks_{lacks}")
    records = DatasetCatalog.get(f"lacks_{lacks}_train")
    assert all(len(record["annotations"]) == 2 for record in records)
    assert not MetadataCatalog.get(f"lacks_{lacks}_train").get("json_file")


def test_classes_of_two_datasets_are_merged_by_name(tmp_path):
    roots = [tmp_path / "a", tmp_path / "b"]
    for root, names in zip(roots, (("cat", "dog"), ("emu", "cat")), strict=True):
        content = pets_coco()
        content["categories"] = [{"id": i + 1, "name": n} for i, n in enumerate(names)]
        pets_images(root)
        write(root / "a.json", json.dumps(content))
    project = Project.of(tmp_path, scan(str(roots[0])))
    project.add(scan(str(roots[1])))
    project.write()
    register_project(tmp_path)
    for name, numbers in (("a_train", {0, 1}), ("b_train", {2, 0})):
        records = DatasetCatalog.get(name)
        assert {a["category_id"] for r in records for a in r["annotations"]} == numbers
        assert MetadataCatalog.get(name).thing_classes == ["cat", "dog", "emu"]
        # COCO's evaluation would take the file's ids for all there are.
        assert not MetadataCatalog.get(name).get("json_file")


def test_label_maps_and_segments(few_shapes, tmp_path):
    for format in ("coco_panoptic", "semantic", "cityscapes"):
        made(few_shapes, tmp_path / format, format)
    things = DatasetCatalog.get("coco_panoptic_val")
    panoptic = DatasetCatalog.get("coco_panoptic_val_panoptic")
    assert [r["annotations"] for r in things] == [r["annotations"] for r in panoptic]
    for name in ("coco_panoptic_val_semantic", "semantic_val_semantic"):
        maps = [np.asarray(Image.open(r["sem_seg_file_name"])) for r in DatasetCatalog.get(name)]
        truth = sorted(few_shapes.glob("semantic_val/*.png"))
        assert all((m == Image.open(t)).all() for m, t in zip(maps, truth, strict=True))
        assert len(MetadataCatalog.get(name).stuff_classes) == 5
    city = DatasetCatalog.get("cityscapes_val")
    assert {a["category_id"] for r in city for a in r["annotations"]} <= {0, 2}
    assert len(DatasetCatalog.get("cityscapes_val_semantic")) == 8


def test_the_ignored_label_is_in_the_metadata(few_shapes, tmp_path):
    made(few_shapes, tmp_path, "semantic")
    entry = json.loads((tmp_path / "datasets.json").read_text())
    entry["datasets"][0]["ignore_label"] = 200
    (tmp_path / "datasets.json").write_text(json.dumps(entry))
    register_project(tmp_path)
    assert MetadataCatalog.get("semantic_train_semantic").ignore_label == 200


@pytest.mark.parametrize("label", [0, 200])
def test_the_model_ignores_what_the_metadata_say(load, label):
    """Also the pixels that an augmentation adds."""
    name, shapes = f"ignoring_{label}", "shapes_val_semantic"
    about = {"evaluator_type": "sem_seg", "ignore_label": label}
    about["stuff_classes"] = MetadataCatalog.get(shapes).stuff_classes
    catalog.register(name, lambda: DatasetCatalog.get(shapes), **about)
    rotation = "[{'RandomRotation': {'angle': [45.0, 45.0], 'sample_style': 'choice'}}]"
    experiment = load(
        *("DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)"),
        *("INPUT.AUGMENTATIONS", rotation, "MODEL.META_ARCHITECTURE", "SemanticSegmentor"),
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2','p3','p4','p5']"),
    )
    image = experiment.build_mapper(is_train=True)(DatasetCatalog.get(name)[0])
    labels = set(image["sem_seg"].unique().tolist())
    assert label in labels and 255 not in labels
    model = experiment.build_model()
    with EventStorage():
        assert np.isfinite(model([image])["loss_sem_seg"].item())
    assert model.sem_seg_head.ignore_value == label


def test_held_out_images_stay_held_out():
    records = [{"file_name": f"folder/{i:05d}.jpg"} for i in range(2000)]
    held = {Path(r["file_name"]).name for r in records if is_held_out(r, 0.2)}
    assert 350 < len(held) < 450
    moved = [{"file_name": f"elsewhere/{i:05d}.jpg"} for i in range(3000)]
    assert held <= {Path(r["file_name"]).name for r in moved if is_held_out(r, 0.2)}


def test_where_the_files_are(few_shapes, tmp_path, monkeypatch):
    made(few_shapes, tmp_path / "here", "voc")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "here").rename(tmp_path / "datasets/voc")
    assert "datasets/voc" in DatasetCatalog.get("voc_train")[0]["file_name"]
    (tmp_path / "datasets/voc").rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"dataset 'voc' is neither in .* nor in .*"):
        DatasetCatalog.get("voc_train")


# ---- Dataset dicts of one's own ----------------------------------------------------------------

RECORD = {"file_name": "a.png", "image_id": 1, "height": 50, "width": 50}
BOX = {"bbox": [1.0, 2.0, 30.0, 40.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}


def own(record):
    catalog.register("own", lambda: [record], evaluator_type="coco", thing_classes=["a"])
    return DatasetCatalog.get("own")[0]


def test_what_has_one_right_value_is_filled_in(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (60, 40)).save(file)
    box = {"bbox": np.array([1, 2, 30, 39], np.float32), "category_id": np.int64(0), "bbox_mode": 0}
    record = own({"file_name": file, "annotations": [box]})
    assert (record["width"], record["height"], record["image_id"]) == (60, 40, str(file))
    (annotation,) = record["annotations"]
    assert annotation["iscrowd"] == 0 and annotation["bbox_mode"] is BoxMode.XYXY_ABS
    json.dumps(own(RECORD | {"width": np.int64(50), "image_id": np.int64(3), "annotations": []}))


@pytest.mark.parametrize(
    "record, message",
    [
        ({}, r"'own', record 0: 'file_name' is missing"),
        ({"file_name": "gone.png", "annotations": []}, r"\(gone.png\): 'width' and 'height' are"),
        (RECORD | {"height": "x"}, r"record 0 \(a.png\): 'height' is 'x'"),
        (RECORD | {"annotations": [BOX | {"bbox_mode": None}]}, r"annotation 0: 'bbox_mode' is"),
        (RECORD | {"annotations": [BOX, {"bbox_mode": 0}]}, r"annotation 1: 'bbox' is missing"),
        (RECORD | {"annotations": [BOX | {"category_id": 1}]}, r"'category_id' is 1, not the"),
        (RECORD | {"annotations": [BOX | {"bbox": [1, 2, 3]}]}, r"'bbox' is \[1, 2, 3\], not 4"),
        (RECORD | {"annotations": [BOX | {"bbox": [1, 2, 3, "x"]}]}, r"not 4 finite numbers"),
        (RECORD | {"annotations": [BOX | {"bbox_mode": 7}]}, r"'bbox_mode' is none of"),
    ],
)
def test_what_has_no_right_value_is_named_by_record_and_field(record, message):
    with pytest.raises(ValueError, match=message):
        own(record)


def test_a_config_that_the_data_cannot_train_is_told_why(few_shapes, tmp_path):
    made(few_shapes, tmp_path, "voc")
    with pytest.raises(KeyError, match=r"'voc_train' has no panoptic ground truth"):
        catalog.check_registered("voc_train_panoptic")
