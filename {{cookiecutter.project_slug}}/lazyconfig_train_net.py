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

import gc

gc.disable()  # imports leave hardly any garbage; looking for it is a tenth of the time to start

import logging

from detectron2.engine import create_ddp_model
from detectron2.engine.hooks import IterationTimer, LRScheduler
from detectron2.utils import comm

from {{ cookiecutter.package_name }}.data.loader import build_train_loader
from {{ cookiecutter.package_name }}.engine.average import Average
from {{ cookiecutter.package_name }}.engine.checkpoint import Checkpointer, Pruner
from {{ cookiecutter.package_name }}.engine.early_stopping import EarlyStopping
from {{ cookiecutter.package_name }}.engine.evaluation import evaluate, metric_names
from {{ cookiecutter.package_name }}.engine.hooks import (
    Evaluate,
    LogProgress,
    SaveBest,
    SavePeriodically,
    StopEarly,
    StopOnRequest,
    UpdateAverage,
    Write,
)
from {{ cookiecutter.package_name }}.engine.run import (
    after_imports,
    end_marker,
    nothing_to_train,
    report,
    run,
    setup,
)
from {{ cookiecutter.package_name }}.engine.train_loop import SimpleTrainer, train
from {{ cookiecutter.package_name }}.experiment import (
    build_lr_scheduler,
    build_model,
    build_optimizer,
)

after_imports()

logger = logging.getLogger("detectron2")


def do_train(cfg, model, average, resume, end):
    """Trains for `train.max_iter` iterations, or until early stopping, which `end` then says.

    Returns the metrics of the evaluation at the end, if there is one in the loop.
    """
    optimizer = build_optimizer(cfg, model)
    if comm.get_world_size() > 1:
        device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
        model = create_ddp_model(model, device_ids=device_ids, **cfg.LAZY.train.ddp)
    early_stopping = EarlyStopping.from_config(cfg)
    trainer = SimpleTrainer(cfg, model, None, optimizer)
    checkpointer = Checkpointer(
        model, cfg.OUTPUT_DIR, average=average, prune=Pruner(cfg), trainer=trainer
    )
    trainer.register_hooks([
        IterationTimer(warmup_iter=1),
        LRScheduler(scheduler=build_lr_scheduler(cfg, optimizer)),
        UpdateAverage(average),
        LogProgress(cfg),
        StopOnRequest(cfg),
        Evaluate(cfg, average.model),
        StopEarly(cfg, early_stopping),
        SaveBest(cfg, checkpointer, early_stopping),
        SavePeriodically(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD),
        Write(cfg),
    ])  # fmt: skip

    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    start_iter = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    end.update(early_stopping.end())
    if nothing_to_train(cfg, start_iter, end):
        return evaluate(cfg, average.model) if cfg.TEST.EVAL_IN_LOOP else {}
    if cfg.TEST.EVAL_IN_LOOP:
        early_stopping.check(metric_names(cfg, average.model))
    trainer.data_loader = build_train_loader(cfg, start_iter)
    logger.info("Training from iteration %d to %d", start_iter, cfg.SOLVER.MAX_ITER)
    train(trainer, start_iter, cfg.SOLVER.MAX_ITER, end)
    return trainer.metrics or {}


def main(args):
    cfg = setup(args)
    if args.eval_only:
        model = build_model(cfg)
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, complete=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        metrics = evaluate(cfg, model)
    else:
        with end_marker(cfg) as end:
            model = build_model(cfg)
            average = Average(cfg, model)
            metrics = do_train(cfg, model, average, args.resume, end)
            model = average.model
    report(cfg, model, metrics)


if __name__ == "__main__":
    run(main)
