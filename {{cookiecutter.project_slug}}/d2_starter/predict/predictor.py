"""A trained model as a function of images."""

import contextlib
import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Instances

from ..run.opening import open_run
from .memory import as_file, to_rgb

WORKERS = 2  # threads that read the next images
END = object()


class Names(list):
    """Names of classes, which are indexed as the tensors beside them are."""

    def __getitem__(self, item):
        if isinstance(item, int | slice):
            got = super().__getitem__(item)
            return Names(got) if isinstance(item, slice) else got
        return Names(np.array(self, dtype=object)[np.asarray(item)].tolist())


class Predictor:
    """A trained model, which is called with an image and returns what it finds there.

    Images are read and resized by the experiment's own mapper for tests, and the model gets them
    as an evaluation gives them: the same predictions, to the last bit, with `threshold=0` and a
    `batch_size` of `TEST.IMS_PER_BATCH`.

    Several threads may call it at once.

    Attributes:
        model: detectron2's, in evaluation mode.
        metadata: detectron2's, with `thing_classes` or `stuff_classes`.
    """

    def __init__(
        self,
        run: str | Path,
        load_experiment: Callable,
        *,
        weights: str | None = None,
        threshold: float | Mapping[str, float] | str = 0.5,
        device: str | None = None,
        half: bool = False,
        tta: bool = False,
        tiles: int | None = None,
        overlap: float = 0.2,
        batch_size: int = 1,
        workers: int = WORKERS,
        overrides: Sequence[str] = (),
        trust: bool = False,
    ):
        """
        Args:
            run: a run directory, or a file made by tools/pack.py.
            load_experiment: of the project, which reads the run's config.
            weights: a file, also one in the run directory; default: the best checkpoint of the run,
                else the last.
            threshold: lowest score of an object; of each class, by name; or "best", what the
                run's report says of each class. 0: all that an evaluation counts.
            device: "cuda", "cpu", ...; default: the config's, or the CPU where that is not there.
            half: computes with 16 bits where PyTorch's autocast does.
            tta: test-time augmentation, as the config's TEST.AUG says.
            tiles: side of tiles in pixels that large images are cut into, for small objects; else
                as the config's TEST.TILES says.
            overlap: share of a tile that the next one has too.
            batch_size: images that the model gets at once; only those of one size.
            workers: threads that read the next images while the model works.
            overrides: of keys of the config, as on the command line of a training.
            trust: opens weights that run code.

        Raises:
            OSError, ValueError: see `run.opening.open_run`; or an option is out of its range.
        """
        for name, is_good, wanted in (
            ("overlap", 0 <= overlap < 1, "a share from 0 to below 1"),
            ("batch_size", batch_size >= 1, "1 or more images"),
            ("workers", workers >= 1, "1 or more threads"),
            ("tiles", tiles is None or tiles >= 32, "a side of at least 32 pixels"),
        ):
            if not is_good:
                raise ValueError(f"{name} is {locals()[name]}. Give {wanted}.")
        self.run = open_run(run, load_experiment, weights, overrides, trust)
        self.metadata = self.run.metadata
        self.model = self.run.build_model(device)
        experiment = self.run.experiment
        if tiles:
            size = {"size": (tiles, tiles), "overlap": int(overlap * tiles)}
            experiment.tiles = experiment.tiles | {"enabled": True} | size
        if tta:
            experiment.test_augmentation = experiment.test_augmentation | {"enabled": True}
        self._mapper = experiment.build_mapper(is_train=False)
        self._predict_batch = experiment.build_predictor(self.model)
        self._thresholds = self._thresholds_of(threshold)
        if self._thresholds is not None:
            _raise_thresholds(self.model, self._thresholds.min().item())
        self._half = half
        self.batch_size, self.workers = batch_size, workers

    @property
    def names(self) -> list[str]:
        """The names of the classes of objects, by their number."""
        return list(self.metadata.get("thing_classes") or ())

    def __call__(self, image, channels: str | None = None) -> Instances | dict:
        """Finds objects in one image.

        Args:
            image: a path; a PIL image; or an array, (H, W, 3) or (H, W), uint8.
            channels: the order of an array's channels, "RGB" or "BGR" (OpenCV's).

        Returns:
            detectron2's Instances on the CPU: `pred_boxes` in pixels of the image, `scores`,
            `pred_classes`, `names`, and `pred_masks` or `pred_keypoints`. Models that classify
            pixels give detectron2's dict: `sem_seg`, `panoptic_seg`, and `instances`.

        Raises:
            OSError, TypeError, ValueError: see `to_rgb`.
        """
        return self.batch([image], channels)[0]

    def batch(self, images: Iterable, channels: str | None = None) -> list:
        """Finds objects in several images; returns a result for each, as a call with one does."""
        results = []
        for _, result in self.stream(images, channels):
            if isinstance(result, Exception):
                raise result
            results.append(result)
        return results

    def stream(self, images: Iterable, channels: str | None = None) -> Iterator[tuple]:
        """Yields (image, result) in the order of the images, which are read ahead in threads.

        The result of an image that cannot be read is the error.
        """
        waiting = []
        for image, loaded in _ahead(images, lambda i: self._load(i, channels), self.workers):
            is_error = isinstance(loaded, Exception)
            is_full = len(waiting) == self.batch_size
            if waiting and (is_error or is_full or _size(loaded) != _size(waiting[-1][1])):
                yield from self._predict(waiting)
                waiting = []
            if is_error:
                yield image, loaded
            else:
                waiting.append((image, loaded))
        yield from self._predict(waiting)

    def _load(self, image, channels):
        if isinstance(image, str | Path):
            return self._mapper({"file_name": str(image), "image_id": str(image)})
        with as_file(to_rgb(image, channels)) as file:
            return self._mapper({"file_name": file, "image_id": file})

    def _predict(self, waiting):
        if not waiting:
            return
        device = torch.device(self.model.device).type
        kind = torch.bfloat16 if device == "cpu" or torch.cuda.is_bf16_supported() else torch.half
        with torch.no_grad(), torch.autocast(device, kind, enabled=self._half):
            outputs = self._predict_batch([loaded for _, loaded in waiting])
        for (image, _), output in zip(waiting, outputs):
            yield image, self._finish(output)

    def _finish(self, output):
        if "instances" in output:
            found = self._named(self._above(output["instances"].to("cpu")))
            output = {**output, "instances": found}
        return output["instances"] if set(output) == {"instances"} else output

    def _above(self, instances):
        if self._thresholds is None:
            return instances
        return instances[instances.scores >= self._thresholds[instances.pred_classes]]

    def _named(self, instances):
        names = self.names
        classes = instances.pred_classes.tolist()
        instances.names = Names(names[i] if i < len(names) else str(i) for i in classes)
        return instances

    def _thresholds_of(self, threshold):
        """Returns (classes,) thresholds, None if all objects stay."""
        names = self.names
        if threshold == "best":
            text = self.run.text("thresholds.json")
            if text is None:
                raise ValueError(
                    f"threshold is 'best', but {self.run.path} has no thresholds.json. The report "
                    "of a run writes that file; make the report first, or give a number."
                )
            threshold = json.loads(text)
        if isinstance(threshold, Mapping):
            unknown = sorted(set(threshold) - set(names))
            if unknown:
                raise ValueError(
                    f"there is a threshold of {', '.join(unknown)}, but the classes of the model "
                    f"are {', '.join(names)}."
                )
            threshold = torch.tensor([float(threshold.get(name, 0.5)) for name in names])
        elif isinstance(threshold, str) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold!r}. Give a score from 0 to 1, or 'best'.")
        elif not threshold or not names:
            return None
        return torch.as_tensor(threshold).expand(len(names))


def _raise_thresholds(model, lowest):
    # No masks for what is left out later. Panoptic segments have a threshold of their own.
    lowest = min(lowest, getattr(model, "combine_instances_score_thresh", 1.0))
    for module in model.modules():
        if (own := getattr(module, "test_score_thresh", None)) is not None:
            module.test_score_thresh = max(own, np.nextafter(lowest, 0.0, dtype=np.float32).item())


def _size(loaded):
    images = loaded.get("tiles", [loaded])
    return [tuple(image["image"].shape) for image in images]


def _ahead(items: Iterable, load: Callable, workers: int) -> Iterator[tuple]:
    """Yields (item, what `load` made of it, or its error) in order; threads are some items ahead.

    The items themselves, which may be frames that are decoded, are taken by a thread of their own.
    """
    ready = queue.Queue(2 * workers)
    stopped = threading.Event()

    def put(entry):
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(entry, timeout=0.1)
                return

    def read(pool):
        try:
            for item in items:
                if stopped.is_set():
                    return
                put((item, pool.submit(load, item)))
        except BaseException as error:  # of the iterable: for who waits for its items
            put((END, error))
        put((END, None))

    with ThreadPoolExecutor(workers) as pool:
        reader = threading.Thread(target=read, args=(pool,), daemon=True)
        reader.start()
        try:
            while (entry := ready.get())[0] is not END:
                item, future = entry
                error = future.exception()
                is_input = isinstance(error, OSError | TypeError | ValueError | MemoryError)
                if error is not None and not is_input:
                    raise error
                yield item, error or future.result()
            if entry[1] is not None:
                raise entry[1]
        finally:
            stopped.set()
            reader.join()
