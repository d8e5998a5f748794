import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from PIL import Image

from {{ cookiecutter.package_name }}.data import shapes
from {{ cookiecutter.package_name }}.data.catalog import get_metadata, register
from {{ cookiecutter.package_name }}.data.dataset import register_datasets
from {{ cookiecutter.package_name }}.data.loader import build_train_loader


def test_registration_reads_nothing_and_can_be_repeated():
    calls = []
    for _ in range(2):
        register("lazy", lambda: calls.append(1) or [], thing_classes=["a"])
        register_datasets()
    assert not calls
    assert DatasetCatalog.get("lazy") == []
    assert calls == [1]
    assert get_metadata("lazy").thing_classes == ["a"]
    assert len(get_metadata("lazy").thing_colors) == 1


def test_boxes_outside_of_the_image_are_clipped_or_dropped_with_a_warning(caplog):
    boxes = [[10, 10, 50, 50], [80, 20, 130, 60], [30, 30, 31, 40], [200, 0, 300, 50]]
    record = {"file_name": "a.jpg", "height": 100, "width": 100}
    record["annotations"] = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0} for box in boxes
    ]
    register("defects", lambda: [record], thing_classes=["a"])
    with caplog.at_level(logging.WARNING):
        (cleaned,) = DatasetCatalog.get("defects")
    assert [a["bbox"] for a in cleaned["annotations"]] == [boxes[0], [80, 20, 100, 60]]
    assert "defects: 1 boxes clipped" in caplog.text
    assert "defects: 2 boxes dropped as empty: a.jpg [30.0, 30.0, 31.0, 40.0]" in caplog.text


def test_rotated_boxes_are_left_alone():
    rotated = {"bbox": [90, 50, 40, 20, 30], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0}
    record = {"file_name": "a.jpg", "height": 100, "width": 100, "annotations": [dict(rotated)]}
    register("rotated", lambda: [record], thing_classes=["a"])
    assert DatasetCatalog.get("rotated")[0]["annotations"] == [rotated]


def test_shapes_are_the_same_in_every_run(tmp_path, monkeypatch):
    folders = []
    for name in ("first", "second"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / name))
        shapes.register_shapes()
        DatasetCatalog.get("shapes_train")
        folders.append(tmp_path / name / "shapes")
    files = [{f.relative_to(d): f.read_bytes() for f in d.rglob("*.*")} for d in folders]
    assert files[0] == files[1]
    assert len(files[0]) == 4 * (24 + 8) + 4


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_continues_the_order_of_the_images(cfg, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    whole, resumed = (
        [[image["image_id"] for image in batch] for _, batch in zip(range(stop), loader)]
        for loader, stop in ((build_train_loader(cfg), 6), (build_train_loader(cfg, 2), 4))
    )
    assert whole[2:] == resumed
    assert sorted(sum(whole, [])) == sorted(2 * list(range(1, 25)))  # two epochs: each image twice


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_of_shapes_agree_with_each_other(split):
    shapes.register_shapes()
    records = DatasetCatalog.get(f"shapes_{split}_panoptic")
    semantic = DatasetCatalog.get(f"shapes_{split}_semantic")
    assert len(records) == len(semantic) == shapes.SPLITS[split]
    for record, other in zip(records, semantic):
        classes = np.array(Image.open(other["sem_seg_file_name"]))
        stuff = np.array(Image.open(record["sem_seg_file_name"]))
        assert ((classes < 3) == (stuff == 0)).all()
        for annotation in record["annotations"]:
            x0, y0, x1, y1 = annotation["bbox"]
            assert classes[int(y0 + y1) // 2, int(x0 + x1) // 2] == annotation["category_id"]
            points = np.array(annotation["keypoints"]).reshape(-1, 3)[:, :2] - 0.5
            assert (points.min(0) >= [x0 - 0.01, y0 - 0.01]).all()
            assert (points.max(0) <= [x1 + 0.01, y1 + 0.01]).all()
