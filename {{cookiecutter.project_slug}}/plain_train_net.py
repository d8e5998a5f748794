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

import gc

gc.disable()  # imports leave hardly any garbage; looking for it is a tenth of the time to start

import logging
import time
from collections import defaultdict

import torch
from detectron2.checkpoint import PeriodicCheckpointer
from detectron2.engine import create_ddp_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from {{ cookiecutter.package_name }}.config import amp_dtype
from {{ cookiecutter.package_name }}.data.loader import build_train_loader
from {{ cookiecutter.package_name }}.engine.accumulate import parts
from {{ cookiecutter.package_name }}.engine.average import Average
from {{ cookiecutter.package_name }}.engine.checkpoint import Checkpointer, Pruner
from {{ cookiecutter.package_name }}.engine.early_stopping import EarlyStopping
from {{ cookiecutter.package_name }}.engine.evaluation import (
    evaluate,
    is_due,
    metric_names,
)
from {{ cookiecutter.package_name }}.engine.run import (
    after_imports,
    diverged,
    end_marker,
    nothing_to_train,
    report,
    run,
    setup,
)
from {{ cookiecutter.package_name }}.engine.stop_request import StopRequest
from {{ cookiecutter.package_name }}.engine.writers import (
    ProgressBar,
    build_writers,
    logged,
    progress,
)
from {{ cookiecutter.package_name }}.experiment import build_model

after_imports()

logger = logging.getLogger("detectron2")


def train(cfg, model, average, resume, end):
    """Trains for `SOLVER.MAX_ITER` iterations, or until early stopping, which `end` then says.

    Returns the metrics of the evaluation at the end, if there is one in the loop.
    """
    model.train()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    device = torch.device(cfg.MODEL.DEVICE)
    amp = {"enabled": cfg.SOLVER.AMP.ENABLED, "dtype": amp_dtype(cfg)}  # mixed precision
    scaler = torch.amp.GradScaler(enabled=amp["enabled"] and amp["dtype"] == torch.float16)

    early_stopping = EarlyStopping.from_config(cfg)
    checkpointer = Checkpointer(
        model,
        cfg.OUTPUT_DIR,
        average=average,
        prune=Pruner(cfg),
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=scaler,
        early_stopping=early_stopping,
    )
    loaded = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    start_iter = loaded.get("iteration", -1) + 1
    max_iter = cfg.SOLVER.MAX_ITER
    end.update(early_stopping.end())
    if nothing_to_train(cfg, start_iter, end):
        return evaluate(cfg, average.model) if cfg.TEST.EVAL_IN_LOOP else {}
    if cfg.TEST.EVAL_IN_LOOP:
        early_stopping.check(metric_names(cfg, average.model))
    periodic_checkpointer = PeriodicCheckpointer(
        checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_iter=max_iter
    )

    stop_request = StopRequest(cfg.OUTPUT_DIR)
    metrics = {}
    loader = build_train_loader(cfg, start_iter)
    progress_bar = ProgressBar(start_iter, max_iter)
    writers = [*build_writers(cfg, start_iter), progress_bar] if comm.is_main_process() else []
    logger.info("Training from iteration %d to %d", start_iter, max_iter)
    with EventStorage(start_iter) as storage:
        step_start = time.perf_counter()
        for iteration, data in zip(range(start_iter, max_iter), loader):
            storage.iter = iteration
            storage.put_scalar("data_time", time.perf_counter() - step_start)
            storage.put_scalars(**progress(cfg, iteration), smoothing_hint=False)

            optimizer.zero_grad()
            losses = defaultdict(float)
            for part in parts(model, data, cfg.SOLVER.ACCUMULATE):
                try:
                    with torch.amp.autocast(device.type, **amp):
                        loss_dict = model(part)
                        loss = sum(loss_dict.values()) / cfg.SOLVER.ACCUMULATE
                except FloatingPointError as error:  # detectron2's heads raise it
                    raise diverged(iteration, error) from error
                for name, value in comm.reduce_dict(loss_dict).items():
                    losses[name] += value.item() / cfg.SOLVER.ACCUMULATE
                if not torch.isfinite(loss):
                    raise diverged(iteration, dict(losses))
                scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            average.update()

            storage.put_scalars(total_loss=sum(losses.values()), **losses)
            storage.put_scalar("lr", optimizer.param_groups[0]["lr"], smoothing_hint=False)
            storage.put_scalar("time", time.perf_counter() - step_start)
            scheduler.step()

            done = iteration + 1
            if done < max_iter and (request := stop_request.look()):
                end.update(request)
            is_last = done == max_iter or end["status"] != "finished"
            if is_due(cfg, done, is_last and end["status"] != "interrupted"):
                metrics = evaluate(cfg, average.model)
                storage.put_scalars(**metrics, smoothing_hint=False)
                early_stopping.update(logged(cfg), iteration)
                checkpointer.save_best(early_stopping.metric, logged(cfg), iteration)
                end.update(early_stopping.end())
                is_last = is_last or early_stopping.should_stop
            if is_last or done % cfg.LOG_PERIOD == 0:
                for writer in writers:
                    writer.write()
            periodic_checkpointer.step(iteration)
            progress_bar.update()
            if is_last:
                break
            step_start = time.perf_counter()
    if done < max_iter:
        name = "model_interrupted" if end["status"] == "interrupted" else "model_final"
        checkpointer.save(name, iteration)
    for writer in writers:
        writer.close()
    return metrics


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
            if comm.get_world_size() > 1:
                device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
                model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
            metrics = train(cfg, model, average, args.resume, end)
            model = average.model
    report(cfg, model, metrics)


if __name__ == "__main__":
    run(main)
