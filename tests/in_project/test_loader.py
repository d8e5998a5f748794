import copy

import pytest
import torch
from detectron2.data import DatasetCatalog

from my_detector.data.catalog import register
from my_detector.data.loader import training_images
from my_detector.experiment import train_loader_arguments


def test_images_of_an_epoch(cfg):
    """What the loader delivers: without empty images; with those of rare classes repeated."""
    records = DatasetCatalog.get("shapes_train")
    records[0]["annotations"] = []
    classes = ["circle", "square", "triangle"]
    register("one_empty", lambda: copy.deepcopy(records), thing_classes=classes)
    cfg.DATASETS.TRAIN = ("one_empty",)
    assert training_images(cfg) == (23, None)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert training_images(cfg) == (24, None)

    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
    images, subset = training_images(cfg)
    sampler, generator = train_loader_arguments(cfg)["sampler"], torch.Generator().manual_seed(0)
    delivered = [len(sampler._get_epoch_indices(generator)) for _ in range(300)]
    assert images > 24 and subset is None
    assert images == pytest.approx(sum(delivered) / 300, rel=0.01)


def test_subset_without_an_image_is_refused(cfg):
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.01
    with pytest.raises(ValueError, match=r"RANDOM_SUBSET_RATIO 0.01 of 24 images is no image"):
        training_images(cfg)
