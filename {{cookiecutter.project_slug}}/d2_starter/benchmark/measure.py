"""How fast the parts of a training are, each by itself, on a config's own data."""

import functools
import importlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import islice
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from tqdm import tqdm

from ..config import amp_dtype
from ..data import dataset_mapper
from ..data.loader import build_train_loader
from ..experiment import build_model, build_optimizer
from .accumulate import parts
from .average import Average
from .checkpoint import Checkpointer
from .evaluation import Evaluation
from .validation_pass import PredictionsAndLosses, untouched
from .writers import build_writers, progress

# The stages of loading and evaluation, and the functions that they are made of. A mapper of your
# own is taken apart by the functions that it shares with the project's; the rest is "to tensors".
LOADING = {
    "read and decode": [
        (detection_utils, "read_image"),
        (dataset_mapper, "read_image"),
        (dataset_mapper, "read_label_map"),
    ],
    "augment": [(T.AugmentationList, "__call__")],
    "annotations": [(dataset_mapper.Mapper, "_instances")],
}
POST_PROCESSING = {
    "post-processing": [
        (importlib.import_module(f"detectron2.modeling.meta_arch.{module}"), function)
        for module, function in (
            ("rcnn", "detector_postprocess"),
            ("dense_detector", "detector_postprocess"),
            ("panoptic_fpn", "detector_postprocess"),
            ("panoptic_fpn", "sem_seg_postprocess"),
            ("semantic_seg", "sem_seg_postprocess"),
        )
    ],
    "losses": [(PredictionsAndLosses, "_add_losses")],
}


class Part:
    """Something that handles images; its speed is measured in turns.

    Attributes:
        seconds: what each stage has taken so far, by name.
        images: how many images that was for.
    """

    def __init__(self, cfg):
        self.cfg = cfg
        self.seconds = defaultdict(float)
        self.images = 0
        self._inside = set()

    def turn(self, iterations: int) -> float:
        """Images per second of so many batches, at least."""
        raise NotImplementedError

    def stages(self) -> dict[str, float]:
        """Milliseconds of each stage for an image, the longest first."""
        longest = sorted(self.seconds, key=self.seconds.get, reverse=True)
        return {name: 1000 * self.seconds[name] / self.images for name in longest}

    @contextmanager
    def timed(self, stage: str):
        self._synchronize()
        start = time.perf_counter()
        yield
        self._synchronize()
        self.seconds[stage] += time.perf_counter() - start

    @contextmanager
    def inside(self, stage: str, stages: dict[str, list]):
        """Times a stage, and apart from it the functions `stages` that it calls."""
        with ExitStack() as stack:
            for name, functions in stages.items():
                for owner, function in functions:
                    if hasattr(owner, function):
                        timed = self._timing(getattr(owner, function), name)
                        stack.enter_context(patch.object(owner, function, timed))
            before = sum(self.seconds[name] for name in stages)
            with self.timed(stage):
                yield
            self.seconds[stage] -= sum(self.seconds[name] for name in stages) - before

    def _timing(self, function, name):
        @functools.wraps(function)
        def timed(*args, **kwargs):
            if name in self._inside:  # one function of a stage that calls another
                return function(*args, **kwargs)
            self._inside.add(name)
            try:
                with self.timed(name):
                    return function(*args, **kwargs)
            finally:
                self._inside.remove(name)

        return timed

    def _synchronize(self):
        if self.cfg.MODEL.DEVICE != "cpu":  # where calls return before their work is done
            torch.cuda.synchronize()


class Loading(Part):
    """The training loader alone. Without workers, its stages are told apart."""

    def __init__(self, cfg):
        super().__init__(cfg)
        seed_all_rng(max(cfg.SEED, 0))
        self.batches = iter(build_train_loader(cfg))

    def turn(self, iterations):
        workers = self.cfg.DATALOADER.NUM_WORKERS
        skip(self.batches, workers)
        if workers:  # they deliver in rounds
            stages, iterations = {}, -(-iterations // workers) * workers
        else:
            stages = LOADING
        images = 0
        start = time.perf_counter()
        with self.inside("to tensors" if stages else "loading", stages):
            for batch in islice(self.batches, iterations):
                images += len(batch)
        self.images += images
        return images / (time.perf_counter() - start)


class Training(Part):
    """A model, loaded as a training would, and the step of an iteration.

    The learning rate is 0: what a model finds decides how long it takes, so that it must stay as it
    is. The optimizer has the same work.
    """

    def __init__(self, cfg, model=None):
        super().__init__(cfg)
        self.model = model or load_model(cfg)
        self.average = Average(cfg, self.model)
        self.optimizer = build_optimizer(cfg, self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        dtype = amp_dtype(cfg)
        self.autocast = torch.autocast(
            torch.device(cfg.MODEL.DEVICE).type, dtype=dtype, enabled=cfg.SOLVER.AMP.ENABLED
        )
        enabled = cfg.SOLVER.AMP.ENABLED and dtype == torch.float16
        self.scaler = torch.amp.GradScaler(enabled=enabled)

    def iteration(self, batch) -> dict[str, float]:
        """Its losses."""
        self.optimizer.zero_grad()
        losses = defaultdict(float)
        for part in parts(self.model, batch, self.cfg.SOLVER.ACCUMULATE):
            with self.stage("forward"), self.autocast:
                loss_dict = self.model(part)
                loss = sum(loss_dict.values()) / self.cfg.SOLVER.ACCUMULATE
            with self.stage("backward"):
                for name, value in loss_dict.items():
                    losses[name] += value.item() / self.cfg.SOLVER.ACCUMULATE
                self.scaler.scale(loss).backward()
        with self.stage("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.average.update()
        return losses

    def stage(self, name: str):
        return nullcontext()  # waiting for a GPU after each would slow the whole down

    @contextmanager
    def as_in_training(self, storage: EventStorage):
        self.model.train()
        torch.backends.cudnn.benchmark = self.cfg.CUDNN_BENCHMARK
        with storage:
            yield


class ModelAlone(Training):
    """Forward, backward and the optimizer's step, on batches that are in memory: these, or some of
    the training set.
    """

    def __init__(self, cfg, model=None, batches: list[list[dict]] | None = None):
        super().__init__(cfg, model)
        self.batches = batches or list(islice(build_train_loader(cfg), 8))
        self.next = 0

    def turn(self, iterations):
        images = 0
        # Not iteration 0, at which models with any VIS_PERIOD draw pictures.
        with self.as_in_training(EventStorage(start_iter=1)):
            start = time.perf_counter()
            for _ in range(iterations):
                batch = self.batches[self.next % len(self.batches)]
                self.iteration(batch)
                images += len(batch)
                self.next += 1
        self.images += images
        return images / (time.perf_counter() - start)

    def stage(self, name):
        return self.timed(name)


class Loop(Training):
    """Iterations of training: loading, the model's step, losses taken to the CPU and logged."""

    def __init__(self, cfg, model=None):
        super().__init__(cfg, model)
        seed_all_rng(max(cfg.SEED, 0))
        self.batches = iter(build_train_loader(cfg))
        self.storage = EventStorage()
        self.folder = TemporaryDirectory()  # for what is logged
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = self.folder.name
        self.writers = build_writers(cfg, 0)

    def turn(self, iterations):
        workers = self.cfg.DATALOADER.NUM_WORKERS
        skip(self.batches, workers)
        images, before = 0, dict(self.seconds)
        with self.as_in_training(self.storage):
            for iteration in range(-1, max(iterations, workers)):
                if iteration == 0:  # the one before it lets the workers get ahead again
                    self._synchronize()
                    images, self.seconds = 0, defaultdict(float, before)
                    begin = time.perf_counter()
                start = time.perf_counter()
                batch = next(self.batches)
                self.seconds["waiting for data"] += time.perf_counter() - start
                losses = self.iteration(batch)
                start_logging = time.perf_counter()
                self.log(losses, start_logging - start)
                self.seconds["logging"] += time.perf_counter() - start_logging
                images += len(batch)
            self._synchronize()
        total = time.perf_counter() - begin
        others = sum(self.seconds.values()) - sum(before.values())
        self.seconds["training"] += total - others
        self.images += images
        return images / total

    def log(self, losses, seconds):
        self.storage.put_scalars(total_loss=sum(losses.values()), time=seconds, **losses)
        self.storage.put_scalars(**progress(self.cfg, self.storage.iter), smoothing_hint=False)
        # The first time TensorBoard is imported, which is in a turn that does not count.
        if self.storage.iter == 0 or (self.storage.iter + 1) % self.cfg.LOG_PERIOD == 0:
            for writer in self.writers:
                writer.write()
        self.storage.step()


class Evaluating(Part):
    """The evaluation of the first test set's first images, as many as training has in a turn."""

    def __init__(self, cfg, model=None):
        super().__init__(cfg)
        self.model = model or load_model(cfg)

    def turn(self, iterations):
        images = 0
        with TemporaryDirectory() as folder, untouched(self.model), torch.no_grad():
            evaluation = Evaluation(
                self.cfg,
                self.model,
                self.cfg.DATASETS.TEST[0],
                folder,
                max_images=iterations * self.cfg.SOLVER.IMS_PER_BATCH,
            )
            evaluation.reset()
            batches = iter(evaluation.loader)
            batch = next(batches)  # for which workers must start
            start = time.perf_counter()
            while batch:
                with self.inside("inference", POST_PROCESSING):
                    outputs = evaluation.predict(batch)
                with self.timed("results to the CPU"):
                    evaluation.process(batch, outputs)
                images += len(batch)
                with self.timed("loading"):
                    batch = next(batches, None)
            with self.timed("matching"):
                evaluation.evaluate()
            total = time.perf_counter() - start
        self.images += images
        return images / total


PARTS: dict[str, Callable[..., Part]] = {
    "loading": Loading,
    "model": ModelAlone,
    "loop": Loop,
    "evaluation": Evaluating,
}


def load_model(cfg) -> torch.nn.Module:
    """The model with the weights of the last checkpoint in OUTPUT_DIR, or else MODEL.WEIGHTS."""
    model = build_model(cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
    weights = checkpointer.get_checkpoint_file() or cfg.MODEL.WEIGHTS
    checkpointer.load(weights, checkpointables=[])
    return model


def skip(batches, workers: int):
    """What workers have loaded ahead, while nobody was waiting, says nothing of their speed."""
    for _ in islice(batches, 2 * workers):
        pass


def alternate(parts: list[Part], rounds: int, iterations: int) -> np.ndarray:
    """Images per second, (rounds, parts), of parts that take turns.

    So, what slows the machine down for a while slows all of them.
    """
    rates = []
    turns = tqdm(total=rounds * len(parts), leave=False, disable=None)  # None: without a terminal
    with turns:
        for part in parts:  # the first turn of each is slower
            part.turn(1)
            part.seconds.clear()
            part.images = 0
        for _ in range(rounds * len(parts)):
            rates.append(parts[len(rates) % len(parts)].turn(iterations))
            turns.update()
    return np.array(rates).reshape(rounds, len(parts))


def spread(values) -> tuple[float, float, float]:
    """Median, and the bounds of the middle half."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(median), float(low), float(high)


def losses_of_evaluation(cfg, model, batches: int) -> dict[str, np.ndarray]:
    """Seconds for each batch, (batches,), of a test set, evaluated in three ways in turn:

    predictions alone; predictions and losses in one pass, as the project does; and in two.
    """
    two_passes = PredictionsAndLosses(model)
    two_passes._parts.clear()  # nothing is used twice
    ways = {
        "predictions only": model,
        "with losses, one pass": PredictionsAndLosses(model),
        "with losses, two passes": two_passes,
    }
    part = Part(cfg)
    times = defaultdict(list)
    with TemporaryDirectory() as folder, untouched(model), torch.no_grad():
        loader = Evaluation(
            cfg, model, cfg.DATASETS.TEST[0], folder, (batches + 2) * cfg.TEST.IMS_PER_BATCH
        ).loader
        for batch in loader:
            for way, function in ways.items():
                before = part.seconds[way]
                with part.timed(way):
                    function(batch)
                times[way].append(part.seconds[way] - before)
    return {way: np.array(values[2:] or values) for way, values in times.items()}


def largest(fits: Callable[[int], bool], start: int, limit: int = 4096) -> int:
    """The largest number up to `limit` that fits, if all smaller ones do; 0 if not even 1 does.

    Doubles from `start`, then bisects.
    """
    good, bad = 0, start
    while bad <= limit and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, limit + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def largest_batch(cfg, model, start: int) -> int:
    """How many images one GPU can train on at once, all as large as the largest of some batches.

    Raises:
        ValueError: the device is a CPU, whose memory is not a limit of that kind.
    """
    if cfg.MODEL.DEVICE == "cpu":
        raise ValueError("the largest batch is not searched on a CPU")
    batches = islice(build_train_loader(cfg), 16)
    heaviest = max(
        (image for batch in batches for image in batch),
        key=lambda image: (image["image"].nelement(), len(image.get("instances", ()))),
    )

    def fits(number):
        part = ModelAlone(cfg, model, [[heaviest] * number])
        try:
            part.turn(2)  # in the second, the optimizer's state is there
            return True
        except torch.OutOfMemoryError:
            return False
        finally:
            del part
            model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    return largest(fits, start)


def memory(device: str) -> str:
    """The most that was used so far."""
    parts = []
    if device != "cpu":
        parts.append(f"GPU {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        for what, who in (
            ("this process", resource.RUSAGE_SELF),
            ("its largest worker", resource.RUSAGE_CHILDREN),  # of those that have ended
        ):
            peak = resource.getrusage(who).ru_maxrss * unit
            if peak:
                parts.append(f"{what} {peak / 2**30:.2f} GiB")
    return ", ".join(parts)


def cpus() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
