"""Lightning's callbacks and plugins, wired to the project's config, checkpoints and log."""

import logging
import os
import sys
import time

import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..config import amp_dtype
from . import early_stopping
from .checkpoint import (
    BEST,
    INTERRUPTED,
    Checkpointer,
    Pruner,
    best,
    make_last,
    save_checkpoint,
)
from .stop_request import StopRequest
from .writers import LogAboveBar, build_writers, for_bar, logged, progress

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # less is tips


def precision(cfg) -> str:
    """Lightning's name for `SOLVER.AMP`."""
    mixed = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}[amp_dtype(cfg)]
    return mixed if cfg.SOLVER.AMP.ENABLED else "32-true"


def evaluation_is_due(trainer) -> bool:
    """Whether Lightning evaluates after the iteration that is done. It does so when it stops."""
    is_due = trainer.should_stop or trainer.global_step % trainer.val_check_interval == 0
    return trainer.enable_validation and is_due


class Record(Callback):
    """Keeps detectron2's event storage: the iteration, the time, and how far training is.

    It comes before those that put something there.
    """

    def __init__(self, cfg):
        self.cfg = cfg

    def on_train_start(self, trainer, module):
        self.storage = EventStorage(trainer.global_step).__enter__()
        self.start = time.perf_counter()

    def on_train_batch_start(self, trainer, *_):
        self.storage.iter = trainer.global_step
        self.storage.put_scalar("data_time", time.perf_counter() - self.start)
        done = progress(self.cfg, trainer.global_step)
        self.storage.put_scalars(**done, smoothing_hint=False)

    def on_train_batch_end(self, *_):
        self.storage.put_scalar("time", time.perf_counter() - self.start)
        self.start = time.perf_counter()

    def on_validation_end(self, *_):
        self.start = time.perf_counter()

    def on_fit_end(self, trainer, module):
        self.storage.__exit__(None, None, None)


class Stop(Callback):
    """Stops after `SOLVER.MAX_ITER` iterations, or by the stop file, with an evaluation; or by a
    signal, without.
    """

    def __init__(self, cfg, end: dict):
        self.cfg = cfg
        self.end = end

    def on_train_start(self, trainer, module):
        self.stop_request = StopRequest(self.cfg.OUTPUT_DIR)  # in place of Lightning's own handlers

    def on_train_batch_end(self, trainer, *_):
        done = trainer.global_step
        if done < self.cfg.SOLVER.MAX_ITER and (request := self.stop_request.look()):
            self.end.update(request)
        if done == self.cfg.SOLVER.MAX_ITER or self.end["status"] != "finished":
            trainer.should_stop = True
        if self.end["status"] == "interrupted" and done % trainer.val_check_interval:
            trainer.limit_val_batches = 0


class StopEarly(EarlyStopping):
    """Lightning's EarlyStopping, deciding as the project's other trainers do: `WARMUP_EVALS` are
    left out, NaN is no improvement, and a resumed run has the patience of its config.
    """

    def __init__(self, cfg, rule: early_stopping.EarlyStopping, end: dict):
        metric = rule.metric
        super().__init__(metric.name, rule.min_delta, rule.patience, mode=metric.mode or "min")
        self.cfg = cfg
        self.rule = rule
        self.end = end

    def on_validation_end(self, trainer, module):
        if trainer.state.fn != "fit":
            return
        self.rule.update(logged(self.cfg), trainer.global_step - 1)
        self.wait_count = self.rule.waited
        if self.rule.best is not None:
            self.best_score = torch.tensor(self.rule.best)
        if self.rule.should_stop:
            trainer.should_stop = True
            self.end.update(self.rule.end())

    def on_save_checkpoint(self, trainer, module, checkpoint):
        checkpoint["early_stopping"] = self.rule.state_dict()

    def state_dict(self):
        return {}


class SaveBest(ModelCheckpoint):
    """Lightning's ModelCheckpoint for `model_best.pth`. A resumed run too only makes it better."""

    def __init__(self, cfg, checkpointer: Checkpointer, metric: early_stopping.Metric):
        super().__init__(cfg.OUTPUT_DIR, monitor=metric.name, mode=metric.mode or "min")
        self.cfg = cfg
        self.checkpointer = checkpointer
        self.metric = metric

    def on_train_batch_end(self, *_):
        pass  # only an evaluation tells how good the model is

    def on_train_epoch_end(self, *_):
        pass

    def on_validation_end(self, trainer, module):
        if trainer.state.fn == "fit":
            self.checkpointer.save_best(self.metric, logged(self.cfg), trainer.global_step - 1)
            if about := best(self.dirpath):
                self.best_model_path = os.path.join(self.dirpath, BEST)
                self.best_model_score = torch.tensor(about["value"])


class SavePeriodically(ModelCheckpoint):
    """Lightning's ModelCheckpoint, every `SOLVER.CHECKPOINT_PERIOD` iterations and after the last,
    which has a name of its own when the training is interrupted.

    It saves after an evaluation, not before it: the state of early stopping is part of it.
    """

    FILE_EXTENSION = ".pth"

    def __init__(self, cfg, end: dict):
        super().__init__(
            cfg.OUTPUT_DIR,
            save_top_k=-1,
            every_n_train_steps=cfg.SOLVER.CHECKPOINT_PERIOD,
            enable_version_counter=False,
        )
        self.end = end

    def format_checkpoint_name(self, metrics, *_, **__):
        return os.path.join(self.dirpath, f"model_{int(metrics['step']) - 1:07d}.pth")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if not evaluation_is_due(trainer):
            super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer, module):
        if trainer.state.fn == "fit":
            super().on_train_batch_end(trainer, module, None, None, None)

    def on_train_end(self, trainer, module):
        name = INTERRUPTED if self.end["status"] == "interrupted" else "model_final.pth"
        trainer.save_checkpoint(os.path.join(self.dirpath, name))


class CheckpointIO(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, which one is the last, and deletes old ones."""

    def __init__(self, prune: Pruner):
        super().__init__()
        self.prune = prune

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        save_checkpoint(path, checkpoint)
        make_last(path, checkpoint["iteration"])
        self.prune()


class StorageLogger(Logger):
    """Puts what is logged by Lightning's `self.log` into detectron2's event storage."""

    name = version = None

    def log_hyperparams(self, *_, **__):
        pass

    def log_metrics(self, metrics, step=None):
        # `epoch` is Lightning's, which has one long epoch; the learning rate is that of the first
        # group of parameters.
        for name, value in metrics.items():
            if name in ("lr", "lr/pg1"):
                get_event_storage().put_scalar("lr", value, smoothing_hint=False)
            elif name != "epoch" and not name.startswith("lr/pg"):
                get_event_storage().put_scalar(name, value)


class Write(Callback):
    """Calls the project's writers every `LOG_PERIOD` iterations and after the last one.

    It does so when the next iteration begins: Lightning passes on what is logged when one is over,
    with its evaluation. It comes before `Record`.
    """

    def __init__(self, cfg):
        self.cfg = cfg

    def on_train_start(self, trainer, module):
        self.start_iter = trainer.global_step
        self.writers = []
        if comm.is_main_process():
            self.writers = build_writers(self.cfg, self.start_iter)

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step > self.start_iter and trainer.global_step % self.cfg.LOG_PERIOD == 0:
            self._write()

    def on_train_end(self, trainer, module):
        self._write()
        for writer in self.writers:
            writer.close()

    def _write(self):
        for writer in self.writers:
            writer.write()


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, if there is a terminal, with the log above it."""

    def on_train_start(self, trainer, module):
        super().on_train_start(trainer, module)
        self._log = LogAboveBar()

    def on_train_end(self, trainer, module):
        super().on_train_end(trainer, module)
        self._log.close()

    def get_metrics(self, trainer, module):
        return for_bar()

    @staticmethod
    def is_wanted() -> bool:
        return sys.stderr.isatty() and comm.is_main_process()


class Processes(ClusterEnvironment):
    """The processes that `engine/run.py` has started, as for the other trainers."""

    creates_processes_externally = True
    main_address, main_port = "", 0  # they are connected already

    @staticmethod
    def detect():
        return False

    def world_size(self):
        return comm.get_world_size()

    def global_rank(self):
        return comm.get_rank()

    def local_rank(self):
        return comm.get_local_rank()

    def node_rank(self):
        return comm.get_rank() // comm.get_local_size()

    def set_world_size(self, size):
        pass

    def set_global_rank(self, rank):
        pass
