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

import logging
import weakref

from d2_starter import (
    EMA,
    CheckpointCleaner,
    Checkpointer,
    EarlyStopping,
    MixedPrecision,
    Run,
    finish,
    finish_interrupted,
    launch,
    setup,
)
from d2_starter.config.optimizer import build_optimizer
from d2_starter.trainers.hooks import build_hooks
from d2_starter.trainers.train_loop import SimpleTrainer, StoppableTrainer
from detectron2.engine import DefaultTrainer, TrainerBase, create_ddp_model
from detectron2.engine.hooks import IterationTimer, LRScheduler
from detectron2.utils import comm

from {{ cookiecutter.package_name }}.experiment import load_experiment

logger = logging.getLogger("detectron2")


class Trainer(StoppableTrainer, DefaultTrainer):
    """detectron2's DefaultTrainer, with the library's hooks and loaders. It also runs on a CPU in
    several processes or with mixed precision.

    Override any of its `build_...` to change what it is made of, or `build_hooks` to change what it
    does beside the iterations.
    """

    def __init__(self, experiment, run):
        TrainerBase.__init__(self)  # DefaultTrainer's own needs GPUs for several processes
        cfg = self.cfg = experiment.config
        self.experiment = experiment
        self.run = run
        model = experiment.build_model()
        self.ema = EMA(model, cfg.SOLVER.EMA_DECAY)
        optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        if comm.get_world_size() > 1:
            device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
            model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        precision = MixedPrecision(cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED)
        self._trainer = SimpleTrainer(
            model, None, optimizer, precision, cfg.SOLVER.ACCUMULATE, cfg.SEED
        )
        self._trainer.after_backward = self.after_backward  # of the hooks, which detectron2 forgets
        self.early_stopping = EarlyStopping(**experiment.early_stopping)
        self.checkpointer = Checkpointer(
            model,
            cfg.OUTPUT_DIR,
            ema=self.ema,
            clean=CheckpointCleaner(
                cfg.OUTPUT_DIR,
                cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP,
                self.early_stopping.metric,
                cfg.TEST.EVAL_IN_LOOP,
            ),
            trainer=weakref.proxy(self),
        )
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_optimizer(cls, cfg, model):
        """Builds what SOLVER.OPTIMIZER says."""
        return build_optimizer(cfg, model)

    def build_hooks(self):
        """Builds all that happens beside the iterations, in this order."""
        own = build_hooks(
            self.experiment,
            self.checkpointer,
            self.ema,
            self.early_stopping,
            self.run,
            lambda: self.experiment.evaluate(self.ema.model),
        )
        return [IterationTimer(warmup_iter=1), LRScheduler(), *own]

    def resume_or_load(self, resume=True):
        """Loads `MODEL.WEIGHTS`, or the last checkpoint of the run that is resumed."""
        optimizer = self._trainer.optimizer
        self.start_iter = self.checkpointer.start(
            self.cfg.MODEL.WEIGHTS, resume, optimizer, self.scheduler
        )

    def train(self):
        """Trains from `start_iter` on.

        Returns:
            the metrics of the evaluation at the end, if the loop evaluates.
        """
        in_loop, model = self.cfg.TEST.EVAL_IN_LOOP, self.ema.model
        if self.early_stopping.should_stop:
            self.run.stop("converged", self.early_stopping.reason)
        if self.run.is_complete(self.start_iter, self.max_iter):
            finish_interrupted(self.cfg.OUTPUT_DIR)
            return self.experiment.evaluate(model) if in_loop else {}
        if in_loop:  # what is wrong with the test set shows now, not an epoch later
            self.early_stopping.check(self.experiment.evaluate(model, quick=True))
        self._trainer.data_loader = self.experiment.build_train_loader(self.start_iter)
        logger.info("Training from iteration %d to %d", self.start_iter, self.max_iter)
        StoppableTrainer.train(self, self.start_iter, self.max_iter)
        return self.metrics or {}


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
            trainer = Trainer(experiment, run)
            trainer.resume_or_load(resume=args.resume)
            model, metrics = trainer.ema.model, trainer.train()
    finish(experiment, model, metrics)


if __name__ == "__main__":
    launch(main, load_experiment)
