#!/usr/bin/env python
"""Trains and evaluates a model, by Lightning's Trainer.

On a CPU or one GPU, whichever there is:
    uv run lightning_train_net.py --config-file configs/smoke.yaml
On four GPUs (or, without GPUs, in four processes):
    uv run lightning_train_net.py --config-file configs/mask_rcnn_R_50_FPN.yaml --num-gpus 4
Another value for any key of the config, after all other options:
    uv run lightning_train_net.py --config-file configs/smoke.yaml SOLVER.MAX_ITER 100
A run that was interrupted goes on from its last checkpoint:
    uv run lightning_train_net.py --config-file configs/smoke.yaml --resume
Evaluate the last checkpoint of a run, or any weights:
    uv run lightning_train_net.py --config-file configs/smoke.yaml --eval-only --resume
    uv run lightning_train_net.py --config-file configs/smoke.yaml --eval-only \\
        MODEL.WEIGHTS model.pth
"""

import gc

gc.disable()  # imports leave hardly any garbage; looking for it is a tenth of the time to start

import logging
from collections import defaultdict
from contextlib import ExitStack

import torch
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.solver.build import _create_gradient_clipper
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.strategies import DDPStrategy

from {{ cookiecutter.package_name }}.data.loader import build_train_loader
from {{ cookiecutter.package_name }}.engine.accumulate import parts
from {{ cookiecutter.package_name }}.engine.average import Average
from {{ cookiecutter.package_name }}.engine.checkpoint import (
    Checkpointer,
    Pruner,
    model_state,
)
from {{ cookiecutter.package_name }}.engine.early_stopping import EarlyStopping
from {{ cookiecutter.package_name }}.engine.evaluation import (
    Evaluation,
    announce,
    merge,
    metric_names,
)
from {{ cookiecutter.package_name }}.engine.lightning import (
    CheckpointIO,
    Processes,
    ProgressBar,
    Record,
    SaveBest,
    SavePeriodically,
    Stop,
    StopEarly,
    StorageLogger,
    Write,
    precision,
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
from {{ cookiecutter.package_name }}.engine.validation_pass import untouched
from {{ cookiecutter.package_name }}.engine.writers import logged
from {{ cookiecutter.package_name }}.experiment import build_model

after_imports()

logger = logging.getLogger("detectron2")


class Detector(LightningModule):
    """A detectron2 model, its optimizer and its evaluation."""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.model = build_model(cfg)
        self.average = Average(cfg, self.model)
        self.metrics = {}  # of the last evaluation

    def setup(self, stage):
        cfg = self.cfg
        model = self.average.model
        self.evaluations = {name: Evaluation(cfg, model, name) for name in cfg.DATASETS.TEST}
        for name, evaluation in self.evaluations.items():
            images, processes = len(evaluation.loader.dataset), comm.get_world_size()
            if images < processes:  # a rank without images would not take part
                raise ValueError(f"test set '{name}' is small for {processes} processes: {images}")

    def configure_optimizers(self):
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False  # see configure_gradient_clipping
        optimizer = build_optimizer(cfg, self.model)
        scheduler = build_lr_scheduler(cfg, optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "name": "lr"}]

    def configure_gradient_clipping(self, optimizer, **_):
        # detectron2's optimizers clip before they call the closure, in which Lightning computes the
        # gradients; and it clips each parameter by itself.
        if self.cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
            clip = _create_gradient_clipper(self.cfg.SOLVER.CLIP_GRADIENTS)
            for parameter in self.parameters():
                clip(parameter)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch  # the model does it

    def training_step(self, batch, batch_idx):
        self.zero_grad()
        number = self.cfg.SOLVER.ACCUMULATE
        losses, loss = defaultdict(float), None
        for part in parts(self.model, batch, number):
            if loss is not None:  # of the part before; the last is left to Lightning
                with torch.autocast(self.device.type, enabled=False):
                    self.trainer.strategy.backward(loss, None)
            loss = self.losses_of(part, losses) / number
        get_event_storage().put_scalars(total_loss=sum(losses.values()), **losses)
        return loss

    def losses_of(self, part, losses):
        iteration = self.trainer.global_step
        try:
            loss_dict = self.model(part)
        except FloatingPointError as error:  # detectron2's heads raise it
            raise diverged(iteration, error) from error
        loss = sum(loss_dict.values())
        for name, value in comm.reduce_dict(loss_dict).items():
            losses[name] += value.item() / self.cfg.SOLVER.ACCUMULATE
        if not torch.isfinite(loss):
            raise diverged(iteration, dict(losses))
        return loss

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        pass  # Lightning would call it before the backward pass of the last part

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.average.update()

    def on_validation_start(self):
        self.around_validation = ExitStack()
        self.around_validation.enter_context(untouched(self.average.model))
        for evaluation in self.evaluations.values():
            evaluation.reset()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        evaluation = list(self.evaluations.values())[dataloader_idx]
        with torch.autocast(self.device.type, enabled=False):  # as precise as it can be
            evaluation.process(batch, evaluation.predict(batch))

    def on_validation_epoch_end(self):
        for evaluation in self.evaluations.values():
            evaluation.evaluate()
        self.metrics = announce(merge(self.evaluations))
        self.around_validation.close()
        if self.trainer.state.fn == "fit":
            get_event_storage().put_scalars(**self.metrics, smoothing_hint=False)
            self.log_dict(logged(self.cfg), logger=False)  # for callbacks of yours

    def on_save_checkpoint(self, checkpoint):
        # With these, detectron2's checkpointer can load the weights.
        checkpoint.update(model_state(self.model), iteration=self.trainer.global_step - 1)
        checkpoint.update(self.average.states())

    def on_load_checkpoint(self, checkpoint):
        if "loss_normalizer" in checkpoint:
            self.model.loss_normalizer = checkpoint["loss_normalizer"]


class Data(LightningDataModule):
    """The config's training set, without end, from where a resumed run goes on; and test sets."""

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg

    def train_dataloader(self):
        return build_train_loader(self.cfg, self.trainer.global_step)

    def val_dataloader(self):
        evaluations = self.trainer.lightning_module.evaluations.values()
        return [evaluation.loader for evaluation in evaluations]


def build_trainer(cfg, args, callbacks=(), evaluates=True):
    """Lightning's Trainer with the project's callbacks, and any others."""
    wants_bar = ProgressBar.is_wanted()
    return Trainer(
        accelerator="cpu" if cfg.MODEL.DEVICE == "cpu" else "gpu",
        devices=args.num_gpus,
        num_nodes=args.num_machines,
        strategy=DDPStrategy(broadcast_buffers=False) if comm.get_world_size() > 1 else "auto",
        precision=precision(cfg),
        plugins=[Processes(), CheckpointIO(Pruner(cfg))],
        max_epochs=-1,
        max_steps=cfg.SOLVER.MAX_ITER,
        limit_train_batches=cfg.SOLVER.MAX_ITER,
        limit_val_batches=1.0 if cfg.DATASETS.TEST and evaluates else 0,
        val_check_interval=cfg.TEST.EVAL_PERIOD or 10**9,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,  # metric_names does that
        use_distributed_sampler=False,  # the loaders split the data over the ranks
        inference_mode=False,
        logger=StorageLogger(),
        log_every_n_steps=1,
        enable_model_summary=False,
        enable_progress_bar=wants_bar,
        default_root_dir=cfg.OUTPUT_DIR,
        callbacks=[*callbacks, *[ProgressBar()] * wants_bar],
    )


def train(cfg, args, module, end):
    """Trains for `SOLVER.MAX_ITER` iterations, or until early stopping, which `end` then says."""
    early_stopping = EarlyStopping.from_config(cfg)
    checkpointer = Checkpointer(module.model, cfg.OUTPUT_DIR, average=module.average)
    resumes = args.resume and checkpointer.has_checkpoint()
    file = checkpointer.get_checkpoint_file() if resumes else cfg.MODEL.WEIGHTS
    saved = checkpointer.load(file)
    start_iter = 0
    if resumes:
        start_iter = saved["iteration"] + 1
        early_stopping.load_state_dict(saved["early_stopping"])
    end.update(early_stopping.end())
    if nothing_to_train(cfg, start_iter, end):
        if cfg.TEST.EVAL_IN_LOOP:
            build_trainer(cfg, args).validate(module, Data(cfg), verbose=False)
        return
    if cfg.TEST.EVAL_IN_LOOP:
        early_stopping.check(metric_names(cfg, module.average.model))
    callbacks = [
        Write(cfg),
        Record(cfg),
        Stop(cfg, end),
        StopEarly(cfg, early_stopping, end),
        SaveBest(cfg, checkpointer, early_stopping.metric),
        SavePeriodically(cfg, end),
        LearningRateMonitor(logging_interval="step"),
    ]
    trainer = build_trainer(cfg, args, callbacks, evaluates=cfg.TEST.EVAL_IN_LOOP)
    logger.info("Training from iteration %d to %d", start_iter, cfg.SOLVER.MAX_ITER)
    trainer.fit(module, Data(cfg), ckpt_path=file if resumes else None)


def main(args):
    cfg = setup(args)
    if args.eval_only:
        module = Detector(cfg)
        checkpointer = Checkpointer(
            module.model, cfg.OUTPUT_DIR, average=module.average, complete=True
        )
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        build_trainer(cfg, args).validate(module, Data(cfg), verbose=False)
    else:
        with end_marker(cfg) as end:
            module = Detector(cfg)
            train(cfg, args, module, end)
    report(cfg, module.average.model, module.metrics)


if __name__ == "__main__":
    run(main)
