import contextlib
import copy
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from my_detector.data.catalog import register
from my_detector.data.loader import build_test_loader, build_train_loader, training_images
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


def same(one, other) -> bool:
    """Whether two things are equal, with all the tensors, arrays and instances inside of them."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "get_fields"):  # Instances
        return one.image_size == other.image_size and same(one.get_fields(), other.get_fields())
    if hasattr(one, "polygons"):  # PolygonMasks
        return same(one.polygons, other.polygons)
    if hasattr(one, "tensor"):  # Boxes, BitMasks
        return same(one.tensor, other.tensor)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return np.array_equal(one, other)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_a_worker_delivers_what_the_process_itself_does(cfg, mask_format):
    cfg.INPUT.MASK_FORMAT = mask_format
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.INPUT.RANDOM_FLIP = "none"
    dataset = DatasetCatalog.get("shapes_val")
    batches = {}
    for workers in (0, 1):  # more of them share the images out
        cfg.DATALOADER.NUM_WORKERS = workers
        training = build_train_loader(cfg)
        batches[workers] = [*islice(training, 3), *build_test_loader(cfg, dataset)]
    assert same(batches[0], batches[1])
    tensor = batches[1][0][0]["image"]
    tensor += 1  # it is nobody else's


def test_workers_send_large_tensors_through_shared_memory(cfg):
    """And small ones not, each of which takes a connection."""
    cfg.DATALOADER.NUM_WORKERS = 1
    for size, is_large in ((64, False), (512, True)):
        cfg.INPUT.MIN_SIZE_TRAIN = (size,)
        (image, *_) = next(iter(build_train_loader(cfg)))
        assert image["image"].is_shared() == is_large
        assert not image["instances"].gt_boxes.tensor.is_shared()


@pytest.mark.parametrize("workers, batch_size", [(1, 8), (3, 8), (8, 4)])
def test_workers_hold_two_batches_ready(cfg, workers, batch_size):
    cfg.SOLVER.IMS_PER_BATCH = batch_size
    cfg.DATALOADER.NUM_WORKERS = workers
    for has_single_images in (True, False):  # of which a batch is made afterwards
        cfg.DATALOADER.ASPECT_RATIO_GROUPING = has_single_images
        batches = build_train_loader(cfg)
        loader = batches.dataset if has_single_images else batches
        images = loader.prefetch_factor * workers * (1 if has_single_images else batch_size)
        assert images >= 2 * batch_size


KILLED = """
import os, signal
from my_detector.data import shapes
from my_detector.data.loader import build_train_loader
from my_detector.experiment import get_config
shapes.SPLITS = {"train": 24, "val": 8}
shapes.register_shapes()
batches = iter(build_train_loader(get_config("CONFIG")))
next(batches)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_process_that_is_killed():
    """Although nobody reads what they are about to send."""
    (config,) = Path("configs").glob("smoke.*")
    command = [sys.executable, "-c", KILLED.replace("CONFIG", str(config))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        process.communicate(timeout=40)  # until the workers, too, have let go of it
        assert process.returncode == -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
