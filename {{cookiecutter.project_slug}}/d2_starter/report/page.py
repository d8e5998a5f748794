"""The report: one HTML page of a run, which needs no network, no model and no dataset."""

import argparse
import json
import sys
from html import escape
from pathlib import Path

from detectron2.config import get_cfg

from ..files.atomic import write_json
from .collect import Run, flatten, open_run
from .errors import operating_points
from .sections import TEXTS, SetReport, details, grid, page, paragraph, section, table
from .statistics import interval
from .svg import Images, line_chart


def _curves(run: Run) -> str:
    keys = list(dict.fromkeys(k for line in run.lines for k in line))
    losses = {
        name: run.curve(k)
        for name, k in (("training", "total_loss"), ("validation", "val_loss/total_loss"))
    }
    parts = {
        k: run.curve(k) for k in keys if k.startswith("loss_") or k.startswith("val_loss/loss_")
    }
    metrics = {
        k: run.curve(k) for k in keys if k.rpartition("/")[2] in ("AP", "AP50", "mIoU", "PQ")
    }
    rate = {"learning rate": run.curve("lr")}
    charts = [
        line_chart("Loss", losses, "epoch", "loss"),
        line_chart("Metrics on the test set", metrics, "epoch", "percent", (0, 100)),
    ]
    more = [
        line_chart("Parts of the loss", parts, "epoch", "loss"),
        line_chart("Learning rate", rate, "epoch", "learning rate"),
    ]
    return grid(charts) + details("Parts of the loss, learning rate", grid(more))


def _what_ran(run: Run, test_sets) -> str:
    facts = dict(run.facts)
    for s in test_sets:
        facts[f"Test set {s.name}"] = (
            f"{len(s.truth['images']):,} images, {len(s.truth['annotations']):,} annotations, "
            f"fingerprint {s.fingerprint}"
        )
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    base = flatten(get_cfg())
    as_text = lambda value: json.dumps(value, default=str)  # noqa: E731
    changed = [
        [
            f"<code>{escape(k)}</code>",
            escape(as_text(v)),
            escape(as_text(base[k])) if k in base else "its own key",
        ]
        for k, v in run.config.items()
        if k not in base or as_text(base[k]) != as_text(v)
    ]
    title = f"Config: {len(changed)} keys that are not as in detectron2"
    return (
        f"<dl>{rows}</dl>"
        + details(title, changed and table(["Key", "This run", "detectron2"], changed))
        + details("Uncommitted changes", _code(run.diff))
        + details("Environment", _code(run.environment))
    )


def _code(text):
    return f'<pre tabindex="0">{escape(text)}</pre>' if text.strip() else ""


def render(run: Run, most_images: int = 60, suspects: int = 50) -> str:
    """Returns the page of a run.

    Args:
        most_images: that are embedded; each takes about 40 kB.
        suspects: number of annotations that are shown as possibly wrong, at most.
    """
    images = Images(most_images)
    parts = []
    for number, test_set in enumerate(run.test_sets):
        of_set = SetReport(test_set, images, suspects)
        name = f" on {escape(test_set.name)}" if len(run.test_sets) > 1 else ""
        # The pictures that are needed most come first: their number is limited.
        found = {
            "results": ("Results", of_set.headline(), _reading(test_set)),
            "classes": ("Classes", of_set.classes()),
            "suspects": ("Suspected label errors", of_set.suspect_list()),
            "images": ("Images", of_set.pictures()),
            "confusion": ("Confusion matrix", of_set.confusion()),
            "errors": ("What the AP is lost to", of_set.error_kinds()),
        }
        for key in ("results", "classes", "confusion", "errors", "images", "suspects"):
            title, *content = found[key]
            parts.append(section(f"set{number}-{key}" if number else key, title + name, *content))
    parts.insert(1, section("curves", "Curves", _curves(run)))
    gone = f"{images.missing} image files are gone; their pictures have shapes alone."
    parts += [
        section("run", "What ran", _what_ran(run, run.test_sets)),
        section("notes", "Notes", _notes(run), paragraph(gone) if images.missing else ""),
    ]
    return page(f"Report: {run.name}", parts, images)


def _reading(test_set):
    number = len(test_set.truth["images"])
    return paragraph(f"On {number:,} images of {escape(test_set.name)}. {TEXTS['results']}")


def _notes(run):
    files = [
        s.folder / "sem_seg_per_image.json"
        for s in run.test_sets
        if any(k.startswith("sem_seg/") for k in s.metrics)
    ]
    text = ""
    if not any(s.tasks for s in run.test_sets):
        text = "Confusion by object, errors, pictures and suspects need predicted objects. "
    if any(not f.exists() for f in files):
        text += "The mIoU has no interval: the evaluation wrote no numbers by image."
    return paragraph(text) if text else ""


def write_report(
    run_dir: str | Path, load_experiment=None, output: str | Path | None = None, **options
) -> Path:
    """Writes the page of a run, report.html in its directory; returns its path.

    Beside the page of the directory, thresholds.json has the best threshold of each class, and
    intervals.json the intervals of metrics, for `Predictor` and model cards.
    """
    run = open_run(run_dir, load_experiment)
    path = Path(output or run.path / "report.html")
    path.write_text(render(run, **options), encoding="utf-8")
    for name, content in (("thresholds", _thresholds(run)), ("intervals", _intervals(run))):
        write_json(run.path / f"{name}.json", content)
    return path


def _thresholds(run):
    matches = next((m for s in run.test_sets for m in s.matches.values()), None)
    found = zip(matches.classes, operating_points(matches)) if matches else ()
    return {name: p["threshold"] for name, p in found if p["threshold"] is not None}


def _intervals(run):
    several = len(run.test_sets) > 1
    return {
        f"{s.name}/{key}" if several else key: interval(value, draws, len(s.truth["images"]))
        for s in run.test_sets
        for key, (value, draws) in s.draws.items()
        if "-" not in key.rpartition("/")[2]  # a class
    }


def main(load_experiment):
    """Runs the command line of tools/report.py."""
    parser = argparse.ArgumentParser(description="Writes an HTML report of a run directory.")
    parser.add_argument("run", type=Path, help="the run directory, such as output/smoke")
    parser.add_argument("--output", type=Path, help="default: report.html in the run directory")
    parser.add_argument("--images", type=int, default=60, help="embedded at most; default: 60")
    parser.add_argument("--suspects", type=int, default=50, help="shown at most; default: 50")
    args = parser.parse_args()
    try:
        path = write_report(
            args.run, load_experiment, args.output, most_images=args.images, suspects=args.suspects
        )
    except FileNotFoundError as error:
        sys.exit(f"report: {error}")
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser")
