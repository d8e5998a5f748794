"""Measures loading and evaluation by the project's functions and by detectron2's own, by turns.

Runs inside of a project: against_detectron2.py PART CONFIG_FILE ROUNDS ITERATIONS KEY VALUE ...
The last line that it prints is JSON: images per second, [[ours, detectron2's], ...].
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from itertools import islice

import torch
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator, inference_on_dataset

from d2_starter.benchmark.measure import PARTS, alternate, load_model
from d2_starter.evaluation.validation_loss import preserved_state
from my_detector.experiment import load_experiment


def loading(experiment):
    """Returns turns of detectron2's training loader."""
    cfg = experiment.config
    workers = cfg.DATALOADER.NUM_WORKERS
    batches = iter(build_detection_train_loader(cfg))

    def turn(iterations):
        for _ in islice(batches, 2 * workers):  # loaded while nobody waited
            pass
        start = time.perf_counter()
        images = sum(len(batch) for batch in islice(batches, max(iterations, workers)))
        return images, time.perf_counter() - start

    return turn


def evaluation(experiment, model):
    """Returns turns of `do_test` of detectron2's plain_train_net.py; one image at a time."""
    cfg = experiment.config
    name = cfg.DATASETS.TEST[0]
    dataset = get_detection_dataset_dicts(name, filter_empty=False)

    def turn(iterations):
        images = dataset[: iterations * cfg.SOLVER.IMS_PER_BATCH]
        mapper = DatasetMapper(cfg, False)
        workers = cfg.DATALOADER.NUM_WORKERS
        with tempfile.TemporaryDirectory() as folder, preserved_state(model):
            evaluator = COCOEvaluator(name, tasks=("bbox", "segm"), output_dir=folder)
            evaluate = evaluator.evaluate
            evaluator.evaluate = lambda: evaluate([image["image_id"] for image in images])
            loader = build_detection_test_loader(images, mapper=mapper, num_workers=workers)
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                inference_on_dataset(model, loader, evaluator)
            return len(images), time.perf_counter() - start

    return turn


def main():
    part, config, rounds, iterations, *overrides = sys.argv[1:]
    experiment = load_experiment(config, overrides)
    experiment.set_epoch_length()
    if part == "loading":
        turns = [PARTS[part](experiment), loading(experiment)]
    else:
        experiment.val_loss = False
        model = load_model(experiment)
        turns = [PARTS[part](experiment, model), evaluation(experiment, model)]
    rates = alternate(turns, int(rounds), int(iterations)).tolist()
    device = "cpu" if experiment.device == "cpu" else torch.cuda.get_device_name()
    print(json.dumps({"device": device, "rates": rates}))


if __name__ == "__main__":
    main()
