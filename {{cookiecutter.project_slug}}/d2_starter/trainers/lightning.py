"""Lets Lightning's Trainer deliver what the other trainers do: loaders, records, checkpoints."""

import contextlib
import os
import signal
import sys
import threading
import time
from itertools import islice

import torch
from detectron2.utils import comm
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..config.experiment import Experiment, amp_dtype
from ..data.loader import SIGNALS
from ..evaluation.evaluate import Evaluation
from ..run.checkpoint import (
    CheckpointCleaner,
    Checkpointer,
    keep_hyper_parameters,
    make_last,
    read_checkpoint,
    save_checkpoint,
)
from ..run.run import Run
from ..run.writers import build_writers, latest_scalars, log_above_bar


def trainer_arguments(experiment: Experiment) -> dict:
    """Returns what an experiment's config says of the arguments of Lightning's Trainer."""
    experiment.set_epoch_length()  # lengths in epochs are in iterations from here on
    mixed = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}[amp_dtype(experiment.device)]
    return {
        "accelerator": "cpu" if torch.device(experiment.device).type == "cpu" else "gpu",
        "precision": mixed if experiment.amp else "32-true",
        "max_epochs": -1,
        "max_steps": experiment.max_iter,
        "accumulate_grad_batches": experiment.accumulate,
        "check_val_every_n_epoch": None,
        "val_check_interval": experiment.eval_period * experiment.accumulate or sys.maxsize,
        "limit_val_batches": 1.0 if experiment.eval_in_loop and experiment.test_names else 0,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": experiment.log_period,
    }


class TrainBatches:
    """The training loader, in epochs, which Lightning can save and resume.

    A batch of the config is cut into its micro-batches, as `accumulate_grad_batches` expects.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.done = 0
        self._batches = None

    def __len__(self):
        batches = round(self.experiment.images_per_epoch / self.experiment.batch_size)
        return max(1, batches) * self.experiment.accumulate

    def __iter__(self):
        if self._batches is None:
            self._batches = self._from(self.done)
        for batch in islice(self._batches, len(self)):
            self.done += 1
            yield batch

    def _from(self, done):
        number = self.experiment.accumulate
        size = self.experiment.batch_size // comm.get_world_size() // number
        loader = self.experiment.build_train_loader(done // number)
        micro_batches = (
            batch[i : i + size] for batch in loader for i in range(0, size * number, size)
        )
        return islice(micro_batches, done % number, None)

    def state_dict(self):
        """Returns how many micro-batches were delivered."""
        return {"done": self.done}

    def load_state_dict(self, state_dict):
        """Goes on after as many."""
        self.done, self._batches = state_dict["done"], None


class TestBatches:
    """The loader of a test set. Each rank has its share already: Lightning must not split it."""

    def __init__(self, experiment: Experiment, name: str):
        self.loader = experiment.build_test_loader(name)
        images, processes = len(self.loader.dataset), comm.get_world_size()
        if images < processes:  # a rank without images would not take part
            raise ValueError(f"test set '{name}' is small for {processes} processes: {images}")

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return iter(self.loader)


class Data(LightningDataModule):
    """The training set and the test sets of a config."""

    def __init__(self, experiment: Experiment):
        super().__init__()
        self.experiment = experiment
        if not experiment.images_per_epoch:  # in a Trainer of your own
            experiment.set_epoch_length()

    def train_dataloader(self):
        return TrainBatches(self.experiment)

    def val_dataloader(self):
        return [TestBatches(self.experiment, name) for name in self.experiment.test_names]


def begin_evaluations(experiment: Experiment, model) -> dict[str, Evaluation]:
    """Returns an evaluation for each test set, which waits for predictions."""
    evaluations = {}
    for name in experiment.test_names:
        folder = os.path.join(experiment.output_dir, "inference", name)
        evaluator = experiment.build_evaluator(name, folder)
        evaluations[name] = Evaluation(
            model, evaluator, experiment.val_loss, experiment.build_predictor, name
        )
        evaluations[name].reset()
    return evaluations


class KeepRun(Callback):
    """Keeps the run directory: log, metrics.json, TensorBoard, checkpoints, and how it ends."""

    def __init__(self, experiment, run: Run, checkpointer: Checkpointer, early_stopping):
        self.experiment = experiment
        self.schedule = experiment.schedule
        self.run = run
        self.checkpointer = checkpointer
        self.early_stopping = early_stopping
        self._above = contextlib.ExitStack()
        self._of_validation = set()  # names, which stay in Lightning's metrics

    def on_fit_start(self, trainer, module):
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        self._restore = keep_hyper_parameters(trainer.optimizers[0], scheduler)

    def on_train_start(self, trainer, module):
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():  # Lightning's own would raise
                signal.signal(number, handler)
        start_iter = trainer.global_step
        self._restore(start_iter)
        self.writers = build_writers(self.experiment.output_dir, self.schedule, start_iter)
        if trainer.progress_bar_callback:
            self._above.enter_context(log_above_bar())
        self._step_start = time.perf_counter()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._lr = trainer.optimizers[0].param_groups[0]["lr"]
            self._data_time = time.perf_counter() - self._step_start

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        done, run, storage = trainer.global_step, self.run, module.storage
        storage.put_scalars(**self.schedule.progress(done - 1), lr=self._lr, smoothing_hint=False)
        storage.put_scalars(data_time=self._data_time, time=time.perf_counter() - self._step_start)
        self._put_logged(trainer, module.storage)
        if done < self.schedule.max_iter:
            run.poll()
        is_last = trainer.should_stop = done == self.schedule.max_iter or run.is_stopping
        if not self.schedule.is_evaluation_due(done, is_last and not run.is_interrupted):
            if is_last:
                trainer.limit_val_batches = 0  # Lightning would evaluate
            self._end_step(trainer, module, writes=is_last or done % self.schedule.log_period == 0)

    def on_validation_end(self, trainer, module):
        if trainer.state.fn != "fit":
            return
        iteration, early_stopping = trainer.global_step - 1, self.early_stopping
        self._of_validation |= module.metrics.keys() | self._put_logged(trainer, module.storage)
        with module.storage:
            scalars = latest_scalars(self.schedule.log_period)
        early_stopping.update(scalars, iteration)
        self.checkpointer.save_best(early_stopping.metric, scalars, iteration)
        if early_stopping.should_stop:
            self.run.stop("converged", early_stopping.reason)
            trainer.should_stop = True
        self._end_step(trainer, module, writes=True)

    def _put_logged(self, trainer, storage):
        # What a module of yours logs by self.log belongs to the records, too.
        there = {
            name for name, (_, iteration) in storage.latest().items() if iteration == storage.iter
        }
        logged = trainer.callback_metrics
        names = logged.keys() - there - self._of_validation
        storage.put_scalars(**{name: logged[name].item() for name in sorted(names)})
        return names

    def _end_step(self, trainer, module, writes):
        with module.storage:
            for writer in self.writers if writes else ():
                writer.write()
        done = trainer.global_step
        if done % self.schedule.checkpoint_period == 0:
            self._save(trainer, f"model_{done - 1:07d}")
        if trainer.should_stop:
            self._save(trainer, "model_interrupted" if self.run.is_interrupted else "model_final")
        self._step_start = time.perf_counter()

    def _save(self, trainer, name):
        trainer.save_checkpoint(os.path.join(self.experiment.output_dir, f"{name}.pth"))

    def on_save_checkpoint(self, trainer, module, checkpoint):
        checkpoint["early_stopping"] = self.early_stopping.state_dict()

    def on_train_end(self, trainer, module):
        for writer in self.writers:
            writer.close()
        self._above.close()


class CheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, says which one is the last, and deletes old ones."""

    def __init__(self, clean: CheckpointCleaner):
        super().__init__()
        self.clean = clean

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        save_checkpoint(path, checkpoint)
        make_last(path, checkpoint["iteration"])
        self.clean()

    def load_checkpoint(self, path, *_, **__):
        return read_checkpoint(path)  # runs nothing that is in it


def processes() -> LightningEnvironment:
    """Tells Lightning of the processes that `launch` has started, as for the other trainers."""
    os.environ["LOCAL_RANK"] = str(comm.get_local_rank())
    os.environ["NODE_RANK"] = str(comm.get_rank() // comm.get_local_size())
    return LightningEnvironment()
