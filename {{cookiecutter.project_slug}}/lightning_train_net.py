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
    uv run lightning_train_net.py --config-file configs/smoke.yaml --eval-only MODEL.WEIGHTS w.pth

Detector and Data also work in a Trainer of your own, as in a notebook.
"""

import logging
import sys
from collections import defaultdict

import torch
from d2_starter import (
    EMA,
    CheckpointCleaner,
    Checkpointer,
    EarlyStopping,
    Run,
    finish,
    finish_interrupted,
    launch,
    seed_step,
    setup,
)
from d2_starter.config.optimizer import build_optimizer
from d2_starter.evaluation.evaluate import log_metrics, merge_results
from d2_starter.evaluation.validation_loss import preserved_state
from d2_starter.run.checkpoint import model_state
from d2_starter.run.training_step import compute_loss
from d2_starter.trainers.lightning import (
    CheckpointIO,
    Data,
    KeepRun,
    begin_evaluations,
    processes,
    trainer_arguments,
)
from detectron2.solver import build_lr_scheduler
from detectron2.solver.build import _create_gradient_clipper
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from {{ cookiecutter.package_name }}.experiment import load_experiment

logger = logging.getLogger("detectron2")


class Detector(LightningModule):
    """A detectron2 model, its optimizer and its evaluation."""

    def __init__(self, experiment):
        super().__init__()
        self.experiment = experiment
        self.model = experiment.build_model()
        self.ema = EMA(self.model, experiment.ema_decay)
        self.storage = EventStorage()  # to which detectron2's heads log
        self.metrics = {}  # of the last evaluation

    def configure_optimizers(self):
        cfg = self.experiment.config.clone()
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False  # see configure_gradient_clipping
        steps = self.trainer.estimated_stepping_batches  # the Trainer may be of your own
        cfg.SOLVER.MAX_ITER = cfg.SOLVER.MAX_ITER if steps == float("inf") else int(steps)
        optimizer = build_optimizer(cfg, self.model)
        scheduler = build_lr_scheduler(cfg, optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "name": "lr"}]

    def configure_gradient_clipping(self, optimizer, gradient_clip_val, gradient_clip_algorithm):
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        # detectron2's optimizers would do it before Lightning has computed the gradients.
        clipping = self.experiment.config.SOLVER.CLIP_GRADIENTS
        for parameter in self.model.parameters() if clipping.ENABLED else ():
            _create_gradient_clipper(clipping)(parameter)

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return batch  # the model does it

    def on_fit_start(self):
        self.ema.model.to(self.device)

    def training_step(self, batch, batch_idx):
        iteration, number = self.global_step, self.trainer.accumulate_grad_batches
        if batch_idx % number == 0:
            self.losses = defaultdict(float)
            self.storage.iter = iteration
            seed_step(self.experiment.seed, iteration)  # so that a resumed run draws the same
        with self.storage:
            loss = compute_loss(self.model, batch, iteration, self.losses, number)
        if (batch_idx + 1) % number == 0:
            self.storage.put_scalars(total_loss=sum(self.losses.values()), **self.losses)
        for name, (value, at) in self.storage.latest().items():
            if at == iteration:
                self.log(name, value, prog_bar=name == "total_loss")
        return loss

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.ema.update()

    def on_validation_start(self):
        self.ema.model.to(self.device)
        self.evaluations = begin_evaluations(self.experiment, self.ema.model)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        evaluation = list(self.evaluations.values())[dataloader_idx]
        # As precise as it can be; what inference mode makes could not be used in training.
        precise = torch.autocast(self.device.type, enabled=False)
        with preserved_state(self.ema.model), torch.inference_mode(False), torch.no_grad(), precise:
            evaluation.process(batch, evaluation.predict(batch))

    def on_validation_epoch_end(self):
        for evaluation in self.evaluations.values():
            evaluation.evaluate()
        self.metrics = merge_results(self.evaluations)
        if not self.trainer.sanity_checking:
            self.metrics = log_metrics(self.metrics)
            self.storage.put_scalars(**self.metrics, smoothing_hint=False)
        for name, value in self.metrics.items():
            self.log(name, value, prog_bar=name.endswith("/AP"))

    def on_save_checkpoint(self, checkpoint):
        # With these, all tools can load the weights.
        checkpoint.update(model_state(self.model), iteration=self.global_step - 1)
        checkpoint.update(self.ema.states())

    def on_load_checkpoint(self, checkpoint):
        self.model.load_state_dict(checkpoint["model"])
        if "loss_normalizer" in checkpoint:
            self.model.loss_normalizer = checkpoint["loss_normalizer"]
        self.ema.after_load(checkpoint, resumes=True)


def train(experiment, module, run, args):
    """Trains for `SOLVER.MAX_ITER` iterations, or until the run is stopped."""
    output, in_loop = experiment.output_dir, experiment.eval_in_loop
    stopping = EarlyStopping(**experiment.early_stopping)
    checkpointer = Checkpointer(module.model, output, ema=module.ema, early_stopping=stopping)
    resumes = args.resume and checkpointer.has_checkpoint()
    loaded = checkpointer.resume_or_load(experiment.weights, resume=resumes)
    start_iter = loaded["iteration"] + 1 if resumes else 0
    if stopping.should_stop:
        run.stop("converged", stopping.reason)
    if run.is_complete(start_iter, experiment.max_iter):
        finish_interrupted(output)
        module.metrics = experiment.evaluate(module.ema.model) if in_loop else {}
        return
    if in_loop:  # what is wrong with the test set shows now, not an epoch later
        stopping.check(experiment.evaluate(module.ema.model, quick=True))
    logger.info("Training from iteration %d to %d", start_iter, experiment.max_iter)
    clean = CheckpointCleaner(output, experiment.max_to_keep, stopping.metric, in_loop)
    trainer = Trainer(
        **trainer_arguments(experiment),
        devices=args.num_gpus,
        num_nodes=args.num_machines,
        strategy=DDPStrategy(broadcast_buffers=False) if comm.get_world_size() > 1 else "auto",
        plugins=[processes(), CheckpointIO(clean)],
        callbacks=[KeepRun(experiment, run, checkpointer, stopping)],
        logger=False,  # KeepRun writes the records
        enable_checkpointing=False,  # and the checkpoints
        enable_progress_bar=sys.stderr.isatty() and comm.is_main_process(),
    )
    file = checkpointer.get_checkpoint_file() if resumes else None
    trainer.fit(module, Data(experiment), ckpt_path=file)


def main(args):
    experiment = setup(args, load_experiment)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # less is tips
    if args.eval_only:
        model = experiment.build_model()
        checkpointer = Checkpointer(model, experiment.output_dir, complete=True)
        checkpointer.resume_or_load(experiment.weights, resume=args.resume)
        metrics = experiment.evaluate(model)
    else:
        with Run(experiment.output_dir) as run:
            module = Detector(experiment)
            train(experiment, module, run, args)
        model, metrics = module.ema.model, module.metrics
    finish(experiment, model, metrics)


if __name__ == "__main__":
    launch(main, load_experiment)
