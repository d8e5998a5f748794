import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.utils.env import seed_all_rng
from PIL import Image

from {{ cookiecutter.package_name }}.data.dataset_mapper import Mapper


def test_same_output_as_detectron2(cfg):
    cfg.MODEL.KEYPOINT_ON = True
    cfg.INPUT.FAST_RESIZE = False
    cfg.INPUT.MIN_SIZE_TRAIN = (96, 128, 160)
    cfg.INPUT.CROP.ENABLED = True
    records = DatasetCatalog.get("shapes_train_panoptic")
    records[0]["annotations"][0]["iscrowd"] = 1
    outputs = []
    for mapper in (Mapper(cfg, is_train=True), DatasetMapper(cfg, is_train=True)):
        seed_all_rng(0)
        outputs.append([mapper(record) for record in records])
    for ours, theirs in zip(*outputs):
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
        ours, theirs = ours["instances"].get_fields(), theirs["instances"].get_fields()
        assert ours.keys() == theirs.keys()
        assert torch.equal(ours["gt_boxes"].tensor, theirs["gt_boxes"].tensor)
        assert torch.equal(ours["gt_classes"], theirs["gt_classes"])
        assert torch.equal(ours["gt_keypoints"].tensor, theirs["gt_keypoints"].tensor)
        for mine, yours in zip(ours["gt_masks"].polygons, theirs["gt_masks"].polygons):
            assert all(np.array_equal(a, b) for a, b in zip(mine, yours))


def test_mirroring_swaps_left_and_right_keypoints(cfg):
    cfg.MODEL.KEYPOINT_ON = True
    record = DatasetCatalog.get("shapes_train")[0]
    mapper = Mapper(cfg, is_train=True)
    keypoints = []
    for transform in (T.NoOpTransform(), T.HFlipTransform(record["width"])):
        mapper.augmentations = T.AugmentationList([transform])
        keypoints.append(mapper(record)["instances"].gt_keypoints.tensor)
    plain, mirrored = keypoints
    top, right, bottom, left = range(4)
    expected = plain[:, [top, left, bottom, right]]
    expected[..., 0] = record["width"] - expected[..., 0]
    assert torch.allclose(mirrored, expected)


def test_no_ground_truth_for_inference(cfg):
    cfg.INPUT.MIN_SIZE_TEST = 128
    record = DatasetCatalog.get("shapes_val_panoptic")[0]
    mapped = Mapper(cfg, is_train=False)(record)
    assert mapped["image"].shape == (3, 128, 128)
    assert not {"annotations", "instances", "sem_seg", "sem_seg_file_name"} & mapped.keys()
    assert "annotations" in record  # the data set itself is left as it was


def test_palette_of_a_label_map_does_not_matter(cfg, tmp_path):
    (record, *_) = DatasetCatalog.get("shapes_val_semantic")
    cfg.INPUT.MIN_SIZE_TRAIN = (128,)
    mapper = Mapper(cfg, is_train=False, ground_truth=True)
    gray = mapper(record)["sem_seg"]
    labels = Image.open(record["sem_seg_file_name"])
    labels.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 99, 99, 99])
    labels.save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    record["sem_seg_file_name"] = str(tmp_path / "palette.png")
    assert torch.equal(mapper(record)["sem_seg"], gray)
