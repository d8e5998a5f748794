"""The command tools/check_dataset.py: what the doctor found, for people and for programs."""

import argparse
import json
import math
import sys
import textwrap
from pathlib import Path

from tqdm import tqdm

from ..data.catalog import check_registered
from . import check
from .findings import ERROR, Findings
from .fix import write_fixed

WIDTH = 100  # characters
CLASSES = 10  # listed at each end, if there are many
COLORS = {"error": "31", "warning": "33"}  # of terminals: red, yellow


def main(register_datasets, load_experiment, arguments: list[str] | None = None):
    """Checks the datasets that are named on the command line, or those of a config.

    Args:
        register_datasets, load_experiment: the project's functions.
    """
    parser = argparse.ArgumentParser(
        description="Looks for mistakes in datasets: in images, boxes, masks, keypoints, classes"
        " and label maps.",
        epilog="The exit status is 0 if there are no errors, 1 if there are, 2 for wrong usage.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="datasets, as registered")
    parser.add_argument(
        "--config-file", help="checks against its model too; without NAME: its datasets"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument(
        "--annotations-only", action="store_true", help="do not read the images; much faster"
    )
    parser.add_argument(
        "--fix", metavar="FOLDER", help="write mended copies there, as COCO's JSON, and all changes"
    )
    args = parser.parse_args(arguments)
    if not args.names and not args.config_file:
        parser.error("name a dataset, or give a --config-file")
    try:
        register_datasets()
        experiment = load_experiment(args.config_file) if args.config_file else None
        names = args.names or (*experiment.train_names, *experiment.test_names)
        names = list(dict.fromkeys(names))
        for name in names:
            check_registered(name)
    except (KeyError, ValueError) as error:
        parser.error(str(error.args[0]))
    if args.fix:
        for name in names:
            print(write_fixed(name, Path(args.fix)))
        return
    report = check(names, experiment, with_images=not args.annotations_only, track=track)
    found = [*report["findings"], *(f for d in report["datasets"].values() for f in d["findings"])]
    errors = sum(finding["severity"] == ERROR for finding in found)
    if args.json:
        print(json.dumps(report))
    else:
        print_report(report)
        warnings = len(found) - errors
        counted = f"{numbered(errors, 'error')}, {numbered(warnings, 'warning')}"
        print(counted if found else "Nothing wrong was found.")
    sys.exit(1 if errors else 0)


def track(iterable, total, name):
    """Shows a progress bar on stderr."""
    return tqdm(iterable, desc=name, total=total, unit="image")


def print_report(report: dict):
    """Prints the report of `check` in words."""
    for name, dataset in report["datasets"].items():
        crowds = f", {dataset['crowds']:,} of them crowds" * bool(dataset["crowds"])
        heading = f"{name}: {numbered(dataset['images'], 'image')}, "
        heading += f"{numbered(dataset['annotations'], 'annotation')}{crowds}"
        print(f"{heading}\n{'=' * len(heading)}\n")
        print_classes(dataset)
        print_sizes(dataset, report.get("model"))
        print_findings(dataset["findings"])
    if report["findings"]:
        print("Between datasets\n================\n")
        print_findings(report["findings"])


def print_classes(dataset: dict):
    """Prints a table: class, objects, images, share; the most frequent ones first."""
    objects, images = dataset["classes"], dataset["images_with_class"]
    names = sorted(images, key=lambda name: (-objects.get(name, 0), -images[name]))
    total = sum(objects.values())
    left_out = len(names) - 2 * CLASSES
    if names:
        print(f"{'class':<40}{'objects':>12}{'images':>12}{'share':>9}")
    for i, name in enumerate(names):
        if left_out > 0 and i == CLASSES:
            print(f"... {left_out:,} classes in between ...")
        if left_out <= 0 or not CLASSES <= i < len(names) - CLASSES:
            is_thing = name in objects  # else it is a class of label maps
            count = f"{objects[name]:,}" if is_thing else "pixels"
            share = f"{100 * objects[name] / max(total, 1):>8.1f}%" if is_thing else ""
            print(f"{str(name)[:39]:<40}{count:>12}{images[name]:>12,}{share}")
    print()


def print_sizes(dataset: dict, model: dict | None):
    """Prints bars of the numbers of objects by size; with a model, where its anchors are."""
    sizes = dataset["object_sizes"]
    if not sizes:
        return
    where = "as the model gets them" if model else "of the file"
    print(f"size of objects (square root of the box's area, in pixels {where})")
    for name, count in sizes.items():
        low, high = map(float, name.split("-"))
        anchors = [a for a in (model or {}).get("anchors", ()) if low <= a < high]
        mark = f"  anchors {', '.join(f'{a:g}' for a in anchors)}" if anchors else ""
        bar = "#" * math.ceil(40 * count / max(sizes.values()))
        print(f"{name:>12}{count:>12,} {bar:<40}{mark}".rstrip())
    if small := dataset.get("coco_small"):
        resized = f", {100 * small[1]:.0f} % once images are resized" if model else ""
        print(f"small for COCO (under 32 x 32 pixels): {100 * small[0]:.0f} %{resized}")
    print()


def print_findings(findings: list[dict]):
    """Prints findings: how many, examples, the effect, the remedy."""
    for finding in findings:
        severity = finding["severity"]
        label = severity.upper()
        if sys.stdout.isatty():
            label = f"\033[{COLORS[severity]}m{label}\033[0m"
        print(f"{label} {finding['check']}: {Findings().headline(finding)}")
        for example in finding["examples"]:
            print(wrapped(f"- {example}"))
        print(wrapped(f"Effect: {finding['effect']}"))
        print(wrapped(f"Fix: {finding['fix']}"), end="\n\n")


def wrapped(text: str) -> str:
    """Returns a paragraph of the report, in lines of its width."""
    # Names of files stay whole: they are copied.
    indents = {"initial_indent": "  ", "subsequent_indent": "    "}
    return textwrap.fill(text, WIDTH, **indents, break_long_words=False, break_on_hyphens=False)


def numbered(count: int, noun: str) -> str:
    """Returns a number with its noun, such as 2 images."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
