#!/usr/bin/env python
"""Trains and evaluates a model, by detectron2's trainer with hooks, from a config in Python.

On a CPU or one GPU, whichever there is:
    uv run lazyconfig_train_net.py --config-file configs/smoke.py
On four GPUs (or, without GPUs, in four processes):
    uv run lazyconfig_train_net.py --config-file configs/mask_rcnn_R_50_FPN.py --num-gpus 4
Another value for any key of the config, after all other options:
    uv run lazyconfig_train_net.py --config-file configs/smoke.py train.max_epochs=3
A run that was interrupted goes on from its last checkpoint:
    uv run lazyconfig_train_net.py --config-file configs/smoke.py --resume
Evaluate the last checkpoint of a run, or any weights:
    uv run lazyconfig_train_net.py --config-file configs/smoke.py --eval-only --resume
    uv run lazyconfig_train_net.py --config-file configs/smoke.py --eval-only \\
        train.init_checkpoint=model.pth
"""

import logging

from d2_starter import (
    EMA,
    CheckpointCleaner,
    Checkpointer,
    EarlyStopping,
    MixedPrecision,
    Run,
    build_writers,
    finish,
    finish_interrupted,
    launch,
    setup,
)
from d2_starter.trainers.hooks import build_hooks
from d2_starter.trainers.train_loop import SimpleTrainer
from detectron2.engine import create_ddp_model
from detectron2.engine.hooks import IterationTimer, LRScheduler
from detectron2.utils import comm

from {{ cookiecutter.package_name }}.experiment import load_experiment

logger = logging.getLogger("detectron2")


def do_train(experiment, model, ema, run, resume):
    """Trains for `train.max_iter` iterations, or until the run is stopped.

    Returns:
        the metrics of the evaluation at the end, if the loop evaluates.
    """
    cfg, in_loop = experiment.config, experiment.eval_in_loop
    optimizer = experiment.build_optimizer(model)
    scheduler = experiment.build_lr_scheduler(optimizer)
    if comm.get_world_size() > 1:
        device_ids = None if cfg.train.device == "cpu" else [comm.get_local_rank()]
        model = create_ddp_model(model, device_ids=device_ids, **cfg.train.get("ddp", {}))
    precision = MixedPrecision(experiment.device, experiment.amp)
    trainer = SimpleTrainer(
        model, None, optimizer, precision, experiment.accumulate, experiment.seed
    )
    trainer.run = run
    early_stopping = EarlyStopping(**experiment.early_stopping)
    to_keep = experiment.max_to_keep
    checkpointer = Checkpointer(
        model,
        cfg.train.output_dir,
        ema=ema,
        clean=CheckpointCleaner(cfg.train.output_dir, to_keep, early_stopping.metric, in_loop),
        trainer=trainer,
    )
    own_hooks = build_hooks(
        experiment,
        checkpointer,
        ema,
        early_stopping,
        run,
        evaluate=lambda: experiment.evaluate(ema.model),
        build_writers=lambda: build_writers(cfg.train.output_dir, experiment.schedule, start_iter),
    )
    trainer.register_hooks(
        [IterationTimer(warmup_iter=1), LRScheduler(scheduler=scheduler), *own_hooks]
    )

    start_iter = checkpointer.start(experiment.weights, resume, optimizer, scheduler)
    if early_stopping.should_stop:
        run.stop("converged", early_stopping.reason)
    if run.is_complete(start_iter, cfg.train.max_iter):
        finish_interrupted(cfg.train.output_dir)
        return experiment.evaluate(ema.model) if in_loop else {}
    if in_loop:  # what is wrong with the test set shows now, not an epoch later
        early_stopping.check(experiment.evaluate(ema.model, quick=True))
    trainer.data_loader = experiment.build_train_loader(start_iter)
    logger.info("Training from iteration %d to %d", start_iter, cfg.train.max_iter)
    trainer.train(start_iter, cfg.train.max_iter)
    return trainer.metrics or {}


def main(args):
    experiment = setup(args, load_experiment)
    model = experiment.build_model()
    if args.eval_only:
        checkpointer = Checkpointer(model, experiment.output_dir, complete=True)
        checkpointer.resume_or_load(experiment.weights, resume=args.resume)
        metrics = experiment.evaluate(model)
    else:
        with Run(experiment.output_dir) as run:
            ema = EMA(model, experiment.ema_decay)
            metrics = do_train(experiment, model, ema, run, args.resume)
            model = ema.model
    finish(experiment, model, metrics)


if __name__ == "__main__":
    launch(main, load_experiment)
