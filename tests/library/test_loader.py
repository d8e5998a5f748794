import contextlib
import copy
import os
import re
import signal
import subprocess
import sys
import traceback
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from d2_starter.data.catalog import register
from d2_starter.data.loader import build_train_loader


def images_per_epoch(experiment) -> float:
    experiment.set_epoch_length()
    return experiment.images_per_epoch


def test_images_of_an_epoch(load):
    """What the loader delivers: without empty images; with those of rare classes repeated."""
    records = DatasetCatalog.get("shapes_train")
    records[0]["annotations"] = []
    classes = ["circle", "square", "triangle"]
    register("one_empty", lambda: copy.deepcopy(records), thing_classes=classes)
    keys = ["DATASETS.TRAIN", "('one_empty',)"]
    assert images_per_epoch(load(*keys)) == 23
    keys += ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", False]
    assert images_per_epoch(load(*keys)) == 24

    keys += ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"]
    experiment = load(*keys, "DATALOADER.REPEAT_THRESHOLD", 1.0)
    sampler, generator = experiment.train_arguments()["sampler"], torch.Generator().manual_seed(0)
    delivered = [len(sampler._get_epoch_indices(generator)) for _ in range(300)]
    assert images_per_epoch(experiment) > 24
    assert images_per_epoch(experiment) == pytest.approx(sum(delivered) / 300, rel=0.01)


def test_subset_without_an_image_is_refused(load):
    with pytest.raises(ValueError, match=r"SUBSET_RATIO is 0.01. Of 24 images that is no image"):
        load("DATALOADER.RANDOM_SUBSET_RATIO", 0.01).build_train_loader()


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
def test_a_worker_delivers_what_the_process_itself_does(load, mask_format):
    """Mirrored or not, resized to this or that: random numbers follow from the draw."""
    keys = ["INPUT.MASK_FORMAT", mask_format, "INPUT.MIN_SIZE_TRAIN", "(48, 56, 64)"]
    dataset = DatasetCatalog.get("shapes_val")
    batches = {}
    for workers in (0, 1, 3):
        experiment = load(*keys, "INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", workers)
        training = experiment.build_train_loader()
        batches[workers] = [*islice(training, 4), *experiment.build_test_loader(dataset)]
    assert same(batches[0], batches[1]) and same(batches[0], batches[3])
    assert len({image["image"].shape for image in batches[0][0]}) > 1
    tensor = batches[1][0][0]["image"]
    tensor += 1  # it is nobody else's


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("grouping", [True, False])
def test_a_resumed_run_goes_on_with_the_images_that_come(load, workers, grouping):
    """And with their augmentation."""
    keys = ["DATALOADER.NUM_WORKERS", workers, "DATALOADER.ASPECT_RATIO_GROUPING", grouping]
    whole = list(islice(load(*keys).build_train_loader(), 6))
    assert same(whole[2:], list(islice(load(*keys).build_train_loader(start_iter=2), 4)))
    ids = [image["image_id"] for batch in whole for image in batch]
    assert sorted(ids) == sorted(2 * list(range(1, 25)))  # two epochs: each image twice


def test_another_seed_gives_another_order(load):
    first, second = (
        [image["image_id"] for image in next(iter(load("SEED", seed).build_train_loader()))]
        for seed in (1, 2)
    )
    assert first != second


def test_workers_send_large_tensors_through_shared_memory(load):
    """And small ones not, each of which takes a connection."""
    for size, is_large in ((64, False), (512, True)):
        experiment = load("DATALOADER.NUM_WORKERS", 1, "INPUT.MIN_SIZE_TRAIN", f"({size},)")
        (image, *_) = next(iter(experiment.build_train_loader()))
        assert image["image"].is_shared() == is_large
        assert not image["instances"].gt_boxes.tensor.is_shared()


def test_mapper_that_refuses_images(load):
    """As detectron2's: another image comes in its place, but not for ever."""
    arguments = load().train_arguments()
    mapper = arguments["mapper"]
    arguments["mapper"] = lambda record: mapper(record) if record["image_id"] % 2 else None
    batch = next(iter(build_train_loader(**arguments, seed=1)))
    assert len(batch) == 8 and all(image["image_id"] % 2 for image in batch)
    arguments["mapper"] = lambda record: None
    with pytest.raises(ValueError, match="the mapper returned None for 1,000 images in a row"):
        next(iter(build_train_loader(**arguments, seed=1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_mapper_names_the_image(load, workers):
    arguments = load("DATALOADER.NUM_WORKERS", workers).train_arguments()
    names = {record["image_id"]: record["file_name"] for record in arguments["dataset"]}

    def mapper(record):
        raise RuntimeError(f"no run lengths of {record.pop('image_id')}")

    arguments["mapper"] = mapper
    with pytest.raises(RuntimeError, match="no run lengths") as caught:
        next(iter(build_train_loader(**arguments, seed=1)))
    text = "".join(traceback.format_exception(caught.value))
    (number,) = set(re.findall(r"no run lengths of (\d+)", text))
    assert f"The mapper was given {names[int(number)]}." in text


KILLED = """
import os, signal
from d2_starter.data.loader import build_train_loader
batches = iter(build_train_loader([{}] * 24, lambda record: record, range(24), 2, seed=1,
                                  aspect_ratio_grouping=False, num_workers=2))
next(batches)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_process_that_is_killed():
    """Although nobody reads what they are about to send."""
    command = [sys.executable, "-c", KILLED]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        process.communicate(timeout=40)  # until the workers, too, have let go of it
        assert process.returncode == -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
