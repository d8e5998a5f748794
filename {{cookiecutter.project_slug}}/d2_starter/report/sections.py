"""The sections of a report on one test set, as HTML."""

import json
import re
from collections import Counter
from html import escape
from pathlib import Path
from string import Template

import cv2
import numpy as np
from pycocotools import mask as mask_util

from ..evaluation import matcher
from . import errors
from .collect import TASKS, TestSet, size_of
from .matching import Matches
from .statistics import interval
from .svg import Images, line_chart, picture

MOST_CLASSES = 20  # in the confusion matrix and the plots: those with most errors, or most objects
TEXTS = {
    "results": """The metrics are computed anew from the results file. The interval is from a
        bootstrap over these images: 95 of 100 intervals made in this way hold the mean of test sets
        of this size. What another seed of the training would give is not in it.""",
    "classes": """The best threshold is the score with the highest F1 at IoU 0.5; precision and
        recall are those at this threshold.""",
    "confusion": """Rows are what is annotated, columns what is predicted, at each class's best
        threshold and IoU 0.5. Darker is a larger share of the row. The last row is predictions
        where nothing is annotated. A number leads to its images.""",
    "errors": """Errors at each class's best threshold. AP50 lost is how much the AP at IoU 0.5
        would rise if this kind of error alone were mended (TIDE; Bolya et al., 2020); there,
        predictions of all scores count.""",
    "images": """First the annotations, then the predictions above the best threshold.
        <span class="key"><i class="k-right"></i>right</span>
        <span class="key"><i class="k-wrong"></i>wrong</span>
        <span class="key"><i class="k-missed"></i>not found</span>""",
    "suspects": """Where the model contradicts an annotation with confidence, most doubtful first.
        Look, tick what is really wrong, and download the fixes. A training with
        <code>DATASETS.FIXES</code> (in Python configs <code>dataloader.fixes</code>) applies them;
        the annotation files stay as they are. Other annotations are green. A model has learned the
        errors in the images that it was trained on: suspects are better in others.""",
}
SUSPECT_TITLES = {
    "class": "Another class?",
    "missing": "Not annotated?",
    "box": "Badly drawn?",
    "extra": "Nothing there?",
}


def bounds(value: float, ends: tuple[float, float] | None) -> str:
    """Returns a metric with its interval, in words for a table's cell."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.1f} {_ends(ends)}"


def _ends(ends, before=""):
    if ends is None:
        return ""
    return f'<span class="ci">{before}{max(ends[0], 0):.1f} to {min(ends[1], 100):.1f}</span>'


def table(head: list[str], rows: list[list[str]], caption: str = "") -> str:
    """Returns an HTML table that scrolls by itself; a row's first cell is its header."""
    caption = f"<caption>{caption}</caption>" if caption else ""
    headers = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="Table: {head[0]}, {head[-1]}">'
        f"<table>{caption}"
        f"<thead><tr>{headers}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def page(title: str, parts: list[str], images: Images) -> str:
    """Returns the page of sections, with links to them."""
    main = "\n".join(parts)
    links = re.findall(r'<section id="([^"]+)"><h2>(.*?)</h2>', main)
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    nav = "".join(f'<a href="#{key}">{name}</a>' for key, name in links)
    return template.substitute(title=escape(title), nav=nav, images=images, main=main)


def section(key: str, title: str, *parts: str) -> str:
    """Returns a section of the page; nothing without content."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{key}"><h2>{title}</h2>\n{body}</section>' if body else ""


def grid(parts: list[str]) -> str:
    """Returns charts side by side."""
    return f'<div class="charts">{"".join(parts)}</div>'


def paragraph(text: str) -> str:
    """Returns a paragraph of HTML."""
    return f"<p>{text}</p>"


def details(summary: str, body: str) -> str:
    """Returns a part of the page that opens on demand; nothing without content."""
    return f"<details><summary>{summary}</summary>{body}</details>" if body else ""


class SetReport:
    """The sections on one test set and one task."""

    def __init__(self, test_set: TestSet, images: Images, suspects: int):
        self.set, self.images = test_set, images
        self.matches = test_set.matches
        if self.matches:
            # Errors and suspects are of boxes where there are some: the other tasks share them.
            self.task = next(iter(self.matches))
            self.main: Matches = self.matches[self.task]
            self.points = errors.operating_points(self.main)
            self.found = errors.outcomes(self.main, [p["threshold"] for p in self.points])
            self.suspects = errors.find_suspects(self.main, suspects)
            self.by_image = {}
            for outcome in self.found:
                self.by_image.setdefault(outcome.image, []).append(outcome)

    def headline(self) -> str:
        """Returns the main metrics in large, each with its interval."""
        number = len(self.set.truth["images"])
        cards = [
            f'<div class="card"><span>{TASKS.get(task, "AP").replace("AP", name)}</span>'
            f"<b>{value:.1f}</b>{_ends(interval(value, draws, number), '95 %: ')}</div>"
            for key, (value, draws) in self.set.draws.items()
            for task, name in [key.split("/", 1)]
            if name in ("AP", "AP50", "mIoU", "PQ")
        ]
        warning = self._differs()
        return f'<div class="cards">{"".join(cards)}</div>{warning}'

    def _differs(self):
        rows = [
            f"{key}: {value:.3f} here, {self.set.metrics[key]:.3f} logged"
            for key, (value, _) in self.set.draws.items()
            if key in self.set.metrics and abs(value - self.set.metrics[key]) > 0.01
        ]
        if not rows:
            return ""
        return paragraph(
            '<strong class="warn">Not the results of the last logged evaluation:</strong> '
            f"{escape('; '.join(rows[:3]))}. Was another checkpoint evaluated since?"
        )

    def classes(self) -> str:
        """Returns the table of classes and the precision-recall curves."""
        rows, curves = [], {}
        names = self.main.classes if self.matches else []
        objects = self.main.objects if self.matches else None
        for k, name in enumerate(names):
            point, has = self.points[k], int((objects[:, k] > 0).sum())
            cells = [escape(name), f"{objects[:, k].sum():,}", f"{has:,}"]
            for task in self.matches:
                value, draws = self.set.draws.get(f"{task}/AP-{name}", (np.nan, None))
                cells.append(bounds(value, None if draws is None else interval(value, draws, has)))
            number = "–" if point["threshold"] is None else f"{point['threshold']:.2f}"
            cells.append(number)
            cells += [
                "–" if point[x] is None else f"{100 * point[x]:.0f} %"
                for x in ("precision", "recall")
            ]
            rows.append(cells)
            if point["curve"]:
                curves[name] = point["curve"]
        shown = sorted(curves, key=lambda n: -objects[:, names.index(n)].sum())[:8]
        head = ["Class", "Objects", "Images", *(TASKS[t] for t in self.matches)]
        head += ["Best threshold", "Precision", "Recall"]
        parts = []
        if rows:
            rows.sort(key=lambda row: -int(row[1].replace(",", "")))
            parts = [
                paragraph(TEXTS["classes"]),
                table(head, rows),
                line_chart(
                    "Precision by recall, IoU 0.5" + ", 8 frequent classes" * (len(curves) > 8),
                    {n: curves[n] for n in shown},
                    "recall",
                    "precision",
                    (0, 1),
                ),
            ]
        for prefix, title in (("sem_seg/IoU-", "IoU"), ("panoptic_seg/PQ-", "PQ")):
            metrics = {k: (v, None) for k, v in self.set.metrics.items()} | self.set.draws
            number = len(self.set.truth["images"])
            rows = [
                [
                    escape(k.removeprefix(prefix)),
                    bounds(v, None if d is None else interval(v, d, number)),
                ]
                for k, (v, d) in metrics.items()
                if k.startswith(prefix)
            ]
            parts.append(table(["Class", title], rows) if rows else "")
        return "".join(parts)

    def confusion(self) -> str:
        """Returns the confusion matrix, and the images behind its cells."""
        if not self.matches:
            return ""
        counts, images = errors.confusion(self.main, self.found)
        names, last = self.main.classes, len(self.main.classes)
        wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
        chosen = sorted(np.argsort(-wrong[:last], kind="stable")[:MOST_CLASSES].tolist())
        left_out = last - len(chosen)
        rows, cells = [], Counter()
        for r in [*chosen, last]:
            row = [escape(names[r]) if r < last else "<em>background</em>"]
            for c in [*chosen, last]:
                number, share = counts[r, c], counts[r, c] / max(counts[r].sum(), 1)
                kind = "good" if r == c else "bad"
                text = f"{number:,}" if number else "·"
                if r == c == last:
                    text = ""
                elif number and r != c:
                    cells[r, c] = number
                    text = f'<a href="#cell-{r}-{c}">{text}</a>'
                row.append(f'<span class="cell {kind}" style="--share:{share:.3f}">{text}</span>')
            rows.append(row)
        head = ["Annotated", *(escape(names[c]) for c in chosen), "<em>not found</em>"]
        pictures = "".join(self._cell(r, c, images[r, c]) for (r, c), _ in cells.most_common(60))
        return (
            paragraph(TEXTS["confusion"])
            + bool(left_out) * paragraph(f"{left_out} classes with fewer errors are left out.")
            + table(head, rows).replace("<table>", '<table class="confusion">')
            + details("Images behind the numbers", pictures)
            + "".join(f'<span id="cell-{r}-{c}"></span>' for (r, c), _ in cells.most_common()[60:])
        )

    def _cell(self, row, column, images):
        names = [*map(escape, self.main.classes), "background"]
        title = f"{names[row]} predicted as {names[column]}"
        if row == len(names) - 1:
            title = f"{names[column]} predicted, nothing annotated"
        elif column == len(names) - 1:
            title = f"{names[row]} not found"
        ranked = [i for i, _ in Counter(images).most_common()]
        links = ", ".join(self._link(i) for i in ranked[:40])
        more = f" and {len(ranked) - 40} more" if len(ranked) > 40 else ""
        first = ranked[:2] if all(self.images.use(self.main.images[i]) for i in ranked[:2]) else []
        pictures = "".join(self.figure(i) for i in first)
        return (
            f'<details class="of-cell" id="cell-{row}-{column}"><summary>{title}: {len(images)} in '
            f"{len(ranked)} images"
            f'</summary><div class="pairs">{pictures}</div><p>{links}{more}</p></details>'
        )

    def _link(self, index):
        file = self.main.images[index].get("file_name", "")
        href = Path(file).resolve().as_uri() if file and Path(file).exists() else "#images"
        name = Path(file).name or str(self.main.images[index]["id"])
        return f'<a href="{escape(href)}">{escape(name)}</a>'

    def error_kinds(self) -> str:
        """Returns what the AP is lost to, and how it depends on the size of objects."""
        if not self.matches:
            return ""
        by_kind, by_size = Counter(), Counter()
        for o in self.found:
            item = (
                self.main.annotations[o.annotation]
                if o.annotation >= 0
                else self.main.detections[o.detection]
            )
            area = item.get("area") or item["bbox"][2] * item["bbox"][3]
            by_kind[o.kind] += 1
            by_size[o.kind, size_of(area)] += 1
        gains, calibration = _by_hotcoco(self.set, self.task)
        sizes = ("small", "medium", "large")
        rows = []
        for kind, meaning in errors.KINDS.items():
            rows.append(
                [
                    f"<b>{kind}</b>: {meaning}",
                    f"{by_kind[kind]:,}",
                    f"{gains[kind]:.1f}",
                    *(f"{by_size[kind, s]:,}" for s in sizes),
                ]
            )
        objects, right = Counter(), Counter()
        for g in np.flatnonzero(~self.main.crowd):
            objects[size_of(self.main.annotations[g].get("area", 0))] += 1
        right.update({s: by_size["right", s] for s in sizes})
        size_rows = []
        for s in sizes:
            ap = self.set.metrics.get(f"{self.task}/AP{s[0]}", np.nan)
            found = f"{100 * right[s] / objects[s]:.0f} %" if objects[s] else "–"
            size_rows.append([s, f"{objects[s]:,}", bounds(ap, None), found])
        return (
            paragraph(TEXTS["errors"])
            + table(["Error", "Number", "AP50 lost", *(f"{s}" for s in sizes)], rows)
            + table(
                ["Size of objects", "Objects", TASKS[self.task], "Found"],
                size_rows,
                "small: up to 32² pixels, medium: up to 96², large: above",
            )
            + _calibration(calibration)
        )

    def pictures(self, number: int = 6) -> str:
        """Returns the worst, the most confused and the best images."""
        if not self.matches:
            return ""
        counts = errors.rate_images(self.main, self.found)
        right, wrong, missed, confused = counts.T
        f1 = 2 * right / np.maximum(2 * right + wrong + missed, 1)
        has_any = counts.any(axis=1)
        orders = {
            "Worst": np.lexsort((-(wrong + missed), f1)),
            "Most confused": np.lexsort((f1, -confused)),
            "Best": np.lexsort((-right, -f1)),
        }
        keeps = {"Worst": wrong + missed > 0, "Most confused": confused > 0, "Best": right > 0}
        parts = [paragraph(TEXTS["images"])]
        for title, order in orders.items():
            chosen = [int(i) for i in order if keeps[title][i] and has_any[i]][:number]
            figures = "".join(self.figure(i) for i in chosen)
            parts.append(f'<h3>{title}</h3><div class="pairs">{figures}</div>' if figures else "")
        return "".join(parts)

    def figure(self, index: int) -> str:
        """Returns an image twice: with its annotations, and with its predictions."""
        image = self.main.images[index]
        names, true, found = self.main.classes, [], []
        tally = Counter()
        for o in self.by_image.get(index, ()):
            if o.annotation >= 0:
                name = names[self.main.truth_category[o.annotation]]
                is_right = o.kind == "right"
                item = self._annotation(o.annotation)
                true.append(("right" if is_right else "missed", name, item))
                tally["not found"] += not is_right
            if o.detection >= 0:
                name = names[self.main.category[o.detection]]
                is_right = o.kind == "right"
                text = f"{name} {self.main.score[o.detection]:.2f}"
                found.append(("right" if is_right else "wrong", text, self._detection(o.detection)))
                tally["right" if is_right else "wrong"] += 1
        about = (
            ", ".join(f"{tally[k]} {k}" for k in ("right", "wrong", "not found") if tally[k])
            or "nothing"
        )
        file = Path(str(image.get("file_name", image["id"]))).name
        return (
            f'<figure class="pair"><div>'
            f"{picture(self.images, image, true, f'{file}, annotations: {len(true)} objects')}"
            f"{picture(self.images, image, found, f'{file}, predictions: {about}')}</div>"
            f"<figcaption>{escape(file)}: {about}</figcaption></figure>"
        )

    def _annotation(self, index):
        annotation = self.main.annotations[index]
        if isinstance(annotation.get("segmentation"), dict):
            return annotation | {"segmentation": None}  # a crowd's
        return annotation

    def _detection(self, index):
        detection = self.main.detections[index]
        return detection | {"polygons": polygons(detection.get("segmentation"))}

    def suspect_list(self) -> str:
        """Returns the annotations that may be wrong, as pictures to tick."""
        if not self.matches or not self.suspects:
            return ""
        items = "".join(self._suspect(number, s) for number, s in enumerate(self.suspects))
        header = {
            "dataset": self.set.name,
            "classes": self.main.classes,
            "fingerprint": self.set.fingerprint,
        }
        return (
            paragraph(TEXTS["suspects"])
            + f'<form class="suspects" data-header="{escape(json.dumps(header))}">{items}'
            '<p class="bar"><button type="submit">Download fixes</button> '
            '<output aria-live="polite">nothing ticked</output></p></form>'
        )

    def _suspect(self, number, suspect):
        image, names = self.main.images[suspect.image], self.main.classes
        base = {"file_name": Path(image.get("file_name", "")).name, "image_id": image["id"]}
        shapes, said = [], []
        old = new = None
        if suspect.annotation >= 0:
            annotation = self.main.annotations[suspect.annotation]
            old = names[self.main.truth_category[suspect.annotation]]
            shapes.append(("missed", old, self._annotation(suspect.annotation)))
            said.append(("missed", f"annotated: {old}"))
            drop = base | {"action": "drop", "class": old, "bbox": _rounded(annotation["bbox"])}
        if suspect.detection >= 0:
            detection = self._detection(suspect.detection)
            new = names[self.main.category[suspect.detection]]
            shapes.append(("wrong", new, detection))
            said.append(("wrong", f"predicted: {new} {self.main.score[suspect.detection]:.2f}"))
            add = base | {"action": "add", "class": new, "bbox": _rounded(detection["bbox"])}
            if detection["polygons"]:
                add["segmentation"] = [_rounded(p) for p in detection["polygons"]]
        choices = {
            "class": lambda: [
                (f"relabel {old} as {new}", [drop | {"action": "relabel", "to": new}])
            ],
            "missing": lambda: [(f"add {new}", [add])],
            "box": lambda: [(f"redraw {old} as predicted", [drop, add])],
            "extra": lambda: [],
        }[suspect.kind]()
        if old is not None:
            choices.append((f"drop {old}", [drop]))
        corners = np.array(
            [[*s[2]["bbox"][:2], *np.add(s[2]["bbox"][:2], s[2]["bbox"][2:])] for s in shapes]
        )
        low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
        side = max(*(high - low) * 2, 0.2 * max(image["width"], image["height"]))
        size = np.minimum([side, side], [image["width"], image["height"]])
        start = np.clip((low + high - size) / 2, 0, [image["width"], image["height"]] - size)
        here = range(*self.main.truth_starts[suspect.image : suspect.image + 2])
        others = [("right", "", self._annotation(g)) for g in here if g != suspect.annotation]
        label = f"{base['file_name']}: {'; '.join(text for _, text in said)}"
        keys = "".join(
            f'<span class="key"><i class="k-{k}"></i>{escape(t)}</span> ' for k, t in said
        )
        boxes = "".join(
            f'<label><input type="checkbox" name="s{number}" '
            f'data-fixes="{escape(json.dumps(fixes))}"> {escape(text)}</label>'
            for text, fixes in choices
        )
        return (
            f"<fieldset><legend>{number + 1}. {SUSPECT_TITLES[suspect.kind]}</legend>"
            f"{picture(self.images, image, others + shapes, label, [*start, *size])}"
            f"<p>{keys}<br>{escape(base['file_name'])}</p>"
            f"{boxes}</fieldset>"
        )


def polygons(segmentation: dict | None) -> list[list[float]] | None:
    """Returns the outlines of an RLE mask as COCO's polygons."""
    if not isinstance(segmentation, dict):
        return None
    contours, _ = cv2.findContours(
        mask_util.decode(segmentation), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    simple = [cv2.approxPolyDP(contour, 0.5, True) for contour in contours]
    return [c.ravel().astype(float).tolist() for c in simple if len(c) >= 3]


def _rounded(values):
    return [round(float(v), 1) for v in values]


def _by_hotcoco(test_set, task):
    """Returns the AP50 that each kind of error costs, and the calibration."""
    evaluation = matcher.match(test_set.truth, test_set.results, task)
    if task == "keypoints":
        evaluation.params.kpt_oks_sigmas = test_set.truth["oks_sigmas"]
    evaluation.evaluate()
    lost = evaluation.tide_errors()["delta_ap"]
    names = dict(zip(errors.KINDS, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")))
    return {kind: 100 * lost[name] for kind, name in names.items()}, evaluation.calibration()


def _calibration(found):
    bins = [b for b in found["bins"] if b["count"]]
    points = [(b["avg_confidence"], b["avg_accuracy"]) for b in bins]
    chart = line_chart(
        "Calibration: share of right predictions by score, IoU 0.5",
        {"this model": points, "well calibrated": [(0, 0), (1, 1)]},
        "score",
        "share of right predictions",
        (0, 1),
    )
    return chart + paragraph(
        f"Score and share differ by {100 * found['ece']:.0f} % on average "
        f"over {found['num_detections']:,} predictions."
    )
