"""What an evaluation leaves beside its results: ground truth, fingerprints, pixels by image."""

import json
import os

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from d2_starter.data.fingerprint import describe, fingerprint
from d2_starter.evaluation.ground_truth import PerImageSemSegEvaluator, write_ground_truth


def records(folder="data"):
    box = {"bbox": [1, 2, 11, 22], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    return [
        {"file_name": f"{folder}/a.jpg", "image_id": "a", "height": 30, "width": 40}
        | {"annotations": [box]},
        {"file_name": f"{folder}/b.jpg", "image_id": "b", "height": 30, "width": 40}
        | {"annotations": []},
    ]


def test_a_fingerprint_changes_with_annotations_and_not_with_folders():
    assert fingerprint(records()) == fingerprint(records("elsewhere"))
    for change in (
        lambda r: r[0]["annotations"][0].update(category_id=0),
        lambda r: r[0]["annotations"][0].update(bbox=[1, 2, 11, 23]),
        lambda r: r[1].update(file_name="data/c.jpg"),
        lambda r: r.pop(),
    ):
        changed = records()
        change(changed)
        assert fingerprint(changed) != fingerprint(records())


def test_describes_a_dataset():
    assert describe(records(), ["cat", "dog"]) == {
        "images": 2,
        "without_objects": 1,
        "objects": {"cat": 0, "dog": 1},
        "fingerprint": fingerprint(records()),
    }


def test_writes_the_ground_truth_of_a_subset(tmp_path):
    DatasetCatalog.register("written_truth", records)
    MetadataCatalog.get("written_truth").set(thing_classes=["cat", "dog"], evaluator_type="coco")
    try:
        write_ground_truth(tmp_path, "written_truth", records()[:1], sigmas=[0.1])
    finally:
        DatasetCatalog.remove("written_truth")
        MetadataCatalog.remove("written_truth")
    content = json.loads((tmp_path / "ground_truth.json").read_text())
    assert content["fingerprint"] == fingerprint(records()[:1])
    assert [image["id"] for image in content["images"]] == ["a"]
    assert content["images"][0]["file_name"] == os.path.abspath("data/a.jpg")
    assert [a["bbox"] for a in content["annotations"]] == [[1, 2, 10, 20]]
    assert content["oks_sigmas"] == [0.1]


def test_counts_the_pixels_of_each_image(tmp_path):
    label = np.array([[0, 0, 1, 255]], dtype=np.uint8)
    Image.fromarray(label).save(tmp_path / "a.png")
    record = {"file_name": "a.jpg", "sem_seg_file_name": str(tmp_path / "a.png")}
    DatasetCatalog.register("pixels", lambda: [record])
    MetadataCatalog.get("pixels").set(stuff_classes=["sky", "sea"], ignore_label=255)
    try:
        evaluator = PerImageSemSegEvaluator("pixels", distributed=False, output_dir=str(tmp_path))
    finally:
        DatasetCatalog.remove("pixels")
        MetadataCatalog.remove("pixels")
    evaluator.reset()
    scores = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 1]]), 2).permute(2, 0, 1)
    evaluator.process([record], [{"sem_seg": scores.float()}])
    result = evaluator.evaluate()["sem_seg"]
    written = json.loads((tmp_path / "sem_seg_per_image.json").read_text())
    assert written == {os.path.abspath("a.jpg"): [[0, 0, 1], [0, 1, 1], [1, 1, 1]]}
    assert result["mIoU"] == 50
