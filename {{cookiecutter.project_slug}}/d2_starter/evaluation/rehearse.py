"""Says where early stopping would have ended a training that is over, and what it would have cost.

uv run tools/rehearse_early_stopping.py output/smoke --patience 1 2 3 5
uv run tools/rehearse_early_stopping.py output/smoke --metric val_loss/total_loss

It reads `metrics.json` and the results of tools/evaluate_checkpoints.py. The cost is in AP (or PQ,
mIoU): the best of the whole training, less that of the checkpoint that would have been kept as the
best by the metric.
"""

import argparse
from pathlib import Path

from tabulate import tabulate

from ..files.run_directory import RunDirectory
from .early_stopping import EarlyStopping, Metric


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="output folder of a training")
    parser.add_argument("--metric", default="", help="as EARLY_STOPPING.METRIC")
    parser.add_argument("--mode", default="", choices=("", "max", "min"))
    parser.add_argument("--patience", type=int, nargs="+", default=[1, 2, 3, 5, 10])
    parser.add_argument("--min-delta", type=float, default=0.0)
    parser.add_argument("--warmup-evals", type=int, default=0)
    args = parser.parse_args()
    file = args.run / "metrics.json"
    if not file.is_file():
        parser.error(f"{args.run} is not the output folder of a training: it has no metrics.json")
    directory = RunDirectory(args.run)
    by_iteration = {line["iteration"]: line for line in directory.metrics()}
    for iteration, result in directory.results().items():  # of evaluations elsewhere
        by_iteration[iteration] = by_iteration.get(iteration, {}) | result
    lines = [by_iteration[iteration] for iteration in sorted(by_iteration)]
    logged = [dict(lines[0])] if lines else []
    for line in lines[1:]:
        logged.append(logged[-1] | line)  # a metric has its value until it gets another
    quality, watched = Metric(), Metric(args.metric, args.mode)
    try:
        if not logged or quality.find(logged[-1]) is None:
            raise ValueError(f"{file} has no evaluations.")
        watched.find(logged[-1])
    except ValueError as error:
        parser.error(str(error))
    evaluations = [now for now, line in zip(logged, lines) if quality.name in line]

    whole = max(now[quality.name] for now in evaluations)
    rows = []
    for patience in args.patience:
        early_stopping = EarlyStopping(
            watched.name, watched.mode, patience, args.min_delta, args.warmup_evals
        )
        kept = None
        for now in evaluations:
            if watched.is_better(now[watched.name], kept and kept[watched.name]):
                kept = now
            early_stopping.update(now, now["iteration"])
            if early_stopping.should_stop:
                break
        spared = 1 - (now["iteration"] + 1) / (evaluations[-1]["iteration"] + 1)
        stop = f"{now['iteration']} (epoch {now['epoch']:.4g})"
        rows.append([
            patience,
            stop if early_stopping.should_stop else "never",
            f"{100 * spared:.0f}%",
            f"{kept['iteration']}: {kept[watched.name]:.4g}" if kept else "none",
            f"{whole - kept[quality.name]:.2f}" if kept else "all",
        ])  # fmt: skip
    headers = ["patience", "stops at", "spares", f"best {watched.name}", f"costs {quality.name}"]
    print(tabulate(rows, headers, disable_numparse=True))
    print(f"{len(evaluations)} evaluations; the best {quality.name} of the training is {whole:.2f}")
