"""Finds which predictions are wrong, in which way, and which annotations may be."""

from dataclasses import dataclass

import numpy as np

from .matching import Matches

KINDS = {
    "class": "found, but as another class",
    "localisation": "right class, but IoU from 0.1 to 0.5",
    "both": "another class, and IoU from 0.1 to 0.5",
    "duplicate": "an object that is already found",
    "background": "nothing annotated there",
    "missed": "an object that nothing was predicted for",
}
AT = 0  # the column of IoU 0.5


def operating_points(matches: Matches) -> list[dict]:
    """Finds for each class the score threshold with the best F1 at IoU 0.5.

    Returns:
        for each class "threshold", "precision" and "recall" from 0 to 1, and "curve": precision by
        recall for the plot. A class without a right prediction has threshold None.
    """
    points = []
    objects = matches.objects.sum(axis=0)
    for k, number in enumerate(objects):
        of_class = np.flatnonzero((matches.category == k) & ~matches.ignored[:, AT])
        of_class = of_class[np.argsort(-matches.score[of_class], kind="stable")]
        score = matches.score[of_class]
        good = np.cumsum(matches.hit[of_class, AT] >= 0)
        last = np.flatnonzero(np.diff(score, append=-1) != 0)  # of predictions with equal scores
        precision, recall = good[last] / (last + 1), good[last] / max(number, 1)
        point = {"threshold": None, "precision": None, "recall": None, "curve": []}
        if len(good) and good[-1] and number:
            best = int(np.argmax(2 * good[last] / (last + 1 + number)))  # F1
            point["threshold"] = float(score[last[best]])
            point["precision"], point["recall"] = float(precision[best]), float(recall[best])
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            grid = np.linspace(0, recall[-1], 60)
            at = np.searchsorted(recall, grid)
            point["curve"] = list(
                zip(grid.tolist(), envelope[at].tolist(), score[last][at].tolist())
            )
        points.append(point)
    return points


@dataclass
class Outcome:
    """One prediction above the threshold, one object, or both together."""

    kind: str  # one of KINDS, or "right"
    image: int
    detection: int  # -1: the object was not found
    annotation: int  # -1: nothing is annotated there


def outcomes(matches: Matches, thresholds: list[float | None]) -> list[Outcome]:
    """Says of each prediction above its class's threshold, and of each object, what became of it.

    At IoU 0.5, a prediction is matched first with an object of its class, as for the AP, then with
    one of another class that is left.
    """
    limits = np.array([np.inf if t is None else t for t in thresholds])
    is_kept = matches.score >= limits[matches.category] - 1e-12
    found = []
    for i, ious in enumerate(matches.ious):
        first, true_first = int(matches.starts[i]), int(matches.truth_starts[i])
        crowd = matches.crowd[true_first : true_first + ious.shape[1]]
        classes = matches.truth_category[true_first : true_first + ious.shape[1]]
        is_free, is_near = ~crowd, np.zeros(len(crowd), dtype=bool)
        kept = np.flatnonzero(is_kept[first : first + len(ious)])
        wrong = []
        for d in kept:
            hit = matches.hit[first + d, AT]
            if not matches.ignored[first + d, AT] and hit >= 0:
                is_free[hit - true_first] = False
                found.append(Outcome("right", i, int(first + d), int(hit)))
            elif not matches.ignored[first + d, AT]:
                wrong.append(d)
        for d in wrong:
            row, same = ious[d], classes == matches.category[first + d]
            others = np.where(is_free & ~same, row, 0.0)
            if others.max(initial=0) >= 0.5:
                g = int(others.argmax())
                is_free[g] = False
                found.append(Outcome("class", i, int(first + d), true_first + g))
                continue
            best_same = np.where(same & ~crowd, row, 0).max(initial=0)
            best_other = np.where(~same & ~crowd, row, 0).max(initial=0)
            if best_same >= 0.5:
                kind = "duplicate"
            elif best_same >= 0.1:
                kind = "localisation"
            elif best_other >= 0.1:
                kind = "both" if best_other < 0.5 else "duplicate"
            else:
                kind = "background"
            if kind in ("localisation", "both"):
                is_near |= row >= 0.1
            found.append(Outcome(kind, i, int(first + d), -1))
        for g in np.flatnonzero(is_free):
            kind = "not found" if is_near[g] else "missed"
            found.append(Outcome(kind, i, -1, true_first + int(g)))
    return found


def confusion(matches: Matches, found: list[Outcome]) -> tuple[np.ndarray, dict]:
    """Counts outcomes by class.

    Returns:
        (K + 1, K + 1) numbers, rows the ground truth, columns the prediction, the last of both the
        background; and {(row, column): indices of images}.
    """
    background = len(matches.classes)
    table = np.zeros((background + 1, background + 1), dtype=int)
    images = {}
    for o in found:
        row = background if o.annotation < 0 else matches.truth_category[o.annotation]
        column = background if o.detection < 0 else matches.category[o.detection]
        table[row, column] += 1
        images.setdefault((int(row), int(column)), []).append(o.image)
    return table, images


def rate_images(matches: Matches, found: list[Outcome]) -> np.ndarray:
    """Counts for each image what is right, wrong, not found, and confused, (N, 4)."""
    counts = np.zeros((len(matches.images), 4), dtype=int)
    for o in found:
        if o.kind == "right":
            counts[o.image, 0] += 1
        else:
            counts[o.image, 1] += o.detection >= 0
            counts[o.image, 2] += o.annotation >= 0
            counts[o.image, 3] += o.kind in ("class", "both")
    return counts


@dataclass
class Suspect:
    """An annotation that may be wrong. `doubt` from 0 to 1 ranks it; it is no probability."""

    kind: str  # "class", "missing", "box" or "extra"
    doubt: float
    image: int
    detection: int  # -1: nothing was predicted there
    annotation: int  # -1: nothing is annotated there


def find_suspects(matches: Matches, number: int = 50) -> list[Suspect]:
    """Finds annotations that a model contradicts with confidence, most doubtful first.

    - class: predicted as another class, and not, or with little confidence, as its own
    - missing: predicted, and nothing is annotated there
    - box: predicted as its class, but elsewhere, and nothing is predicted where it is
    - extra: nothing at all is predicted there, although most objects of the class are found
    """
    found = []
    is_hit = matches.hit[:, AT] >= 0
    known = np.bincount(
        matches.truth_category[matches.hit[is_hit, AT]], minlength=len(matches.classes)
    )
    recall = known / np.maximum(matches.objects.sum(axis=0), 1)
    for i, ious in enumerate(matches.ious):
        first, true_first = int(matches.starts[i]), int(matches.truth_starts[i])
        dets = slice(first, first + len(ious))
        score, category = matches.score[dets], matches.category[dets]
        annotations = slice(true_first, true_first + ious.shape[1])
        classes, crowd = matches.truth_category[annotations], matches.crowd[annotations]
        same = np.equal.outer(category, classes)
        confidence = score[:, None]
        own = np.where(same & (ious >= 0.5), confidence, 0).max(axis=0, initial=0)
        other = np.where(~same & (ious >= 0.5), confidence, 0)
        near = np.where(same & (ious >= 0.1) & (ious < 0.5), confidence, 0)
        touched = np.where(ious >= 0.1, confidence, 0).max(axis=0, initial=0)
        # A prediction that has an object of its own says nothing about another.
        has_own = (ious >= 0.5).any(axis=1) if ious.shape[1] else np.zeros(len(ious), dtype=bool)
        near[has_own] = 0
        explains = np.zeros(len(ious), dtype=bool)
        for g in np.flatnonzero(~crowd):
            candidates = [("extra", 0.5 * recall[classes[g]] * (1 - touched[g]) ** 2, -1)]
            if len(ious):
                c, b = int(other[:, g].argmax()), int(near[:, g].argmax())
                candidates.append(("class", other[c, g] * (1 - own[g]), c))
                candidates.append(("box", near[b, g] * (1 - own[g]), b))
                explains |= (near[:, g] > 0) & (own[g] < 0.3)
            kind, doubt, d = max(candidates, key=lambda candidate: candidate[1])
            found.append(
                Suspect(kind, float(doubt), i, first + d if d >= 0 else -1, true_first + int(g))
            )
        in_crowd = (ious[:, crowd] >= 0.1).any(axis=1)
        for d in np.flatnonzero(~has_own & ~explains & ~in_crowd):
            found.append(Suspect("missing", float(score[d]), i, first + int(d), -1))
    used, kept = set(), []
    for suspect in sorted(found, key=lambda s: -s.doubt):
        keys = {("d", suspect.detection), ("a", suspect.annotation)} - {("d", -1), ("a", -1)}
        if not keys & used and suspect.doubt >= 0.05:
            kept.append(suspect)
            used |= keys
        if len(kept) == number:
            break
    return kept
