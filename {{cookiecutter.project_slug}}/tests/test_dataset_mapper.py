"""The mapper does what detectron2's does, until you change it."""

import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.utils.env import seed_all_rng

from {{ cookiecutter.package_name }}.data.dataset_mapper import Mapper

FLIPPED = np.array([0, 3, 2, 1])  # of the shapes' keypoints: top, right, bottom, left
COMMON = {"image_format": "BGR", "keypoint_hflip_indices": FLIPPED}


def build_mapper(*augmentations, **arguments):
    return Mapper(
        augmentations=list(augmentations),
        use_masks=True,
        use_keypoints=True,
        **COMMON | arguments,
    )


def test_same_output_as_detectron2():
    augmentations = [
        T.RandomCrop("relative_range", (0.9, 0.9)),
        T.ResizeShortestEdge((96, 128, 160), sample_style="choice"),
        T.RandomFlip(),
    ]
    theirs = DatasetMapper(
        True,
        augmentations=augmentations,
        use_instance_mask=True,
        use_keypoint=True,
        recompute_boxes=True,
        **COMMON,
    )
    records = DatasetCatalog.get("shapes_train_panoptic")
    records[0]["annotations"][0]["iscrowd"] = 1
    outputs = []
    for mapper in (build_mapper(*augmentations), theirs):
        seed_all_rng(0)
        outputs.append([mapper(record) for record in records])
    for ours, expected in zip(*outputs):
        assert torch.equal(ours["image"], expected["image"])
        assert torch.equal(ours["sem_seg"], expected["sem_seg"])
        ours, expected = ours["instances"].get_fields(), expected["instances"].get_fields()
        assert ours.keys() == expected.keys()
        assert torch.equal(ours["gt_boxes"].tensor, expected["gt_boxes"].tensor)
        assert torch.equal(ours["gt_classes"], expected["gt_classes"])
        assert torch.equal(ours["gt_keypoints"].tensor, expected["gt_keypoints"].tensor)
        for mine, yours in zip(ours["gt_masks"].polygons, expected["gt_masks"].polygons):
            assert all(np.array_equal(a, b) for a, b in zip(mine, yours))


def test_mirroring_swaps_left_and_right_keypoints():
    record = DatasetCatalog.get("shapes_train")[0]
    plain, mirrored = (
        build_mapper(transform)(record)["instances"].gt_keypoints.tensor
        for transform in (T.NoOpTransform(), T.HFlipTransform(record["width"]))
    )
    expected = plain[:, FLIPPED]
    expected[..., 0] = record["width"] - expected[..., 0]
    assert torch.allclose(mirrored, expected)


def test_no_ground_truth_for_inference(experiment):
    record = DatasetCatalog.get("shapes_val_panoptic")[0]
    mapped = experiment.build_mapper(is_train=False)(record)
    assert mapped["image"].shape == (3, 128, 128)
    assert not {"annotations", "instances", "sem_seg", "sem_seg_file_name"} & mapped.keys()
    assert "annotations" in record  # the dataset itself is left as it was
