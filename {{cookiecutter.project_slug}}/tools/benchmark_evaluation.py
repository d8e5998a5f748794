#!/usr/bin/env python
"""Measures what the validation loss costs, and how long training waits for evaluations.

uv run tools/benchmark_evaluation.py --config-file output/smoke/config.yaml

Each image is evaluated in three ways in turn: predictions only; predictions and losses in one pass,
as the project does; and in two passes, one for each. The times of the model are compared image by
image: median, and the range of the middle half. The wait is the share of the time of training that
evaluations take, with the config's test set, batch size and TEST.EVAL_PERIOD.

Use the config of a run: the last checkpoint in its folder is measured. What a model finds decides
how long it takes.
"""

import time

import numpy as np
import torch
from detectron2.engine import default_argument_parser
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from {{ cookiecutter.package_name }}.config import epochs_to_iterations
from {{ cookiecutter.package_name }}.data.loader import (
    build_test_loader,
    build_train_loader,
    get_test_dataset,
    training_images,
)
from {{ cookiecutter.package_name }}.engine.checkpoint import Checkpointer
from {{ cookiecutter.package_name }}.engine.validation_pass import (
    PredictionsAndLosses,
    untouched,
)
from {{ cookiecutter.package_name }}.experiment import build_model, get_config

WARM_UP = 2  # images, or iterations, that are not counted


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def evaluation_times(cfg, model, number: int) -> dict[str, np.ndarray]:
    """Seconds for each of a number of batches, (number,), by way of evaluation."""
    two_passes = PredictionsAndLosses(model)
    two_passes._parts.clear()  # nothing is used twice
    ways = {
        "predictions only": model,
        "with losses, one pass": PredictionsAndLosses(model),
        "with losses, two passes": two_passes,
    }
    times = {way: [] for way in ways}
    dataset = get_test_dataset(cfg, cfg.DATASETS.TEST[0])
    loader = build_test_loader(cfg, dataset[: (number + WARM_UP) * cfg.TEST.IMS_PER_BATCH])
    with untouched(model), torch.no_grad():
        for batch in loader:
            for way, function in ways.items():
                times[way].append(seconds(function, batch))
    return {way: np.array(values[WARM_UP:]) for way, values in times.items()}


def training_time(cfg, model, number: int) -> float:
    """Median seconds of an iteration of training."""
    optimizer = build_optimizer(cfg, model)

    def step():
        optimizer.zero_grad()
        sum(model(next(batches)).values()).backward()

    batches = iter(build_train_loader(cfg))
    model.train()
    with EventStorage():
        return float(np.median([seconds(step) for _ in range(number + WARM_UP)][WARM_UP:]))


def main():
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument("--batches", type=int, default=20, help="of each way of evaluation")
    parser.add_argument("--iterations", type=int, default=5, help="of training")
    args = parser.parse_args()
    if not args.config_file:
        parser.error("--config-file is missing")
    cfg = get_config(args.config_file, args.opts)
    epochs_to_iterations(cfg, training_images(cfg)[0])
    model = build_model(cfg)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
    weights = checkpointer.get_checkpoint_file() or cfg.MODEL.WEIGHTS
    checkpointer.load(weights, checkpointables=[])
    batches = len(build_test_loader(cfg, get_test_dataset(cfg, cfg.DATASETS.TEST[0])))
    times = evaluation_times(cfg, model, args.batches)
    iteration = training_time(cfg, model, args.iterations)
    print(f"{'':24} s/batch    ratio (middle half)    wait of training")
    for way, values in times.items():
        low, ratio, high = np.quantile(values / times["predictions only"], (0.25, 0.5, 0.75))
        wait = batches * np.median(values)
        share = wait / (wait + iteration * cfg.TEST.EVAL_PERIOD)
        print(
            f"{way:24} {np.median(values):7.3f}    {ratio:.2f} ({low:.2f} to {high:.2f})"
            f"        {100 * share:5.1f}%"
        )
    print(
        f"{len(values)} batches of {cfg.TEST.IMS_PER_BATCH} on {cfg.MODEL.DEVICE}; evaluations of "
        f"{batches} batches, every {cfg.TEST.EVAL_PERIOD} iterations of {iteration:.3f} s"
    )


if __name__ == "__main__":
    main()
