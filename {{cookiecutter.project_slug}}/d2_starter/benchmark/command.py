"""Says what limits the speed of a training, on its own data.

    uv run tools/benchmark.py --config-file C
    uv run tools/benchmark.py --config-file C --compare "KEY VALUE" --compare "KEY VALUE"

The first measures each part alone: loading, the model's step on batches in memory, the loop of
both, and evaluation. Then it says which part limits, and what to compare. The second compares the
config with changes of it, and prints the ratios of their speeds. Parts and changes take turns.

Speeds are images per second: the median of the rounds, and the range of the middle half. One
process is measured, on one device: for one of N GPUs, divide the batch size by N. The weights are
those of the run's last checkpoint, if there is one: what a model finds decides how long it takes.
"""

import argparse
import logging
import os
import shlex
import warnings

import numpy as np

from ..run.setup import LOGGERS
from .measure import PARTS, alternate, load_model

WIDTH = 34  # of the first column


def main(load_experiment, argv: list[str] | None = None):
    """Runs the command.

    Args:
        load_experiment: reads a config file with overrides.
        argv: the command line; None: that of the process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument(
        "--compare",
        action="append",
        metavar="'KEY VALUE'",
        help="overrides to compare with the config; can be given several times",
    )
    parser.add_argument("--part", choices=PARTS, default="loop", help="that --compare measures")
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--iterations", type=_positive, default=10, help="in a round")
    parser.add_argument("opts", nargs="*", help="overrides of the config")
    args = parser.parse_intermixed_args(argv)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # that is the point
    try:
        (_compare if args.compare else _measure)(load_experiment, args)
    except (ValueError, KeyError, OSError) as error:  # of the config, the data or the weights
        parser.error(str(error if isinstance(error, OSError) else error.args[0]))


def _positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _load(load_experiment, args, change=""):
    experiment = load_experiment(args.config_file, [*args.opts, *shlex.split(change)])
    experiment.set_epoch_length()
    if args.part == "evaluation" and not experiment.test_names:
        raise ValueError(f"there is nothing to evaluate: {experiment.name_of('test_names')} is ().")
    return experiment, load_model(experiment)


def _compare(load_experiment, args):
    changes = ["", *args.compare]
    turns = [PARTS[args.part](*_load(load_experiment, args, change)) for change in changes]
    rates = alternate(turns, args.rounds, args.iterations).T
    print(f"{args.part:{WIDTH}} {'images/s':>8}{'/ those of the config':>42}")
    for change, values in zip(changes, rates):
        ratio = _spread(values / rates[0], 2) if change else ""
        print(f"  {change or 'the config':{WIDTH - 2}} {_spread(values):28} {ratio}".rstrip())


def _measure(load_experiment, args):
    experiment, model = _load(load_experiment, args)
    names = [name for name in PARTS if name != "evaluation" or experiment.test_names]
    turns = [PARTS[name](experiment, model) for name in names]
    rates = alternate(turns, args.rounds, args.iterations).T
    print(
        f"{args.config_file}: {experiment.batch_size} images an iteration, {experiment.device}, "
        f"{_cpus()} CPUs, {experiment.num_workers} workers; {args.rounds} rounds of "
        f"{args.iterations} iterations\n\n{'':{WIDTH}} images/s"
    )
    for name, values in zip(names, rates):
        print(f"{name:{WIDTH}} {_spread(values)}")
    speeds = dict(zip(names, np.median(rates, axis=1).tolist()))
    print("\n" + "\n".join(conclude(experiment, speeds)))


def conclude(experiment, speeds: dict[str, float]) -> list[str]:
    """Says what limits a training, and what to compare with its config.

    Args:
        speeds: of the parts, in images per second.
    """
    share = _share_of_evaluation(experiment, speeds)
    limit = "loading" if speeds["loading"] < speeds["model"] else "model"
    limit = "evaluation" if share > 0.5 else limit
    workers, on_cpu = experiment.num_workers, experiment.device == "cpu"
    changes = {
        "loading": {"num_workers": 2 * workers or 2},
        "model": {"num_workers": 0} if on_cpu and workers else {},
        "evaluation": {"test_batch_size": 8, "val_loss": False},
    }[limit]
    if limit == "model":
        changes |= {"amp": True, "batch_size": 2 * experiment.batch_size}
    changes = {k: v for k, v in changes.items() if v != getattr(experiment, k)}
    options = [
        f"--compare {shlex.quote(' '.join(experiment.override(*c)))}" for c in changes.items()
    ]
    lines = [f"What limits: {limit}."]
    if share:
        lines.append(f"Training waits for evaluations {100 * share:.0f}% of the time.")
    if on_cpu and workers:
        lines.append("Workers and model share the CPUs: what one takes, the other lacks.")
    part = ["--part evaluation"] if limit == "evaluation" else []
    return [*lines, f"To see what is faster, add: {' '.join([*part, *options])}"]


def _share_of_evaluation(experiment, speeds):
    # Of the time of a training that evaluates in its loop.
    if "evaluation" not in speeds or not experiment.eval_in_loop:
        return 0.0
    images = sum(len(experiment.test_dataset(name)) for name in experiment.test_names)
    wait = images / speeds["evaluation"]
    period = experiment.eval_period or experiment.max_iter
    return wait / (wait + period * experiment.batch_size / speeds["loop"])


def _spread(values, digits=1):
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{median:8.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _cpus():
    # Those that this process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
