"""What a trainer does beside its iterations, one small class each. Copy one to write your own.

Their order matters: each sees in `trainer.storage` and in `trainer.end` what those before it did.
All ranks must have the same hooks in the same order, but for those that only write files.
"""

from detectron2.checkpoint import PeriodicCheckpointer
from detectron2.engine import HookBase
from detectron2.utils import comm

from .average import Average
from .checkpoint import Checkpointer
from .early_stopping import EarlyStopping
from .evaluation import evaluate, is_due
from .stop_request import StopRequest
from .train_loop import is_last, stop
from .writers import ProgressBar, build_writers, logged, progress


class LogProgress(HookBase):
    """Logs `epoch` and `samples_seen`."""

    def __init__(self, cfg):
        self.cfg = cfg

    def after_step(self):
        done = progress(self.cfg, self.trainer.iter)
        self.trainer.storage.put_scalars(**done, smoothing_hint=False)


class UpdateAverage(HookBase):
    """Keeps the moving average of the weights."""

    def __init__(self, average: Average):
        self.average = average

    def after_step(self):
        self.average.update()


class StopOnRequest(HookBase):
    """Stops by a file `training_completed.txt` in OUTPUT_DIR, or by a signal."""

    def __init__(self, cfg):
        self.stop_request = StopRequest(cfg.OUTPUT_DIR)

    def after_step(self):
        if not is_last(self.trainer) and (request := self.stop_request.look()):
            stop(self.trainer, **request)


class Evaluate(HookBase):
    """Metrics and validation loss every `TEST.EVAL_PERIOD` iterations and after the last one.

    `trainer.metrics` has them, and is None in iterations without an evaluation.
    """

    def __init__(self, cfg, model):
        self.cfg = cfg
        self.model = model

    def after_step(self):
        trainer = self.trainer
        trainer.metrics = None
        ends_here = is_last(trainer) and trainer.end["status"] != "interrupted"
        if is_due(self.cfg, trainer.iter + 1, ends_here):
            trainer.metrics = evaluate(self.cfg, self.model)
            trainer.storage.put_scalars(**trainer.metrics, smoothing_hint=False)


class StopEarly(HookBase):
    """Stops after `EARLY_STOPPING.PATIENCE` evaluations without improvement."""

    def __init__(self, cfg, early_stopping: EarlyStopping):
        self.cfg = cfg
        self.early_stopping = early_stopping

    def after_step(self):
        if self.trainer.metrics is not None:
            self.early_stopping.update(logged(self.cfg), self.trainer.iter)
            if self.early_stopping.should_stop:
                stop(self.trainer, **self.early_stopping.end())

    def state_dict(self):
        return self.early_stopping.state_dict()

    def load_state_dict(self, state_dict):
        self.early_stopping.load_state_dict(state_dict)


class SaveBest(HookBase):
    """Keeps the best model as `model_best.pth`."""

    def __init__(self, cfg, checkpointer: Checkpointer, early_stopping: EarlyStopping):
        self.cfg = cfg
        self.checkpointer = checkpointer
        self.metric = early_stopping.metric

    def after_step(self):
        if self.trainer.metrics is not None:
            self.checkpointer.save_best(self.metric, logged(self.cfg), self.trainer.iter)


class SavePeriodically(HookBase):
    """Saves every `period` iterations and, as `model_final.pth`, after the last one; when the
    training is interrupted, as `model_interrupted.pth`.

    It comes after the hooks that have a state, which is part of the checkpoint.
    """

    def __init__(self, checkpointer: Checkpointer, period: int):
        self.checkpointer = checkpointer
        self.period = period

    def before_train(self):
        self.periodic = PeriodicCheckpointer(self.checkpointer, self.period, self.trainer.max_iter)

    def after_step(self):
        iteration = self.trainer.iter
        self.periodic.step(iteration)
        if is_last(self.trainer) and iteration + 1 < self.trainer.max_iter:  # stopped early
            interrupted = self.trainer.end["status"] == "interrupted"
            name = "model_interrupted" if interrupted else "model_final"
            self.checkpointer.save(name, iteration=iteration)


class Write(HookBase):
    """Calls the writers every `LOG_PERIOD` iterations and after the last one. It comes at the end.

    It also moves the progress bar, if there is a terminal.
    """

    def __init__(self, cfg):
        self.cfg = cfg

    def before_train(self):
        start_iter = self.trainer.start_iter
        self.progress_bar = ProgressBar(start_iter, self.trainer.max_iter)
        self.writers = []
        if comm.is_main_process():
            self.writers = [*build_writers(self.cfg, start_iter), self.progress_bar]

    def after_step(self):
        if is_last(self.trainer) or (self.trainer.iter + 1) % self.cfg.LOG_PERIOD == 0:
            for writer in self.writers:
                writer.write()
        self.progress_bar.update()

    def after_train(self):
        for writer in self.writers:
            writer.close()
