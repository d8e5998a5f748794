"""Comparison of runs: which differences are more than noise, as Markdown, LaTeX or HTML."""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from .collect import Run, open_run
from .errors import rate_images
from .sections import TEXTS, SetReport, page, paragraph, section, table
from .statistics import interval
from .svg import Images, line_chart

# Keys in which runs of one experiment may differ.
SEEDS = ("SEED", "train.seed", "OUTPUT_DIR", "train.output_dir", "DATALOADER.RANDOM_SUBSET_SEED")
NOTE = "* the 95 % interval of the difference does not hold 0; ±: standard deviation over seeds."
NOISE_DRAWS = 0  # the seed of the draws of the spread over seeds


@dataclass
class Group:
    """Runs whose configs differ by seeds alone."""

    name: str
    runs: list[Run]

    def values(self, dataset: str, metric: str) -> np.ndarray:
        return np.array([_set(run, dataset).draws[metric][0] for run in self.runs])

    def draws(self, dataset: str, metric: str) -> np.ndarray:
        """Returns the mean over the runs for each draw of images."""
        return np.mean([_set(run, dataset).draws[metric][1] for run in self.runs], axis=0)

    def curve(self, key: str) -> list[tuple[float, float]]:
        """Returns the mean over the runs, by epoch, as far as all have come."""
        by_epoch = {}
        for x, y in (point for run in self.runs for point in run.curve(key)):
            by_epoch.setdefault(round(x, 4), []).append(y)
        points = sorted(by_epoch.items())
        return [(x, float(np.mean(ys))) for x, ys in points if len(ys) == len(self.runs)]


@dataclass
class Difference:
    """Of a metric, between two groups on the same images."""

    metric: str
    first: float
    second: float
    ends: tuple[float, float] | None

    @property
    def is_shown(self) -> bool:
        return self.ends is not None and bool(self.ends[0] > 0 or self.ends[1] < 0)

    def in_words(self, first: str, second: str) -> str:
        difference = self.second - self.first
        if self.ends is None:
            return f"{self.metric}: no interval."
        low, high = self.ends
        if not self.is_shown:
            return (
                f"{self.metric}: a difference is not shown. {second} minus {first} is "
                f"{difference:+.1f}, 95 % interval {low:+.1f} to {high:+.1f}."
            )
        better, sign = (second, 1) if difference > 0 else (first, -1)
        low, high = sorted((sign * low, sign * high))
        return (
            f"{self.metric}: {better} is better by {abs(difference):.1f}, "
            f"95 % interval {low:.1f} to {high:.1f}."
        )


def _set(run, dataset):
    return next(s for s in run.test_sets if s.name == dataset)


def check_same_data(runs: list[Run]) -> list[str]:
    """Returns the names of the test sets that all runs were evaluated on.

    Raises:
        ValueError: there is none, or the same name stands for different images or annotations.
    """
    names = [{s.name for s in run.test_sets} for run in runs]
    shared = sorted(set.intersection(*names))
    if not shared:
        listed = "; ".join(f"{run.path}: {', '.join(sorted(n))}" for run, n in zip(runs, names))
        raise ValueError(f"the runs were evaluated on different test sets. {listed}.")
    for name in shared:
        prints = {run.path: _set(run, name).fingerprint for run in runs}
        if len(set(prints.values())) > 1:
            listed = "; ".join(
                f"{path}: {fingerprint}, {len(_set(run, name).truth['images'])} images, "
                f"{len(_set(run, name).truth['annotations'])} annotations"
                for run, (path, fingerprint) in zip(runs, prints.items())
            )
            raise ValueError(
                f"the test set '{name}' is not the same in all runs: {listed}. Numbers on "
                "different images or annotations cannot be compared. Evaluate the older run again, "
                "with --eval-only."
            )
    return shared


def group(runs: list[Run]) -> list[Group]:
    """Puts runs together that differ by seeds alone, in the order given."""
    groups = {}
    for run in runs:
        config = {k: v for k, v in run.config.items() if k not in SEEDS}
        key = json.dumps(config, sort_keys=True, default=str) if config else str(run.path)
        groups.setdefault(key, []).append(run)
    firsts = [found[0].name for found in groups.values()]
    shared = [os.path.commonprefix([r.name for r in g]).rstrip("_-. ") for g in groups.values()]
    names = shared if all(shared) and len(set(shared)) == len(shared) else firsts
    return [
        Group(name if len(found) == 1 else f"{name} ({len(found)} runs)", found)
        for name, found in zip(names, groups.values())
    ]


def differ(first: Group, second: Group, dataset: str, metric: str) -> Difference:
    """Compares two groups: a paired bootstrap over images and, with several runs, over seeds too.

    The draws of images are the same for both, so that what is difficult for both cancels. With
    several runs in both groups, Welch's t distribution for the spread over seeds is added. With one
    run, the spread over seeds is not known, and not in the interval.
    """
    values = first.values(dataset, metric), second.values(dataset, metric)
    draws = second.draws(dataset, metric) - first.draws(dataset, metric)
    draws = draws[np.isfinite(draws)]
    errors = [v.var(ddof=1) / len(v) if len(v) > 1 else 0.0 for v in values]
    if all(len(v) > 1 for v in values) and sum(errors) > 0:
        freedom = sum(errors) ** 2 / sum(e**2 / (len(v) - 1) for e, v in zip(errors, values))
        noise = np.random.default_rng(NOISE_DRAWS).standard_t(freedom, (100, len(draws)))
        spread = (draws - draws.mean() + noise * np.sqrt(sum(errors))).ravel()
        low, high = np.quantile(spread, [0.025, 0.975])
        value = float(values[1].mean() - values[0].mean())
        return Difference(metric, values[0].mean(), values[1].mean(), (value + low, value + high))
    value = float(values[1].mean() - values[0].mean())
    images = len(_set(first.runs[0], dataset).truth["images"])
    return Difference(metric, values[0].mean(), values[1].mean(), interval(value, draws, images))


class Comparison:
    """Compares runs with the first of them.

    Raises:
        ValueError: see `check_same_data`.
    """

    def __init__(self, runs: list[Run]):
        self.runs, self.datasets = runs, check_same_data(runs)
        self.groups = group(runs)

    def metrics(self, dataset: str, with_classes: bool = True) -> list[str]:
        """Returns the metrics that all runs have, in total first."""
        common = [set(_set(run, dataset).draws) for run in self.runs]
        names = [m for m in _set(self.runs[0], dataset).draws if all(m in c for c in common)]
        totals = [m for m in names if "-" not in m]
        return totals + [m for m in names if "-" in m] * with_classes

    def rows(self, dataset: str) -> tuple[list[str], list[list[str]]]:
        """Returns the head and the rows of the table of a test set."""
        first, *others = self.groups
        head = ["Metric", *(g.name for g in self.groups)]
        head += [f"{g.name} minus {first.name}" for g in others]
        rows = []
        for metric in self.metrics(dataset):
            row = [metric]
            for g in self.groups:
                values = g.values(dataset, metric)
                spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
                row.append(f"{values.mean():.1f}{spread}")
            for g in others:
                d = differ(first, g, dataset, metric)
                ends = "" if d.ends is None else f" ({d.ends[0]:+.1f} to {d.ends[1]:+.1f})"
                row.append(f"{d.second - d.first:+.1f}{ends}{' *' * d.is_shown}")
            rows.append(row)
        return head, rows

    def sentences(self, dataset: str) -> list[str]:
        """Returns what is shown and what is not, for the metrics in total."""
        first, *others = self.groups
        said = []
        for g in others:
            for metric in self.metrics(dataset, with_classes=False):
                said.append(differ(first, g, dataset, metric).in_words(first.name, g.name))
            if min(len(first.runs), len(g.runs)) == 1:
                said.append(
                    "One run of a config: what another seed would give is not in the interval. "
                    "Train each with three seeds or more before you conclude."
                )
        for g in self.groups:
            if len(g.runs) > 1:
                metric = self.metrics(dataset, False)[0]
                values = g.values(dataset, metric)
                said.append(
                    f"{g.name}: {len(values)} seeds, {metric} {values.mean():.1f} ± "
                    f"{values.std(ddof=1):.1f}, from {values.min():.1f} to {values.max():.1f}."
                )
        return list(dict.fromkeys(said))

    def config_differences(self) -> list[list[str]]:
        """Returns rows of keys that are not the same in all groups."""
        configs = [g.runs[0].config for g in self.groups]
        keys = dict.fromkeys(key for config in configs for key in config)
        texts = [
            [k, *(json.dumps(c.get(k), default=str) for c in configs)]
            for k in keys
            if k not in SEEDS
        ]
        return [row for row in texts if len(set(row[1:])) > 1]

    def markdown(self) -> str:
        parts = []
        for dataset in self.datasets:
            head, rows = self.rows(dataset)
            lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
            parts += [f"### {dataset}", "\n".join(f"- {s}" for s in self.sentences(dataset))]
            parts += ["\n".join("| " + " | ".join(line) + " |" for line in lines)]
        differences = self.config_differences()
        if differences:
            head = ["Key", *(g.name for g in self.groups)]
            lines = [head, ["---"] * len(head), *differences]
            parts += ["### Config", "\n".join("| " + " | ".join(line) + " |" for line in lines)]
        parts.append(f"\\{NOTE}")
        return "\n\n".join(part for part in parts if part) + "\n"

    def latex(self) -> str:
        """Returns tables for the booktabs package."""
        parts = []
        for dataset in self.datasets:
            head, rows = self.rows(dataset)
            lines = [" & ".join(map(_tex, line)) + r" \\" for line in (head, *rows)]
            body = "\n".join([r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
            columns = "l" + "r" * (len(head) - 1)
            start, end = r"\begin{tabular}{" + columns + "}", r"\end{tabular}"
            parts.append("\n".join([f"% {dataset}", start, body, end]))
        return "\n\n".join(parts) + "\n"

    def html(self, most_images: int = 24) -> str:
        images, parts = Images(most_images), []
        for number, dataset in enumerate(self.datasets):
            head, rows = self.rows(dataset)
            said = "".join(f"<li>{escape(s)}</li>" for s in self.sentences(dataset))
            cells = [[escape(c).replace(" ", "&nbsp;") for c in row] for row in rows]
            parts.append(
                section(
                    f"set{number}",
                    f"Results on {escape(dataset)}",
                    f"<ul>{said}</ul>",
                    table(list(map(escape, head)), cells, NOTE),
                )
            )
            parts.append(
                section(
                    f"images{number}",
                    f"Images of {escape(dataset)} where they differ most",
                    self._images(dataset, images),
                )
            )
        keys = [
            "total_loss",
            "val_loss/total_loss",
            *self.metrics(self.datasets[0], with_classes=False),
        ]
        charts = "".join(
            line_chart(k, {g.name: g.curve(k) for g in self.groups}, "epoch", k) for k in keys
        )
        parts.insert(1, section("curves", "Curves", f'<div class="charts">{charts}</div>'))
        differences = [
            [f"<code>{escape(r[0])}</code>", *map(escape, r[1:])] for r in self.config_differences()
        ]
        head = ["Key", *(escape(g.name) for g in self.groups)]
        parts.append(
            section(
                "config",
                "Config",
                table(head, differences) if differences else "<p>They differ by seeds alone.</p>",
            )
        )
        title = "Comparison: " + ", ".join(g.name for g in self.groups)
        return page(title, parts, images)

    def _images(self, dataset, images, number=6):
        """The images in which the first runs of two groups differ most in right predictions."""
        if len(self.groups) < 2 or not _set(self.runs[0], dataset).matches:
            return ""
        reports = [SetReport(_set(g.runs[0], dataset), images, 0) for g in self.groups[:2]]
        counts = [rate_images(r.main, r.found) for r in reports]
        errors = [c[:, 1] + c[:, 2] for c in counts]
        order = np.argsort(-np.abs(errors[0] - errors[1]), kind="stable")[:number]
        parts = []
        for index in (int(i) for i in order if errors[0][i] != errors[1][i]):
            for g, report in zip(self.groups, reports):
                parts.append(f"<div><h3>{escape(g.runs[0].name)}</h3>{report.figure(index)}</div>")
        return paragraph(TEXTS["images"]) + f'<div class="pairs">{"".join(parts)}</div>'


def _tex(text):
    for character in "\\&%$#_{}":
        text = text.replace(
            character, rf"\{character}" if character != "\\" else r"\textbackslash "
        )
    return text.replace("±", r"$\pm$").replace(" *", r"$^{*}$")


def main(load_experiment):
    """Runs the command line of tools/compare.py."""
    parser = argparse.ArgumentParser(
        description="Compares runs on the same test set, the others with the first. Runs that "
        "differ by seeds alone are one group."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--latex", action="store_true", help="tables for LaTeX instead of Markdown")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with curves and images too"
    )
    args = parser.parse_args()
    try:
        comparison = Comparison([open_run(path, load_experiment) for path in args.runs])
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"compare: {error}")
    print(comparison.latex() if args.latex else comparison.markdown())
    if args.html:
        args.html.write_text(comparison.html(), encoding="utf-8")
        print(f"{args.html}: open it in a browser")
