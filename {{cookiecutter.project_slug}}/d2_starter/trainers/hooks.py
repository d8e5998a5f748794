"""Hooks: what a trainer does beside its iterations. Copy one to write your own.

The order of hooks matters: each sees in `trainer.storage` and `trainer.metrics` what earlier ones
did. All ranks need the same hooks in the same order, except for those that only write files.
"""

from collections.abc import Callable

from detectron2.checkpoint import PeriodicCheckpointer
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from ..config.experiment import Schedule
from ..run.checkpoint import Checkpointer
from ..run.ema import EMA
from ..run.run import Run
from ..run.writers import ProgressBar, latest_scalars


class LogProgress(HookBase):
    """Logs `epoch` and `samples_seen`."""

    def __init__(self, schedule: Schedule):
        self.schedule = schedule

    def after_step(self):
        done = self.schedule.progress(self.trainer.iter)
        self.trainer.storage.put_scalars(**done, smoothing_hint=False)


class UpdateEMA(HookBase):
    """Updates the EMA of the weights."""

    def __init__(self, ema: EMA):
        self.ema = ema

    def after_step(self):
        self.ema.update()


class PollRequests(HookBase):
    """Stops the training by `training_completed.txt` in the run directory, or by a signal."""

    def __init__(self, run: Run):
        self.run = run

    def after_step(self):
        if self.trainer.iter + 1 < self.trainer.max_iter:
            self.run.poll()


class Evaluate(HookBase):
    """Evaluates every `eval_period` iterations, and after the last one.

    `trainer.metrics` has the result, and is None in iterations without an evaluation.

    Args:
        evaluate: returns the metrics.
    """

    def __init__(self, schedule: Schedule, run: Run, evaluate: Callable[[], dict[str, float]]):
        self.schedule = schedule
        self.run = run
        self.evaluate = evaluate

    def after_step(self):
        trainer = self.trainer
        trainer.metrics = None
        is_last = trainer.is_last_iteration and not self.run.is_interrupted
        if self.schedule.is_evaluation_due(trainer.iter + 1, is_last):
            trainer.metrics = self.evaluate()
            trainer.storage.put_scalars(**trainer.metrics, smoothing_hint=False)


class StopEarly(HookBase):
    """Saves the best model as `model_best.pth`; stops after `patience` evaluations without a better."""

    def __init__(self, schedule: Schedule, run: Run, checkpointer: Checkpointer, early_stopping):
        self.schedule = schedule
        self.run = run
        self.checkpointer = checkpointer
        self.early_stopping = early_stopping

    def after_step(self):
        if self.trainer.metrics is not None:
            scalars, iteration = latest_scalars(self.schedule.log_period), self.trainer.iter
            self.early_stopping.update(scalars, iteration)
            self.checkpointer.save_best(self.early_stopping.metric, scalars, iteration)
            if self.early_stopping.should_stop:
                self.run.stop("converged", self.early_stopping.reason)

    def state_dict(self):
        return self.early_stopping.state_dict()

    def load_state_dict(self, state_dict):
        self.early_stopping.load_state_dict(state_dict)


class WriteAndSave(HookBase):
    """Calls the writers, moves the progress bar, and saves checkpoints; `insert(-1, yours)` before.

    It writes every `log_period` iterations, after evaluations and the last iteration. It saves every
    `checkpoint_period` iterations, after the last one as `model_final.pth`, and when the training is
    interrupted as `model_interrupted.pth`. It writes first: what an iteration gave is on record when
    a resumed run goes on after it. It comes last: the state of hooks is part of a checkpoint.
    """

    def __init__(
        self,
        schedule: Schedule,
        run: Run,
        checkpointer: Checkpointer,
        build_writers: Callable[[], list[EventWriter]],
    ):
        self.schedule = schedule
        self.run = run
        self.checkpointer = checkpointer
        self.build_writers = build_writers

    def before_train(self):
        trainer, period = self.trainer, self.schedule.checkpoint_period
        self.periodic = PeriodicCheckpointer(self.checkpointer, period, trainer.max_iter)
        self.progress_bar = ProgressBar(trainer.start_iter, trainer.max_iter)
        is_main = comm.is_main_process()
        self.writers = [*self.build_writers(), self.progress_bar] if is_main else []

    def after_step(self):
        trainer, done = self.trainer, self.trainer.iter + 1
        is_due = done % self.schedule.log_period == 0
        if is_due or trainer.metrics is not None or trainer.is_last_iteration:
            for writer in self.writers:
                writer.write()
        self.progress_bar.update()
        self.periodic.step(trainer.iter)
        if self.run.is_stopping and done < trainer.max_iter:
            name = "model_interrupted" if self.run.is_interrupted else "model_final"
            self.checkpointer.save(name, iteration=trainer.iter)

    def after_train(self):
        for writer in self.writers:
            writer.close()


def build_hooks(
    experiment, checkpointer, ema, early_stopping, run, evaluate, build_writers
) -> list[HookBase]:
    """Builds the library's hooks, in their order; detectron2's timer and scheduler come before.

    Args:
        evaluate: returns the metrics of `ema.model`.
        build_writers: returns the writers of the main process.
    """
    schedule = experiment.schedule
    return [
        UpdateEMA(ema),
        LogProgress(schedule),
        PollRequests(run),
        Evaluate(schedule, run, evaluate),
        StopEarly(schedule, run, checkpointer, early_stopping),
        WriteAndSave(schedule, run, checkpointer, build_writers),
    ]
