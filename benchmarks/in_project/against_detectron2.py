"""Loading and evaluation of a config, by the project's functions and by detectron2's own, by turns.

Runs inside of a project: against_detectron2.py PART CONFIG_FILE ROUNDS ITERATIONS KEY VALUE ...
The last line that it prints is JSON: images per second, [[ours, detectron2's], ...].
"""

import contextlib
import io
import json
import sys
import tempfile
import time

import torch
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.utils.env import seed_all_rng

from my_detector.config import epochs_to_iterations
from my_detector.data.loader import training_images
from my_detector.engine.benchmark import Evaluating, Loading, Part, alternate, load_model
from my_detector.engine.validation_pass import untouched
from my_detector.experiment import get_config


class TheirLoading(Loading):
    def __init__(self, cfg):
        Part.__init__(self, cfg)
        seed_all_rng(max(cfg.SEED, 0))
        self.batches = iter(build_detection_train_loader(cfg))


class TheirEvaluation(Part):
    """As `do_test` of detectron2's plain_train_net.py has it; always one image at a time."""

    def __init__(self, cfg, model):
        super().__init__(cfg)
        self.model = model

    def turn(self, iterations):
        name = self.cfg.DATASETS.TEST[0]
        images = get_detection_dataset_dicts(name, filter_empty=False)
        images = images[: iterations * self.cfg.SOLVER.IMS_PER_BATCH]
        loader = build_detection_test_loader(
            images,
            mapper=DatasetMapper(self.cfg, False),
            num_workers=self.cfg.DATALOADER.NUM_WORKERS,
        )
        with tempfile.TemporaryDirectory() as folder, untouched(self.model):
            evaluator = COCOEvaluator(name, tasks=("bbox", "segm"), output_dir=folder)
            evaluate = evaluator.evaluate
            evaluator.evaluate = lambda: evaluate([image["image_id"] for image in images])
            start = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                inference_on_dataset(self.model, loader, evaluator)
            return len(images) / (time.perf_counter() - start)


def main():
    part, config, rounds, iterations, *overrides = sys.argv[1:]
    cfg = get_config(config, overrides)
    epochs_to_iterations(cfg, training_images(cfg)[0])
    if part == "loading":
        parts = [Loading(cfg), TheirLoading(cfg)]
    else:
        cfg.TEST.VAL_LOSS = False
        model = load_model(cfg)
        parts = [Evaluating(cfg, model), TheirEvaluation(cfg, model)]
    rates = alternate(parts, int(rounds), int(iterations)).tolist()
    device = "cpu" if cfg.MODEL.DEVICE == "cpu" else torch.cuda.get_device_name()
    print(json.dumps({"device": device, "rates": rates}))


if __name__ == "__main__":
    main()
