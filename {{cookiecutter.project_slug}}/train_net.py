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

import gc

gc.disable()  # imports leave hardly any garbage; looking for it is a tenth of the time to start

import logging
import weakref

from detectron2.engine import DefaultTrainer, TrainerBase, create_ddp_model
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
from {{ cookiecutter.package_name }}.experiment import build_model

after_imports()

logger = logging.getLogger("detectron2")


class Trainer(DefaultTrainer):
    """detectron2's DefaultTrainer, with the project's hooks and loader. It also runs on a CPU in
    several processes or with mixed precision.

    Override any of its `build_...` to change what it is made of, or `build_hooks` to change what it
    does beside the iterations.
    """

    def __init__(self, cfg):
        TrainerBase.__init__(self)  # DefaultTrainer's own needs GPUs for several processes
        self.cfg = cfg
        model = self.build_model(cfg)
        self.average = Average(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        if comm.get_world_size() > 1:
            device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
            model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        self._trainer = SimpleTrainer(cfg, model, None, optimizer)
        self._trainer.after_backward = self.after_backward  # of the hooks, which detectron2 forgets
        self.early_stopping = EarlyStopping.from_config(cfg)
        self.checkpointer = Checkpointer(
            model,
            cfg.OUTPUT_DIR,
            average=self.average,
            prune=Pruner(cfg),
            trainer=weakref.proxy(self),
        )
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    def build_hooks(self):
        """All that happens beside the iterations, in this order."""
        cfg = self.cfg
        return [
            IterationTimer(warmup_iter=1),
            LRScheduler(),
            UpdateAverage(self.average),
            LogProgress(cfg),
            StopOnRequest(cfg),
            Evaluate(cfg, self.average.model),
            StopEarly(cfg, self.early_stopping),
            SaveBest(cfg, self.checkpointer, self.early_stopping),
            SavePeriodically(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD),
            Write(cfg),
        ]

    @classmethod
    def build_model(cls, cfg):
        return build_model(cfg)

    @classmethod
    def build_train_loader(cls, cfg, start_iter=0):
        return build_train_loader(cfg, start_iter)

    @classmethod
    def test(cls, cfg, model):
        return evaluate(cfg, model)

    def train(self, end):
        """Trains from `start_iter` on; `end` gets the reason if it stops early.

        Returns the metrics of the evaluation at the end, if there is one in the loop.
        """
        end.update(self.early_stopping.end())
        if nothing_to_train(self.cfg, self.start_iter, end):
            return self.test(self.cfg, self.average.model) if self.cfg.TEST.EVAL_IN_LOOP else {}
        if self.cfg.TEST.EVAL_IN_LOOP:
            self.early_stopping.check(metric_names(self.cfg, self.average.model))
        self._trainer.data_loader = self.build_train_loader(self.cfg, self.start_iter)
        logger.info("Training from iteration %d to %d", self.start_iter, self.max_iter)
        train(self, self.start_iter, self.max_iter, end)
        return self.metrics or {}


def main(args):
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, complete=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        metrics = Trainer.test(cfg, model)
    else:
        with end_marker(cfg) as end:
            trainer = Trainer(cfg)
            trainer.resume_or_load(resume=args.resume)
            model, metrics = trainer.average.model, trainer.train(end)
    report(cfg, model, metrics)


if __name__ == "__main__":
    run(main)
