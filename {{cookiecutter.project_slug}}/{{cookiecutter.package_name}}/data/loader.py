"""The loaders: detectron2's, with the project's mapper, and an order that a resume keeps."""

from itertools import islice

from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import Sampler

from .dataset_mapper import Mapper


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
    arguments = build_detection_train_loader.from_config(cfg, mapper=Mapper(cfg, is_train=True))
    # Every rank's sampler yields its share of the stream: skip is in images of one rank.
    skip = start_iter * cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    arguments["sampler"] = SkippingSampler(arguments["sampler"], skip)
    return build_detection_train_loader(**arguments)


def build_test_loader(cfg, dataset_name: str):
    """A loader that delivers every image of the data set once, split over the ranks."""
    return build_detection_test_loader(cfg, dataset_name, mapper=Mapper(cfg, is_train=False))
