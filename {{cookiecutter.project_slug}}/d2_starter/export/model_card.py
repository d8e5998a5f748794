"""A model card (Mitchell et al., 2019) of a run, in Markdown; what nobody can know is left open."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from detectron2.data import DatasetCatalog

from ..run.opening import OpenedRun
from .about import commit, last_metrics, preprocessing, project_facts

OPEN = "_To be filled in: {}_"
MAIN = ("AP", "AP50", "AP75", "PQ", "mIoU", "SQ", "RQ")


def model_card(run: OpenedRun, load_experiment: Callable) -> str:
    """Returns the card; with intervals if the report has written the run's intervals.json."""
    facts = project_facts(load_experiment)
    metrics = last_metrics(run)
    intervals = json.loads(run.text("intervals.json") or "{}")
    classes = run.metadata.get("thing_classes") or run.metadata.get("stuff_classes") or []
    model = type(run.experiment.build_model()).__name__
    lines = [
        f"# {facts.get('project', 'Model')}: {run.path.stem}",
        "",
        f"A {model} of detectron2 that finds {len(classes)} classes: {', '.join(classes)}.",
        "",
        "| | |",
        "|---|---|",
        f"| weights | `{Path(run.weights).name}` |",
        f"| commit | {commit(run)} |",
        f"| licence | {facts.get('licence', 'none was given')} |",
        *(f"| {k.replace('_', ' ')} | {v} |" for k, v in _preprocessing(run).items()),
        "",
        "## Intended use",
        "",
        OPEN.format("what it is for, who uses it, and what it must not be used for"),
        "",
        "## Metrics",
        "",
        f"On {', '.join(run.experiment.test_names) or 'no test set'}, by COCO's evaluation where "
        "it applies.",
        "",
        *_metrics(metrics, intervals),
        "",
        "## Data",
        "",
        *_datasets(run),
        OPEN.format(
            "where the images come from, who annotated them, their licence, what they lack"
        ),
        "",
        "## Limits",
        "",
        OPEN.format(
            "conditions in which it was seen to fail; groups or places it was not tried on"
        ),
        "",
        "## Environment",
        "",
        "```",
        (run.text("environment.txt") or "not recorded").strip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _preprocessing(run):
    return preprocessing(run.experiment.build_mapper(is_train=False))


def _metrics(metrics, intervals):
    rows = []
    for name, value in metrics.items():
        main = name.rpartition("/")[2]
        if main in MAIN or main.startswith("AP-"):
            low, high = intervals.get(name, (None, None))
            between = f"{low:.1f} to {high:.1f}" if low is not None else ""
            rows.append(f"| {name} | {value:.2f} | {between} |")
    if not rows:
        return [OPEN.format("the run was not evaluated")]
    return ["| metric | value | 95 % interval |", "|---|---:|---|", *rows]


def _datasets(run):
    lines = []
    for use, names in (
        ("Training", run.experiment.train_names),
        ("Test", run.experiment.test_names),
    ):
        for name in names:
            try:
                records = DatasetCatalog.get(name)
            except OSError:
                lines.append(f"{use}: {name}; its files were not there when this card was made.")
                continue
            counts = Counter(a["category_id"] for r in records for a in r.get("annotations", ()))
            known = run.metadata.get("thing_classes") or []
            each = ", ".join(f"{n} {counts[i]}" for i, n in enumerate(known))
            objects = f", {sum(counts.values())} objects ({each})" if counts else ""
            lines.append(f"{use}: {name}, {len(records)} images{objects}.")
    return [text for line in lines for text in (line, "")]
