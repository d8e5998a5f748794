#!/usr/bin/env python
"""Says what limits the speed of a training, and what makes it faster, on its own data.

uv run tools/benchmark.py --config-file C            # overrides of the config come last
uv run tools/benchmark.py --config-file C --compare "" "{{ "dataloader.train.num_workers=0" if cookiecutter.trainer == "lazyconfig" else "DATALOADER.NUM_WORKERS 0" }}"
uv run tools/benchmark.py --config-file output/smoke/config.yaml --parts losses

Each part is measured by itself, by turns of some iterations: `loading` the data, the `model` on
data in memory, the `loop` of both, and `evaluation`; `workers` adds other numbers of workers.
`trials` measures the loop with the config and with a change of it, again by turns. What is clearly
faster is recommended, with the command. `losses` says what the validation loss costs an evaluation.

Everything is in images per second: the median of the rounds, and the range of their middle half.
One process is measured, on one device: for one of N GPUs, divide the batch size by N. Weights are
those of the run in OUTPUT_DIR, if it has a checkpoint: what a model finds decides how long it
takes. Numbers and a picture of them go to benchmark.json and benchmark.png in OUTPUT_DIR.
"""

import argparse
import json
import logging
import shlex
import textwrap
import warnings
from pathlib import Path

import numpy as np
from detectron2.utils.logger import setup_logger

from {{ cookiecutter.package_name }}.config import epochs_to_iterations, spell
from {{ cookiecutter.package_name }}.data.loader import get_test_dataset, training_images
from {{ cookiecutter.package_name }}.engine.benchmark import (
    PARTS,
    alternate,
    cpus,
    largest_batch,
    load_model,
    losses_of_evaluation,
    memory,
    spread,
)
from {{ cookiecutter.package_name }}.experiment import (
    NAMES,
    build_mapper,
    get_config,
    override,
)

SCRIPT = "{{ cookiecutter.__script }}"
LEFT = 34  # width of the first column
ALL = [*PARTS, "workers", "trials", "losses"]
PAYS = 1.02  # what is recommended is faster by more than this in three of four rounds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument(
        "--compare", nargs=2, metavar="OVERRIDES", help="measures B / A alternately, nothing else"
    )
    parser.add_argument(
        "--parts",
        type=part_names,
        help=f"some of {','.join(ALL)}; default: all but losses; with --compare: loop",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=10, help="in a round")
    parser.add_argument("--output", type=Path, help="folder; default: OUTPUT_DIR")
    parser.add_argument("opts", nargs="*", help="overrides of the config")
    args = parser.parse_intermixed_args()
    setup_logger(name="{{ cookiecutter.package_name }}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # which is the point
    try:
        if min(args.rounds, args.iterations) < 1:
            raise ValueError("--rounds and --iterations are positive numbers.")
        if args.compare:
            compare(args)
        else:
            benchmark(args)
    except (ValueError, KeyError, OSError) as error:  # of the config, the data or the weights
        message = str(error) if isinstance(error, OSError) else str(error.args[0])
        parser.error(spell(message, NAMES))


def part_names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(ALL):
        raise argparse.ArgumentTypeError(f"{unknown.pop()} is not among {','.join(ALL)}")
    return names


def read(args, *overrides: str):
    """The config with more overrides, its epochs in iterations."""
    cfg = get_config(args.config_file, [*args.opts, *overrides])
    epochs_to_iterations(cfg, training_images(cfg)[0])
    return cfg


def compare(args):
    parts = args.parts or ["loop"]
    if set(parts) - set(PARTS):
        raise ValueError(f"--compare measures {', '.join(PARTS)}; not {', '.join(parts)}.")
    cfgs = [read(args, *shlex.split(overrides)) for overrides in args.compare]
    for name in parts:
        measured = [PARTS[name](cfg) for cfg in cfgs]
        rates = alternate(measured, args.rounds, args.iterations)
        print(f"{name}, images/s: median (middle half) of {args.rounds} rounds by turns")
        for letter, overrides, values, part in zip("AB", args.compare, rates.T, measured):
            print(f"  {letter}  {overrides or 'the config':{LEFT}} {rate(values)}")
            print_stages(part.stages(), indent=4)
        ratios = rates[:, 1] / rates[:, 0]
        ranges = f"range {ratios.min():.3f} to {ratios.max():.3f}"
        print(f"  {'B / A':{LEFT + 3}} {ratio(ratios)}, {ranges}", flush=True)


def benchmark(args):
    parts = args.parts or ALL[:-1]
    if "trials" in parts:  # which need the others
        parts = ALL if "losses" in parts else ALL[:-1]
    cfg = read(args)
    if not cfg.DATASETS.TEST:
        parts = [part for part in parts if part not in ("evaluation", "losses")]
        if not parts:
            raise ValueError("there is nothing to evaluate: DATASETS.TEST is empty.")
    print(
        f"{args.config_file}: {cfg.SOLVER.IMS_PER_BATCH} images an iteration, on "
        f"{cfg.MODEL.DEVICE}, {cpus()} CPUs; {args.rounds} rounds of {args.iterations} iterations"
    )
    model = load_model(cfg)
    results = {"config": args.config_file, "device": cfg.MODEL.DEVICE, "cpus": cpus()}
    results |= {"images_per_second": {}, "ms_per_image": {}, "workers": {}, "ratios": {}}
    measure(args, cfg, model, parts, results)
    if "losses" in parts:
        print_losses(args, cfg, model)
    if {"loading", "model", "loop"} <= set(parts):
        conclude(cfg, results)
    if "trials" in parts:
        recommend(args, cfg, model, results)
    print(f"\nAt most used: {memory(cfg.MODEL.DEVICE)}")
    write(args.output or Path(cfg.OUTPUT_DIR), results)


def measure(args, cfg, model, parts, results):
    """Measures the parts by turns, adds them to the results, and prints them."""
    configured = cfg.DATALOADER.NUM_WORKERS
    numbers = {0, configured} if "loading" in parts else set()  # stages are seen without workers
    if "workers" in parts:
        numbers |= {0, *(2**i for i in range(8) if 2**i <= cpus())}
    measured = {name: PARTS[name](cfg, model) for name in ("model", "loop", "evaluation")
                if name in parts}  # fmt: skip
    loaders = {
        number: PARTS["loading"](read(args, *override("DATALOADER.NUM_WORKERS", number)))
        for number in sorted(numbers)
    }
    if not (measured or loaders):
        return
    everything = [*loaders.values(), *measured.values()]
    rates = alternate(everything, args.rounds, args.iterations).T.tolist()
    results["workers"] = dict(zip(loaders, rates))
    if "loading" in parts:
        results["images_per_second"]["loading"] = results["workers"][configured]
        results["ms_per_image"]["loading"] = loaders[0].stages()
    results["images_per_second"] |= dict(zip(measured, rates[len(loaders) :]))
    results["ms_per_image"] |= {name: part.stages() for name, part in measured.items()}

    print(f"\n{'':{LEFT}} images/s (middle half)")
    for number, values in results["workers"].items():
        config = "  as configured" if number == configured else ""
        print(f"{f'loading, {number} workers':{LEFT}} {rate(values)}{config}")
    for name, stages in results["ms_per_image"].items():
        if name != "loading":
            print(f"{name:{LEFT}} {rate(results['images_per_second'][name])}")
        else:
            print("loading, in one process")
        print_stages(stages)


def conclude(cfg, results):
    """Says which part limits, and adds it to the results."""
    loading, model, loop = (
        np.median(results["images_per_second"][name]) for name in ("loading", "model", "loop")
    )
    waiting = share(results["ms_per_image"]["loop"])["waiting for data"]
    evaluation = share_of_evaluation(cfg, results, loop)
    limit = "evaluation" if evaluation > 0.5 else "loading" if loading < model else "model"
    stages = share(results["ms_per_image"][limit])
    slowest = max(stages, key=stages.get)
    print(
        f"\nWhat limits: {limit}. Loading could do {loading:.1f} images/s, the model {model:.1f}; "
        f"together\nthey do {loop:.1f}, and {100 * waiting:.0f}% of that time is waiting for data. "
        f"The largest share of {limit}\nis {slowest}: {100 * stages[slowest]:.0f}%."
    )
    if cfg.MODEL.DEVICE == "cpu":
        print("Workers and model share the CPUs here: what either of them takes, the other lacks.")
    if evaluation:
        print(f"Training waits for evaluations {100 * evaluation:.0f}% of the time.")
    results |= {"limit": limit, "slowest": slowest, "waiting": waiting}
    results["share_of_evaluation"] = evaluation


def share_of_evaluation(cfg, results, loop: float) -> float:
    """Of the time of a training that evaluates in its loop."""
    if "evaluation" not in results["images_per_second"] or not cfg.TEST.EVAL_IN_LOOP:
        return 0.0
    images = sum(len(get_test_dataset(cfg, name)) for name in cfg.DATASETS.TEST)
    wait = images / np.median(results["images_per_second"]["evaluation"])
    between = (cfg.TEST.EVAL_PERIOD or cfg.SOLVER.MAX_ITER) * cfg.SOLVER.IMS_PER_BATCH / loop
    return float(wait / (wait + between))


def recommend(args, cfg, model, results):
    """Tries changes of the config, and says the command with those that pay."""
    print("\nTried: its images/s / those of the config, by turns")
    chosen = []
    for part, words in candidates(cfg, model, results):
        ratios = try_change(args, cfg, part, words, results)
        if ratios is not None and spread(ratios)[1] > PAYS:
            chosen += words
    smaller(args, cfg, results)
    print("\nRecommended:" if chosen else "\nNothing to recommend: none of it was clearly faster.")
    results["recommended"] = chosen
    if chosen:
        command = ["uv", "run", SCRIPT, "--config-file", args.config_file, *args.opts, *chosen]
        results["command"] = command
        print(f"  {shlex.join(command)}")
    for hint in hints(cfg, results):
        print(hint)


def candidates(cfg, model, results):
    """Changes to try: the part to measure, and the words of the command line."""
    enough = 1.2 * np.median(results["images_per_second"]["model"])
    speeds = {number: np.median(rates) for number, rates in sorted(results["workers"].items())}
    fast = [number for number, speed in speeds.items() if speed > enough]
    workers = fast[0] if fast else max(speeds, key=speeds.get)
    if workers != cfg.DATALOADER.NUM_WORKERS:
        yield "loop", override("DATALOADER.NUM_WORKERS", workers)
    if not cfg.SOLVER.AMP.ENABLED:
        yield "loop", override("SOLVER.AMP.ENABLED", True)
    if cfg.MODEL.DEVICE == "cpu":
        print("  (The largest batch is searched on a GPU only.)")
        return
    batch = cfg.SOLVER.IMS_PER_BATCH
    number = largest_batch(cfg, model, batch)
    print(f"  {number} images is the largest batch that fits")
    if number > batch:
        rate = cfg.SOLVER.BASE_LR if "LAZY" not in cfg else cfg.LAZY.optimizer.lr
        words = override("SOLVER.IMS_PER_BATCH", number)
        yield "loop", [*words, *override("SOLVER.BASE_LR", rate * number / batch)]
    if cfg.DATASETS.TEST and cfg.TEST.IMS_PER_BATCH == 1:
        yield "evaluation", override("TEST.IMS_PER_BATCH", 8)


def smaller(args, cfg, results):
    """Measures smaller images, which is never recommended: it changes what can be found."""
    sizes = short_sides(cfg)
    if sizes is None:
        print("  (Other sizes were not tried: the mapper has no ResizeShortestEdge.)")
        return
    for factor in (0.75, 0.5):
        words = override("INPUT.MIN_SIZE_TRAIN", tuple(round(factor * size) for size in sizes))
        if short_sides(read(args, *words)) != sizes:
            try_change(args, cfg, "loop", words, results)


def short_sides(cfg) -> tuple[int, ...] | None:
    """What the short side of a training image is resized to."""
    augmentations = getattr(build_mapper(cfg, is_train=True), "augmentations", None)
    for augmentation in getattr(augmentations, "augs", ()):
        augmentation = getattr(augmentation, "resize", augmentation)  # of FastResize
        if hasattr(augmentation, "short_edge_length"):
            return tuple(augmentation.short_edge_length)
    return None


def try_change(args, cfg, name, words, results):
    """The ratios, (rounds,), of a part's speed with a change and without; None if it fails."""
    label = shlex.join(words)
    pair = [PARTS[name](cfg), PARTS[name](read(args, *words))]
    rates = alternate(pair, args.rounds, args.iterations)
    ratios = rates[:, 1] / rates[:, 0]
    results["ratios"][label] = ratios.tolist()
    print(f"  {label:{LEFT}} {ratio(ratios)}  {name}", flush=True)
    return ratios


def hints(cfg, results):
    """What may help, but was not measured."""
    if results["share_of_evaluation"] > 0.2:
        word = shlex.join(override("TEST.EVAL_IN_LOOP", False))
        yield f"Evaluations beside the training cost it no time: {word}, see README.md."
    if results["limit"] == "loading" and results["slowest"] == "read and decode":
        yield "If the image files are larger than what is trained on, smaller copies load faster."


def share(stages: dict[str, float]) -> dict[str, float]:
    total = sum(stages.values())
    return {stage: value / total for stage, value in stages.items()}


def print_stages(stages: dict[str, float], indent: int = 2):
    for stage, part in share(stages).items():
        print(f"{' ' * indent + stage:{LEFT}} {100 * part:7.0f}% {stages[stage]:9.2f} ms/image")


def rate(values) -> str:
    median, low, high = spread(values)
    return f"{median:8.1f} ({low:.1f} to {high:.1f})"


def ratio(values) -> str:
    median, low, high = spread(values)
    return f"{median:8.2f} ({low:.2f} to {high:.2f})"


def print_losses(args, cfg, model):
    times = losses_of_evaluation(cfg, model, args.rounds * args.iterations)
    print(f"{'validation loss':{LEFT}} ratio of times (middle half)")
    for way, values in times.items():
        print(f"{'  ' + way:{LEFT}} {ratio(values / times['predictions only'])}")


def write(folder: Path, results):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "benchmark.json"
    file.write_text(json.dumps(results, indent=1), encoding="utf-8")
    draw(results, folder / "benchmark.png")
    print(f"Numbers: {file}; picture: {file.with_suffix('.png')}")


def draw(results, file: Path):
    """Speeds, what the time goes to, workers and trials, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    speeds, stages, workers, trials = figure.subplots(2, 2).flat
    bars(speeds, results["images_per_second"], "images/s of each part", 0)
    bars(workers, results["workers"], "images/s of loading, by number of workers", 0)
    bars(trials, results["ratios"], "images/s / those of the config", 2)
    trials.axvline(1, color="black", linewidth=0.8)
    for row, values in enumerate(results["ms_per_image"].values()):
        left = 0.0
        for number, (stage, part) in enumerate(share(values).items()):
            stages.barh(row, 100 * part, left=left, color=f"C{number}", alpha=0.6)
            if part > 0.08:
                label = stage.replace(" ", "\n").replace("-", "-\n")
                stages.text(left + 50 * part, row, label, ha="center", va="center", fontsize=8)
            left += 100 * part
    stages.set_yticks(range(len(results["ms_per_image"])), list(results["ms_per_image"]))
    stages.invert_yaxis()
    stages.set_title("where the time of each part goes, in %")
    title = f"{results['config']} on {results['device']}"
    figure.suptitle(title + (f": limited by {results['limit']}" if "limit" in results else ""))
    figure.savefig(file, dpi=100)


def bars(axes, values: dict, title: str, digits: int):
    """Medians, with the range of the middle half."""
    spreads = [spread(value) for value in values.values()]
    rows = range(len(spreads))
    medians = [median for median, _, _ in spreads]
    errors = [[m - low for m, low, _ in spreads], [high - m for m, _, high in spreads]]
    if spreads:
        drawn = axes.barh(rows, medians, xerr=errors, color="C0", capsize=3)
        axes.bar_label(drawn, [f"{median:.{digits}f}" for median in medians], padding=4)
    axes.set_yticks(rows, [textwrap.fill(str(name), 30) for name in values])
    axes.margins(x=0.15)  # for the labels
    axes.invert_yaxis()
    axes.set_title(title)


if __name__ == "__main__":
    main()
