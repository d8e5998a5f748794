"""A training of a few weights in this process, by all that surrounds one."""

import argparse
from pathlib import Path

import torch
import yaml
from detectron2.checkpoint import PeriodicCheckpointer
from detectron2.solver import LRMultiplier
from detectron2.utils.events import EventStorage
from fvcore.common.param_scheduler import MultiStepParamScheduler

from d2_starter.config.experiment import Schedule
from d2_starter.data.catalog import register
from d2_starter.evaluation.early_stopping import EarlyStopping
from d2_starter.run.checkpoint import CheckpointCleaner, Checkpointer, finish_interrupted
from d2_starter.run.ema import EMA
from d2_starter.run.run import Run
from d2_starter.run.setup import setup
from d2_starter.run.training_step import seed_step
from d2_starter.run.writers import build_writers, latest_scalars

for name in "abc":
    register(name, lambda: [], thing_classes=["cell"])
DEFAULTS = {
    "output_dir": "",
    "weights": "",
    "device": "cpu",
    "seed": -1,
    "num_workers": 0,
    "cudnn_benchmark": False,
    "train_names": ["a"],
    "test_names": ["b"],
    "train_subset_ratio": 1.0,
    "train_subset_seed": -1,
    "test_subset_ratio": 1.0,
    "test_subset_seed": 0,
    "batch_size": 2,
    "images_per_epoch": 0.0,
    "images": 10,
    "max_iter": 20,
    "base_lr": 0.1,
    "steps": [],
    "log_period": 1,
    "eval_period": 3,
    "eval_in_loop": True,
    "checkpoint_period": 5,
    "ema_decay": 0.0,
    "patience": 0,
    "pixel_mean": 1.0,
}


class TinyExperiment:
    """What `setup` needs of an experiment."""

    def __init__(self, config_file, overrides=()):
        values = yaml.safe_load(Path(config_file).read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.keys() - DEFAULTS.keys():
            raise ValueError(f"{config_file} is no config")
        given = dict(zip(overrides[::2], overrides[1::2], strict=True))
        vars(self).update(DEFAULTS | values | {k: yaml.safe_load(v) for k, v in given.items()})

    def flat(self):
        return {key: getattr(self, key) for key in DEFAULTS}

    def save(self, path):
        Path(path).write_text(yaml.safe_dump(self.flat()), encoding="utf-8")

    def name_of(self, attribute):
        return attribute

    def set_epoch_length(self):
        self.images_per_epoch = float(self.images)

    def follow_data(self):
        pass

    scale_learning_rate = warn_of_limits = follow_data
    fixes = ()

    def datasets(self):
        return {}

    @property
    def schedule(self):
        names = ("max_iter", "batch_size", "images_per_epoch", "log_period", "eval_period")
        names += ("eval_in_loop", "checkpoint_period")
        return Schedule(**{name: getattr(self, name) for name in names})


def arguments(folder: Path, *options, **config):
    """Returns what the command line of a training would be."""
    file = folder / "experiment.yaml"
    file.write_text("{}", encoding="utf-8")
    config = {"output_dir": str(folder / "run")} | config
    opts = [word for key, value in config.items() for word in (key, str(value))]
    return argparse.Namespace(
        config_file=str(file),
        opts=opts,
        resume="resume" in options,
        eval_only=False,
        num_gpus=1,
    )


class Killed(BaseException):
    """Ends a training as SIGKILL does, as far as files are concerned."""


def train(args, at=None):
    """Trains as plain_train_net.py does.

    Args:
        at: called with iteration and run after each.

    Returns:
        the weights, and the run.
    """
    experiment = setup(args, TinyExperiment)
    output, schedule = experiment.output_dir, experiment.schedule
    with Run(output) as run:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        ema = EMA(model, experiment.ema_decay)
        optimizer = torch.optim.SGD(model.parameters(), experiment.base_lr, momentum=0.9)
        marks = [*experiment.steps, schedule.max_iter]
        steps = MultiStepParamScheduler([0.1**i for i in range(len(marks))], milestones=marks)
        scheduler = LRMultiplier(optimizer, steps, schedule.max_iter)
        rule = EarlyStopping(patience=experiment.patience)
        checkpointer = Checkpointer(
            model, output, ema=ema, clean=CheckpointCleaner(output, 0, rule.metric),
            optimizer=optimizer, scheduler=scheduler, early_stopping=rule,
        )  # fmt: skip
        start = checkpointer.start(experiment.weights, args.resume, optimizer, scheduler)
        if rule.should_stop:
            run.stop("converged", rule.reason)
        if run.is_complete(start, schedule.max_iter):
            finish_interrupted(output)
            return model, run
        periodic = PeriodicCheckpointer(checkpointer, schedule.checkpoint_period, schedule.max_iter)
        writers = build_writers(output, schedule, start)
        with EventStorage(start) as storage:
            for iteration in range(start, schedule.max_iter):
                storage.iter = iteration
                storage.put_scalars(**schedule.progress(iteration), smoothing_hint=False)
                seed_step(experiment.seed, iteration)
                optimizer.zero_grad()
                loss = (model(torch.randn(2, 3)) - 1).square().mean()
                loss.backward()
                optimizer.step()
                ema.update()
                storage.put_scalars(total_loss=loss.item(), time=0.1, data_time=0.1)
                storage.put_scalar("lr", optimizer.param_groups[0]["lr"], smoothing_hint=False)
                scheduler.step()
                if at:
                    at(iteration, run)
                done = iteration + 1
                if done < schedule.max_iter:
                    run.poll()
                is_last = done == schedule.max_iter or run.is_stopping
                is_due = schedule.is_evaluation_due(done, is_last and not run.is_interrupted)
                if is_due:
                    ap = 50 + 10 * float(ema.model.bias.detach())
                    storage.put_scalars(**{"bbox/AP": ap}, smoothing_hint=False)
                    rule.update(latest_scalars(4), iteration)
                    checkpointer.save_best(rule.metric, latest_scalars(4), iteration)
                    if rule.should_stop:
                        run.stop("converged", rule.reason)
                        is_last = True
                if is_last or is_due or done % schedule.log_period == 0:
                    for writer in writers:
                        writer.write()
                periodic.step(iteration)
                if is_last:
                    break
        if done < schedule.max_iter:
            name = "model_interrupted" if run.is_interrupted else "model_final"
            checkpointer.save(name, iteration)
        for writer in writers:
            writer.close()
    return model, run


def kill_at(number):
    """Returns a function that kills a training after an iteration, for `train`."""

    def at(iteration, run):
        if iteration == number:
            raise Killed

    return at
