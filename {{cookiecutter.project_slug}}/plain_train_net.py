#!/usr/bin/env python
"""Trains and evaluates a model, in one loop that is read from top to bottom.

On a CPU or one GPU, whichever there is:
    uv run plain_train_net.py --config-file configs/smoke.yaml
On four GPUs (or, without GPUs, in four processes):
    uv run plain_train_net.py --config-file configs/mask_rcnn_R_50_FPN.yaml --num-gpus 4
Another value for any key of the config, after all other options:
    uv run plain_train_net.py --config-file configs/smoke.yaml SOLVER.MAX_ITER 100 OUTPUT_DIR /tmp/x
A run that was interrupted goes on from its last checkpoint:
    uv run plain_train_net.py --config-file configs/smoke.yaml --resume
Evaluate the last checkpoint of a run, or any weights:
    uv run plain_train_net.py --config-file configs/smoke.yaml --eval-only --resume
    uv run plain_train_net.py --config-file configs/smoke.yaml --eval-only MODEL.WEIGHTS model.pth
"""

import logging
import time

import torch
from d2_starter import (
    EMA,
    CheckpointCleaner,
    Checkpointer,
    EarlyStopping,
    MixedPrecision,
    ProgressBar,
    Run,
    build_writers,
    diverged,
    finish,
    finish_interrupted,
    latest_scalars,
    launch,
    micro_batches,
    seed_step,
    setup,
)
from detectron2.checkpoint import PeriodicCheckpointer
from detectron2.engine import create_ddp_model
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from {{ cookiecutter.package_name }}.experiment import load_experiment

logger = logging.getLogger("detectron2")


def train(experiment, model, ema, run, resume):
    """Trains for `SOLVER.MAX_ITER` iterations, or until the run is stopped.

    Returns:
        the metrics of the evaluation at the end, if the loop evaluates.
    """
    cfg, schedule = experiment.config, experiment.schedule
    model.train()
    optimizer = experiment.build_optimizer(model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    precision = MixedPrecision(cfg.MODEL.DEVICE, enabled=cfg.SOLVER.AMP.ENABLED)
    scaler = precision.scaler  # of gradients in float16; otherwise it does nothing

    early_stopping = EarlyStopping(**experiment.early_stopping)
    to_keep = cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP
    checkpointer = Checkpointer(
        model,
        cfg.OUTPUT_DIR,
        ema=ema,
        clean=CheckpointCleaner(
            cfg.OUTPUT_DIR, to_keep, early_stopping.metric, cfg.TEST.EVAL_IN_LOOP
        ),
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=scaler,
        early_stopping=early_stopping,
    )
    start_iter = checkpointer.start(cfg.MODEL.WEIGHTS, resume, optimizer, scheduler)
    max_iter = cfg.SOLVER.MAX_ITER
    if early_stopping.should_stop:
        run.stop("converged", early_stopping.reason)
    if run.is_complete(start_iter, max_iter):
        finish_interrupted(cfg.OUTPUT_DIR)
        return experiment.evaluate(ema.model) if cfg.TEST.EVAL_IN_LOOP else {}
    if cfg.TEST.EVAL_IN_LOOP:  # what is wrong with the test set shows now, not an epoch later
        early_stopping.check(experiment.evaluate(ema.model, quick=True))
    periodic_checkpointer = PeriodicCheckpointer(
        checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_iter=max_iter
    )

    metrics = {}
    loader = experiment.build_train_loader(start_iter)
    progress_bar = ProgressBar(start_iter, max_iter)
    writers = [*build_writers(cfg.OUTPUT_DIR, schedule, start_iter), progress_bar]
    logger.info("Training from iteration %d to %d", start_iter, max_iter)
    with EventStorage(start_iter) as storage:
        step_start = time.perf_counter()
        for iteration, data in zip(range(start_iter, max_iter), loader):
            storage.iter = iteration
            storage.put_scalar("data_time", time.perf_counter() - step_start)
            storage.put_scalars(**schedule.progress(iteration), smoothing_hint=False)
            seed_step(cfg.SEED, iteration)  # so that a resumed run draws the same numbers

            optimizer.zero_grad()
            losses = {}
            for micro_batch in micro_batches(model, data, cfg.SOLVER.ACCUMULATE):
                try:
                    with precision.autocast:
                        loss_dict = model(micro_batch)
                        loss = sum(loss_dict.values()) / cfg.SOLVER.ACCUMULATE
                except FloatingPointError as error:  # detectron2's heads raise it
                    raise diverged(iteration, error) from None
                for name, value in comm.reduce_dict(loss_dict).items():
                    losses[name] = losses.get(name, 0) + value.item() / cfg.SOLVER.ACCUMULATE
                if not torch.isfinite(loss):
                    raise diverged(iteration, losses)
                scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            ema.update()

            storage.put_scalars(total_loss=sum(losses.values()), **losses)
            storage.put_scalar("lr", optimizer.param_groups[0]["lr"], smoothing_hint=False)
            storage.put_scalar("time", time.perf_counter() - step_start)
            scheduler.step()

            done = iteration + 1
            if done < max_iter:
                run.poll()  # a signal, or the file training_completed.txt
            is_last = done == max_iter or run.is_stopping
            is_due = schedule.is_evaluation_due(done, is_last and not run.is_interrupted)
            if is_due:
                metrics = experiment.evaluate(ema.model)
                storage.put_scalars(**metrics, smoothing_hint=False)
                scalars = latest_scalars(cfg.LOG_PERIOD)
                early_stopping.update(scalars, iteration)
                checkpointer.save_best(early_stopping.metric, scalars, iteration)
                if early_stopping.should_stop:
                    run.stop("converged", early_stopping.reason)
                    is_last = True
            if is_last or is_due or done % cfg.LOG_PERIOD == 0:
                for writer in writers:
                    writer.write()
            periodic_checkpointer.step(iteration)
            progress_bar.update()
            if is_last:
                break
            step_start = time.perf_counter()
    if done < max_iter:
        name = "model_interrupted" if run.is_interrupted else "model_final"
        checkpointer.save(name, iteration)
    for writer in writers:
        writer.close()
    return metrics


def main(args):
    experiment = setup(args, load_experiment)
    cfg = experiment.config
    if args.eval_only:
        model = experiment.build_model()
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, complete=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        metrics = experiment.evaluate(model)
    else:
        with Run(cfg.OUTPUT_DIR) as run:
            model = experiment.build_model()
            ema = EMA(model, cfg.SOLVER.EMA_DECAY)
            if comm.get_world_size() > 1:
                device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
                model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
            metrics = train(experiment, model, ema, run, args.resume)
            model = ema.model
    finish(experiment, model, metrics)


if __name__ == "__main__":
    launch(main, load_experiment)
