"""What COCO's files say of categories, which detectron2's loader leaves out; and masks as RLE."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from PIL import Image

from my_detector.data import dataset
from my_detector.data.catalog import get_metadata
from my_detector.data.coco import keypoint_metadata, read_categories
from my_detector.data.dataset_mapper import Mapper

NAMES = ["nose", "left_eye", "right_eye", "tail"]
CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat", "keypoints": NAMES}]
CATEGORIES[1]["skeleton"] = [[1, 2], [1, 3], [0, 1], [4, 5]]  # COCO counts from 1


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("number", [2, 3000])
def test_categories_are_found_anywhere(tmp_path, first, number):
    more = [{"id": 100 + i, "name": "x" * 50} for i in range(number - 2)]
    others = {"images": [{"file_name": "categories.jpg"}] * 3000, "annotations": []}
    categories = {"categories": [*CATEGORIES, *more]}
    content = categories | others if first else others | categories
    (tmp_path / "a.json").write_text(json.dumps(content, indent=1))
    found = read_categories(tmp_path / "a.json")
    assert [category["id"] for category in found[:2]] == [2, 9] and len(found) == number


@pytest.mark.parametrize("text", ['{"images": []}', '{"categories": [{"id": 1'])
def test_file_without_categories_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a.json has no list of categories"):
        read_categories(tmp_path / "a.json")


def test_keypoints_have_names_flips_and_skeleton(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"categories": CATEGORIES}))
    found = keypoint_metadata(tmp_path / "a.json")
    assert found["keypoint_names"] == NAMES
    rules = [(one, other) for one, other, _ in found["keypoint_connection_rules"]]
    assert rules == [("nose", "left_eye"), ("nose", "right_eye")]
    MetadataCatalog.get("with_keypoints").set(**found)
    assert list(create_keypoint_hflip_indices(["with_keypoints"])) == [0, 2, 1, 3]
    for one, other in (("leftEye", "rightEye"), ("hand_l", "hand_r"), ("l_ear", "r_ear")):
        categories = [{"id": 1, "name": "cat", "keypoints": ["tail", other, one]}]
        (tmp_path / "a.json").write_text(json.dumps({"categories": categories}))
        assert keypoint_metadata(tmp_path / "a.json")["keypoint_flip_map"] == [(one, other)]
    (tmp_path / "a.json").write_text(json.dumps({"categories": CATEGORIES[:1]}))
    assert keypoint_metadata(tmp_path / "a.json") == {}


def test_polygons_and_rle_in_one_data_set(cfg, tmp_path, monkeypatch):
    """Images are read with the masks that they have; ids have gaps; a crowd is left out."""
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 5:30] = 1
    rle = mask_util.encode(np.asfortranarray(mask))
    compressed = {"size": rle["size"], "counts": rle["counts"].decode()}
    runs = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=0))
    counts = np.diff([0, *runs, mask.size]).tolist()
    polygon = [[5, 10, 30, 10, 30, 20, 5, 20]]
    kinds = [polygon, compressed, {"size": [48, 64], "counts": counts}, polygon]
    annotations = [
        {
            "id": i + 1,
            "image_id": i,
            "category_id": (2, 9)[i % 2],
            "bbox": [5, 10, 25, 10],
            "iscrowd": 0,
            "segmentation": kind,
        }
        for i, kind in enumerate(kinds)
    ]
    annotations.append({**annotations[1], "id": 9, "image_id": 0, "iscrowd": 1})
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 48, "width": 64} for i in range(4)]
    (tmp_path / "pets").mkdir()
    for i in range(4):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / f"pets/{i}.jpg")
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (tmp_path / "pets/all.json").write_text(json.dumps(content))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(dataset, "NAME", "pets")
    monkeypatch.setattr(dataset, "SPLITS", {"all": ("all.json", ".")})
    dataset.register_datasets()
    assert get_metadata("pets_all").thing_classes == ["cat", "dog"]
    cfg.INPUT.MIN_SIZE_TRAIN = (48,)
    mapper = Mapper(cfg, is_train=False, ground_truth=True)
    mapper.augmentations.augs.clear()
    for record in DatasetCatalog.get("pets_all"):
        instances = mapper(record)["instances"]
        assert len(instances) == 1
        boxes = instances.gt_masks.get_bounding_boxes().tensor.tolist()
        assert boxes == [[5, 10, 30, 20]]
        assert instances.gt_classes.tolist() == [record["image_id"] % 2]
