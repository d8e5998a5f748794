#!/usr/bin/env python
"""Trains and evaluates a model, by detectron2's trainer with hooks.

On a CPU or one GPU, whichever there is:
    uv run train_net.py --config-file configs/smoke.yaml
On four GPUs (or, without GPUs, in four processes):
    uv run train_net.py --config-file configs/mask_rcnn_R_50_FPN.yaml --num-gpus 4
Another value for any key of the config, after all other options:
    uv run train_net.py --config-file configs/smoke.yaml SOLVER.MAX_ITER 100 OUTPUT_DIR /tmp/x
A run that was interrupted goes on from its last checkpoint:
    uv run train_net.py --config-file configs/smoke.yaml --resume
Evaluate the last checkpoint of a run, or any weights:
    uv run train_net.py --config-file configs/smoke.yaml --eval-only --resume
    uv run train_net.py --config-file configs/smoke.yaml --eval-only MODEL.WEIGHTS model.pth
"""

from d2_starter import Checkpointer, Run, finish, launch, setup
from d2_starter.trainers.default_trainer import DefaultTrainer
from detectron2.evaluation.testing import flatten_results_dict

from {{ cookiecutter.package_name }}.data.dataset_mapper import Mapper
from {{ cookiecutter.package_name }}.experiment import load_experiment


class Trainer(DefaultTrainer):
    """detectron2's DefaultTrainer with the library's loop, and your changes.

    Override what you change, as in any DefaultTrainer; what is not overridden follows from the
    config: build_model(cls, cfg), build_optimizer(cls, cfg, model),
    build_lr_scheduler(cls, cfg, optimizer), build_train_loader(cls, cfg),
    build_test_loader(cls, cfg, dataset_name),
    build_evaluator(cls, cfg, dataset_name, output_folder=None), test(cls, cfg, model),
    build_hooks(self), build_writers(self), run_step(self).
    """

    mapper = Mapper


def main(args):
    experiment = setup(args, load_experiment)
    cfg = experiment.config
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, complete=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
    else:
        with Run(cfg.OUTPUT_DIR) as run:
            trainer = Trainer(cfg, run)
            trainer.resume_or_load(resume=args.resume)
            model, results = trainer.ema.model, trainer.train()
    finish(experiment, model, flatten_results_dict(results or {}))


if __name__ == "__main__":
    launch(main, load_experiment)
