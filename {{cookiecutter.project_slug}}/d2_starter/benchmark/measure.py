"""Measures the speed of the parts of a training, each alone, on an experiment's own data."""

import time
from collections.abc import Callable
from itertools import cycle, islice
from tempfile import TemporaryDirectory

import numpy as np
import torch
from detectron2.utils.events import EventStorage
from torch import nn
from tqdm import tqdm

from ..config.experiment import Experiment
from ..data.catalog import get_metadata
from ..evaluation.evaluate import evaluate
from ..files.run_directory import RunDirectory
from ..run.checkpoint import Checkpointer
from ..run.ema import EMA
from ..run.training_step import MixedPrecision, compute_gradients
from ..run.writers import build_writers

# Measures a part over so many iterations, or a few more: returns images and seconds.
Turn = Callable[[int], tuple[int, float]]


def loading(experiment: Experiment, model: nn.Module | None = None) -> Turn:
    """Returns turns of the training loader alone."""
    workers = experiment.num_workers
    batches = iter(experiment.build_train_loader())

    def turn(iterations):
        _skip_prefetched(batches, workers)
        # Workers deliver in rounds: a part of a round says nothing.
        number = -(-iterations // workers) * workers if workers else iterations
        start = time.perf_counter()
        images = sum(len(batch) for batch in islice(batches, number))
        return images, time.perf_counter() - start

    return turn


def training_step(experiment: Experiment, model: nn.Module) -> Turn:
    """Returns turns of the training step alone, on batches that are in memory."""
    step = _build_step(experiment, model)
    batches = cycle(list(islice(experiment.build_train_loader(), 8)))

    def turn(iterations):
        images, start = 0, _now(experiment)
        with EventStorage(start_iter=1):  # at iteration 0, models with a VIS_PERIOD draw pictures
            for batch in islice(batches, iterations):
                step(batch)
                images += len(batch)
        return images, _now(experiment) - start

    return turn


def loop(experiment: Experiment, model: nn.Module) -> Turn:
    """Returns turns of a training's iterations: loading, the training step, and the log."""
    step = _build_step(experiment, model)
    batches = iter(experiment.build_train_loader())
    folder, schedule, storage = TemporaryDirectory(), experiment.schedule, EventStorage(1)
    writers = build_writers(folder.name, schedule, 0)

    def iterate(iterations):
        images = 0
        for batch in islice(batches, iterations):
            progress = schedule.progress(storage.iter)
            storage.put_scalars(**step(batch), **progress)
            if storage.iter % schedule.log_period == 0:
                for writer in writers:
                    writer.write()
            storage.step()
            images += len(batch)
        return images

    def turn(iterations):
        _skip_prefetched(batches, experiment.num_workers)
        with storage:
            iterate(1)  # in which workers get ahead again, as far as they can
            start = _now(experiment)
            images = iterate(max(iterations, experiment.num_workers))
            return images, _now(experiment) - start

    turn.folder = folder  # which lives as long as the turns
    return turn


def evaluation(experiment: Experiment, model: nn.Module) -> Turn:
    """Returns turns of evaluating images of the first test set, as many as training has in a turn.

    They include the start of the loader and the metrics, but not the reading of annotations.
    """
    name, *_ = experiment.test_names
    ratio, available = experiment.test_subset_ratio, len(experiment.test_dataset(name))
    is_voc = get_metadata(name).get("evaluator_type") == "pascal_voc"  # which takes all images

    def turn(iterations):
        wanted = available if is_voc else iterations * experiment.batch_size
        output_dir = experiment.output_dir
        with TemporaryDirectory() as experiment.output_dir:
            experiment.test_subset_ratio = ratio * min(1.0, wanted / available)
            images = len(experiment.test_dataset(name))
            evaluator = experiment.build_evaluator(name, experiment.output_dir)
            start = _now(experiment)
            evaluate(
                model,
                [name],
                experiment.build_test_loader,
                lambda *_: evaluator,
                experiment.output_dir,
                val_loss=experiment.val_loss,
                build_predictor=experiment.build_predictor,
            )
            seconds = _now(experiment) - start
        experiment.output_dir, experiment.test_subset_ratio = output_dir, ratio
        return images, seconds

    return turn


PARTS = {"loading": loading, "model": training_step, "loop": loop, "evaluation": evaluation}


def _build_step(experiment, model):
    # The learning rate is 0: what a model finds decides how long a step takes, so that the model
    # has to stay as it is. The optimizer works as with any other learning rate.
    ema = EMA(model, experiment.ema_decay)
    optimizer = experiment.build_optimizer(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    precision = MixedPrecision(experiment.device, experiment.amp)

    def step(batch):
        model.train()
        optimizer.zero_grad()
        losses = compute_gradients(model, batch, 1, precision, experiment.accumulate)
        precision.scaler.step(optimizer)
        precision.scaler.update()
        ema.update()
        return losses

    return step


def _now(experiment):
    if torch.device(experiment.device).type == "cuda":  # where calls only queue work
        torch.cuda.synchronize()
    return time.perf_counter()


def _skip_prefetched(batches, workers):
    # What workers have loaded while nobody waited for it.
    for _ in islice(batches, 2 * workers):
        pass


def load_model(experiment: Experiment) -> nn.Module:
    """Builds the model, with the weights of the run's last checkpoint or else the config's."""
    model = experiment.build_model()
    weights = RunDirectory(experiment.output_dir).last_checkpoint() or experiment.weights
    Checkpointer(model).load(str(weights), checkpointables=[])
    return model


def alternate(turns: list[Turn], rounds: int, iterations: int) -> np.ndarray:
    """Measures parts by turns: what slows the machine down for a while then slows all of them.

    Returns:
        images per second, (rounds, parts).
    """
    rates = []
    with tqdm(total=rounds * len(turns), leave=False, disable=None) as bar:  # None: if a terminal
        for turn in turns:  # the first of each is slower
            turn(1)
        for number in range(rounds * len(turns)):
            images, seconds = turns[number % len(turns)](iterations)
            rates.append(images / seconds)
            bar.update()
    return np.array(rates).reshape(rounds, len(turns))
