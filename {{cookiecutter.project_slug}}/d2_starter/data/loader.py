"""Builds loaders: detectron2's, in an order and with random numbers that a resumed run repeats."""

import math
import os
import random
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from multiprocessing.reduction import ForkingPickler

import numpy as np
import torch
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
)
from detectron2.structures import BoxMode
from detectron2.utils import comm
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader, Dataset, Sampler

SMALL = 2**18  # bytes; what is larger is faster sent through shared memory than through a pipe
# The signals by which clusters take a machine away, and a terminal that is closed ends what runs in
# it; Windows knows SIGTERM alone.
SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
]


def seed_all(*numbers: int):
    """Seeds Python, NumPy and PyTorch from integers, alike on every machine."""
    seeds = np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(2)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[0])
    seed_torch(int(seeds[1]))


def seed_torch(seed: int):
    """Seeds PyTorch on the CPU and on GPUs that are used, in a hundredth of manual_seed's time.

    That one remembers each call for a GPU that may be used later, with the stack of its caller.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class SeededDataset(Dataset):
    """Maps dataset dicts, each with random numbers that follow from its place in the training.

    So neither the number of workers nor an interruption changes what an augmentation draws.
    """

    def __init__(self, dataset: Sequence[dict], mapper: Callable[[dict], dict | None], seed: int):
        self.dataset = dataset
        self.mapper = mapper
        self.seed = seed

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, drawn: tuple[int, int]) -> dict:
        """Maps one image.

        Args:
            drawn: index into the dataset, and number of the draw since the training began.

        Raises:
            ValueError: the mapper refuses 1,000 images in a row.
        """
        index, draw = drawn
        seed_all(self.seed, draw)
        for _ in range(1000):
            record = self.dataset[index]
            name = record.get("file_name")  # before a mapper changes the record
            try:
                mapped = self.mapper(record)
            except Exception as error:
                error.add_note(f"The mapper was given {name}.")
                raise
            if mapped is not None:
                return mapped
            index = random.randrange(len(self.dataset))  # as detectron2's MapDataset does
        raise ValueError("the mapper returned None for 1,000 images in a row.")


class TrainingBatches(Sampler):
    """Batches of a sampler's indices, of landscape or portrait images only where that is wanted.

    Args:
        sampler: of detectron2: its endless stream is this rank's share of all draws.
        batch_size: images of this rank.
        groups: one of two groups for each index, or None: as they come.
        start_iter: batches that are skipped, because an earlier process has used them.
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, groups, start_iter: int = 0):
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups
        self.start_iter = start_iter

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return islice(self._batches(), self.start_iter, None)

    def _batches(self):
        draws = count(comm.get_rank(), comm.get_world_size())
        waiting = defaultdict(list)
        for index, draw in zip(self.sampler, draws):
            batch = waiting[self.groups and self.groups[index]]
            batch.append((int(index), draw))
            if len(batch) == self.batch_size:
                yield batch.copy()
                batch.clear()


def build_train_loader(
    dataset: Sequence[dict],
    mapper: Callable[[dict], dict | None],
    sampler: Iterable[int],
    total_batch_size: int,
    *,
    seed: int,
    start_iter: int = 0,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], object] | None = None,
    **more,
) -> DataLoader:
    """Builds an endless loader of batches of mapped dicts, as detectron2's own does.

    Unlike detectron2's, batch number i has the same images and the same random numbers in an
    uninterrupted run, after a resume, and with any number of workers.

    Args:
        total_batch_size: images of all ranks in a batch.
        start_iter: the first iteration; the batches before are skipped without being loaded.
        more: of PyTorch's DataLoader.
    """
    groups = None
    if aspect_ratio_grouping and all("width" in record for record in dataset):
        groups = [record["width"] > record["height"] for record in dataset]
    batch_size = total_batch_size // comm.get_world_size()
    return DataLoader(
        SeededDataset(DatasetFromList(list(dataset), copy=False), mapper, seed),
        batch_sampler=TrainingBatches(sampler, batch_size, groups, start_iter),
        num_workers=num_workers,
        collate_fn=collate_fn or trivial_batch_collator,
        worker_init_fn=WorkerInit(),
        generator=torch.Generator(),  # the workers' base seed is not drawn from the training's
        **more,
    )


class WorkerInit:
    """Makes a worker of a loader leave signals to its process, and send small tensors fast.

    A cluster sends SIGTERM to all processes; a training can finish its iteration only with workers
    that go on. SIGTERM from the worker's own process ends the worker, as in PyTorch's loaders. (On
    systems without sigtimedwait, such as macOS, nothing is changed.)
    """

    def __call__(self, worker_id: int):
        if hasattr(signal, "sigtimedwait"):
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # for the threads to come, too
            threading.Thread(target=self._wait, args=(os.getppid(),), daemon=True).start()
            ForkingPickler.register(torch.Tensor, _reduce)

    @staticmethod
    def _wait(parent: int):
        # A worker whose process was killed would wait for ever until somebody reads its tensors.
        while os.getppid() == parent:
            got = signal.sigtimedwait(SIGNALS, 2)
            if got and got.si_signo == signal.SIGTERM and got.si_pid == parent:
                break
        os._exit(0)


def _reduce(tensor: torch.Tensor):
    # PyTorch sends every tensor through shared memory, which takes a connection of its own for
    # each: half a millisecond, whatever the size. Small ones go through the pipe.
    is_plain = tensor.is_cpu and tensor.layout == torch.strided and not tensor.requires_grad
    if tensor.nbytes > SMALL or not is_plain or tensor.dtype == torch.bfloat16:
        return reduce_tensor(tensor)
    return torch.from_numpy, (tensor.numpy(),)


def check_annotations(
    dataset: Iterable[dict], names: Sequence[str], masks: bool, keypoints: bool, rotated: bool
):
    """Checks that every object has what the model learns or is evaluated by.

    Raises:
        ValueError: some objects have no mask, or no keypoints, or upright boxes where the model
            learns rotated ones, or the other way round.
    """
    annotations = [a for r in dataset for a in r.get("annotations", ()) if not a.get("iscrowd")]
    others = sum((a.get("bbox_mode") == BoxMode.XYWHA_ABS) != rotated for a in annotations)
    if others:
        has, learns = ("upright", "rotated") if rotated else ("rotated", "upright")
        raise ValueError(
            f"{others} of {len(annotations)} objects in {', '.join(names)} have {has} boxes, but "
            f"this model learns {learns} ones. Rotated boxes need a model for them "
            "(RotatedAnchorGenerator, RRPN, RROIHeads, ROIAlignRotated) and BoxMode.XYWHA_ABS."
        )
    for what, key, is_needed in (
        ("mask", "segmentation", masks),
        ("keypoints", "keypoints", keypoints),
    ):
        without = sum(key not in annotation for annotation in annotations)
        if is_needed and without:
            raise ValueError(
                f"{without} of {len(annotations)} objects in {', '.join(names)} have no {what}, "
                "which this model learns. Take a config without, such as faster_rcnn_R_50_FPN, or "
                "leave those objects out in data/dataset.py."
            )


def images_per_epoch(dataset: Sequence[dict], sampler) -> float:
    """Returns how many images the loader delivers in an epoch, on average over epochs.

    A sampler may deliver a subset only, or images of rare classes more than once.
    """
    if isinstance(sampler, RandomSubsetTrainingSampler):
        return float(len(sampler._indexes_subset))
    if isinstance(sampler, RepeatFactorTrainingSampler):
        return (sampler._int_part + sampler._frac_part).sum().item()
    return float(len(dataset))


def take_subset(dataset: list[dict], ratio: float, seed: int) -> list[dict]:
    """Returns a random share of the images, in their order, which is the same for the same seed."""
    number = max(1, math.floor(ratio * len(dataset) + 0.5))
    if number >= len(dataset):
        return dataset
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(dataset), generator=generator)[:number].sort().values
    return [dataset[i] for i in chosen.tolist()]


def image_ids(dataset: Iterable[dict]) -> list:
    """Returns what identifies each image: its `image_id`, or else its file."""
    return [record.get("image_id", record["file_name"]) for record in dataset]


class SameSizeBatches(Sampler):
    """Batches of another sampler's indices, each of images of one size only.

    In a mixed batch the smaller images are padded, which changes what a model finds in them.

    Args:
        sampler: indices into `sizes`.
        sizes: what the images of a batch have in common; None is like no other.
    """

    def __init__(self, sampler: Iterable[int], sizes: list, batch_size: int):
        groups = defaultdict(list)
        for index in sampler:
            groups[index if sizes[index] is None else sizes[index]].append(index)
        self.batches = [
            group[start : start + batch_size]
            for group in groups.values()
            for start in range(0, len(group), batch_size)
        ]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def build_test_loader(
    dataset: list[dict], mapper: Callable[[dict], dict], batch_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """Builds a loader that delivers every image once, split over the ranks.

    Its batches have up to `batch_size` images of one size; an image of unknown size comes alone.
    """
    sizes = [(r["height"], r["width"]) if "width" in r else None for r in dataset]
    return DataLoader(
        MapDataset(DatasetFromList(dataset, copy=False), mapper),
        batch_sampler=SameSizeBatches(InferenceSampler(len(dataset)), sizes, batch_size),
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        worker_init_fn=WorkerInit(),
        generator=torch.Generator(),
    )
