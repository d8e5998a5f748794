"""The loaders: detectron2's, with the project's mapper, random subsets, and an order to resume."""

import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from multiprocessing.reduction import ForkingPickler

import torch
from detectron2.data import (
    DatasetFromList,
    MapDataset,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
)
from detectron2.utils import comm
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader, Sampler

from ..experiment import build_mapper, train_loader_arguments

SMALL = 2**18  # bytes; what is larger is faster sent through shared memory than through a pipe
# How clusters announce that they take a machine away; SIGUSR1 is not known to Windows.
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class SkippingSampler(Sampler):
    """Another sampler without its first `skip` indices.

    detectron2's samplers start over in a resumed run, which then sees the images of its first epoch
    again and others never.
    """

    def __init__(self, sampler: Sampler, skip: int):
        self.sampler = sampler
        self.skip = skip

    def __iter__(self):
        return islice(iter(self.sampler), self.skip, None)


def build_train_loader(cfg, start_iter: int = 0):
    """An endless loader of batches (lists of `SOLVER.IMS_PER_BATCH / world size` mapped dicts).

    Args:
        start_iter: the iteration that training starts from; what the iterations before it have
            seen is skipped.
    """
    arguments = _arguments(cfg)
    # Every rank's sampler yields its share of the stream: skip is in images of one rank.
    batch_size = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    skip = start_iter * batch_size
    if arguments.get("aspect_ratio_grouping", True):
        # Workers then send single images, and hold two each ready if they are not told otherwise.
        # Of these a batch would take what there is, and wait for the rest.
        prefetch = -(-2 * batch_size // max(1, cfg.DATALOADER.NUM_WORKERS))
        arguments.setdefault("prefetch_factor", max(2, prefetch))
    arguments["sampler"] = SkippingSampler(arguments["sampler"], skip)
    batches = loader = build_detection_train_loader(**arguments)
    while not isinstance(loader, DataLoader):
        loader = loader.dataset
    loader.worker_init_fn = WorkerInit(loader.worker_init_fn)
    return batches


class WorkerInit:
    """Has a worker of a loader leave the signals that ask to stop to the process that it works for,
    and send it small tensors in a fast way.

    A cluster sends them to all processes; that training can finish its iteration, and an evaluation
    end in order, takes workers that go on. SIGTERM of its own process ends a worker, as it does in
    PyTorch's loaders. (On systems without sigtimedwait, such as macOS, all stays as it is there.)
    """

    def __init__(self, also: Callable[[int], None] | None = None):
        self.also = also

    def __call__(self, worker_id: int):
        if hasattr(signal, "sigtimedwait"):
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # for the threads to come, too
            threading.Thread(target=self._wait, args=(os.getppid(),), daemon=True).start()
            ForkingPickler.register(torch.Tensor, _reduce)
        if self.also:
            self.also(worker_id)

    @staticmethod
    def _wait(parent: int):
        # A worker whose process was killed would wait for ever until somebody reads its tensors.
        while os.getppid() == parent:
            got = signal.sigtimedwait(SIGNALS, 2)
            if got and got.si_signo == signal.SIGTERM and got.si_pid == parent:
                break
        os._exit(0)


def _reduce(tensor: torch.Tensor):
    """How a worker sends a tensor: through the pipe, if it is small.

    PyTorch sends all through shared memory, which takes a connection of their own for each of
    them: half a millisecond, whatever their size.
    """
    is_plain = tensor.is_cpu and tensor.layout == torch.strided and not tensor.requires_grad
    if tensor.nbytes > SMALL or not is_plain or tensor.dtype == torch.bfloat16:
        return reduce_tensor(tensor)
    return torch.from_numpy, (tensor.numpy(),)


def _arguments(cfg):
    try:
        arguments = train_loader_arguments(cfg)
    except AssertionError as error:  # detectron2's, when none is left
        names = ", ".join(cfg.DATASETS.TRAIN)
        raise ValueError(
            f"there is no image to train on in {names}: {error} Images without annotations, or "
            "with crowds alone, are left out. tools/check_dataset.py says what is in the data set."
        ) from error
    check_annotations(cfg, arguments["dataset"], cfg.DATASETS.TRAIN)
    ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
    if ratio < 1:
        # From a config it would get no seeds, and so take other images when a run is resumed.
        number = len(arguments["dataset"])
        if number * ratio < 1:
            raise ValueError(
                f"DATALOADER.RANDOM_SUBSET_RATIO {ratio} of {number} images is no image."
            )
        arguments["sampler"] = RandomSubsetTrainingSampler(
            number, ratio, seed_shuffle=cfg.SEED, seed_subset=cfg.DATALOADER.RANDOM_SUBSET_SEED
        )
    return arguments


def check_annotations(cfg, dataset: list[dict], names: Sequence[str]):
    """
    Raises:
        ValueError: some objects of the data sets `names` lack what the model learns or is
            evaluated by.
    """
    annotations = [a for r in dataset for a in r.get("annotations", ()) if not a.get("iscrowd")]
    for what, key, is_needed in (
        ("mask", "segmentation", cfg.MODEL.MASK_ON),
        ("keypoints", "keypoints", cfg.MODEL.KEYPOINT_ON),
    ):
        without = sum(key not in annotation for annotation in annotations)
        if is_needed and without:
            raise ValueError(
                f"{without} of {len(annotations)} objects in {', '.join(names)} have no {what}, "
                "which this model learns. Take a config without, such as configs/"
                "faster_rcnn_R_50_FPN.{{ cookiecutter.__suffix }}, or leave those objects out in data/dataset.py."
            )


def training_images(cfg) -> tuple[float, list | None]:
    """How many images the training loader delivers in an epoch, and which, if it is a subset.

    Without those that detectron2 filters out. Where a sampler repeats images of rare classes, it is
    the number that it delivers on average.
    """
    arguments = _arguments(cfg)
    dataset, sampler = arguments["dataset"], arguments["sampler"]
    if isinstance(sampler, RandomSubsetTrainingSampler):
        subset = image_ids(dataset[i] for i in sampler._indexes_subset.tolist())
        return float(len(subset)), subset
    if isinstance(sampler, RepeatFactorTrainingSampler):
        return (sampler._int_part + sampler._frac_part).sum().item(), None
    return float(len(dataset)), None


def get_test_dataset(cfg, dataset_name: str) -> list[dict]:
    """The dataset dicts of a test set, or of the subset `TEST.RANDOM_SUBSET_RATIO` of it."""
    dataset = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    number = max(1, round(cfg.TEST.RANDOM_SUBSET_RATIO * len(dataset)))
    if number == len(dataset):
        return dataset
    generator = torch.Generator().manual_seed(cfg.TEST.RANDOM_SUBSET_SEED)
    chosen = torch.randperm(len(dataset), generator=generator)[:number].sort().values
    return [dataset[i] for i in chosen.tolist()]


def image_ids(dataset: Iterable[dict]) -> list:
    """What identifies each image: its `image_id`, or else its file."""
    return [record.get("image_id", record["file_name"]) for record in dataset]


class SameSizeBatches(Sampler):
    """Batches of another sampler's indices, each of images of one size only.

    In a mixed batch the smaller images are padded, which changes what a model finds in them.
    """

    def __init__(self, sampler: Iterable[int], sizes: list, batch_size: int):
        """
        Args:
            sampler: indices into `sizes`.
            sizes: what the images of a batch have in common; None is like no other.
        """
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


def build_test_loader(cfg, dataset: list[dict]) -> DataLoader:
    """A loader that delivers every image once, split over the ranks.

    Its batches have up to `TEST.IMS_PER_BATCH` images of one size; images whose dataset dict does
    not say their size come alone. With `TEST.VAL_LOSS` they come with their ground truth.
    """
    mapper = build_mapper(cfg, is_train=False, ground_truth=cfg.TEST.VAL_LOSS)
    sizes = [(r["height"], r["width"]) if "width" in r else None for r in dataset]
    return DataLoader(
        MapDataset(DatasetFromList(dataset, copy=False), mapper),
        batch_sampler=SameSizeBatches(
            InferenceSampler(len(dataset)), sizes, cfg.TEST.IMS_PER_BATCH
        ),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        worker_init_fn=WorkerInit(),
        generator=torch.Generator(),  # its workers' seeds are not drawn from the training's
    )
