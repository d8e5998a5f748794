"""Lists what can be wrong with annotations, and collects what was found."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

ERROR, WARNING = "error", "warning"
EXAMPLES = 3  # of each finding
SINGULAR = {"boxes": "box", "classes": "class", "entries": "entry"}


class Unusable(ValueError):
    """Says what was given, what is wrong with it, and what to do; in ASCII."""


class Check(NamedTuple):
    """Describes something that can be wrong."""

    severity: str  # ERROR or WARNING
    what: str  # reads on after the count: "3 boxes that ..."
    effect: str
    fix: str


# What the readers of formats find. The doctor knows more, see doctor/findings.py.
CHECKS = {
    "annotations-invalid": Check(
        ERROR,
        "entries of annotations missing or unreadable",
        "They are left out, with what belongs to them.",
        "Add what is missing, or export the annotations again.",
    ),
    "image-name-found": Check(
        WARNING,
        "images whose names in the annotations are not those of their files",
        "They were found by the end of the path, or by a name that differs in case alone.",
        "Nothing, if the right files were found. Else correct the names in the annotations.",
    ),
    "image-name-contradicts": Check(
        WARNING,
        "files of annotations that name another image than they are called after",
        "The <filename> decides where it is that of an image and of one XML file alone.",
        "Look at some with their boxes (tools/visualize_data.py), and rename what is wrong.",
    ),
    "image-id-duplicate": Check(
        ERROR,
        "images with the id of another image",
        "One takes the other's place, or its annotations: the model is trained and evaluated on "
        "the boxes of another image.",
        "Give each image an id of its own, also in its annotations.",
    ),
    "annotation-id-duplicate": Check(
        WARNING,
        "annotations with the id of another annotation",
        "They are read all the same. Other programs keep one of them.",
        "Number the annotations anew: tools/check_dataset.py --fix writes such a copy.",
    ),
    "annotation-without-image": Check(
        WARNING,
        "annotations of an image that is not in the file",
        "They are left out.",
        "Add the images, or remove these annotations.",
    ),
    "category-unknown": Check(
        ERROR,
        "annotations of a class that is not in the list of classes",
        "They are left out, or training stops.",
        "Add the class to the list (in a COCO file: categories), or correct the annotations.",
    ),
    "class-empty-name": Check(
        WARNING,
        "objects without the name of a class",
        "They are left out.",
        "Name their class.",
    ),
    "class-case": Check(
        WARNING,
        "classes whose names differ by upper and lower case alone",
        "The model learns to tell them apart.",
        "Rename one, if they are the same class.",
    ),
    "class-duplicate-name": Check(
        WARNING,
        "class names that are there twice",
        "They are read as one class; with annotations of your own, results by class mix them up.",
        "Make them one class, or rename one.",
    ),
    "box-invalid": Check(
        ERROR,
        "boxes that are not four finite numbers",
        "These objects are left out, or training stops.",
        "Correct or remove these annotations.",
    ),
    "box-missing": Check(
        WARNING,
        "objects without a box",
        "They are left out.",
        "Draw their boxes, or remove them.",
    ),
    "box-from-mask": Check(
        WARNING,
        "objects with a mask, but without a box",
        "Their box is that of the mask.",
        "Nothing, if the masks are right.",
    ),
    "box-reversed": Check(
        WARNING,
        "boxes whose first corner is not the upper left one",
        "They are read with their corners in order.",
        "Nothing, if they are right so.",
    ),
    "box-rotated": Check(
        WARNING,
        "boxes that are rotated",
        "They are left out: detectors of upright boxes cannot learn them.",
        "Export them as polygons.",
    ),
    "box-corners": Check(
        ERROR,
        "boxes that only make sense as two corners",
        "x y width height (x and y of the center) are expected, x1 y1 x2 y2 seem to be there: the "
        "model would learn boxes in wrong places.",
        "Write the center and the size of each box.",
    ),
    "shape-unsupported": Check(
        WARNING,
        "shapes of a kind that no model here learns",
        "They are left out, or read as a box.",
        "Draw them as polygons or boxes, if they matter.",
    ),
    "mask-polygon": Check(
        ERROR,
        "masks with a polygon that is none: fewer than three points, or half a point",
        "From files such polygons are left out; in dataset dicts of your own they stop training.",
        "Remove these polygons; draw the masks again that have no other.",
    ),
    "keypoints-invalid": Check(
        ERROR,
        "objects with another number of keypoints than there are names, or with some not finite",
        "From files they are read without keypoints; in dataset dicts of your own they stop "
        "training.",
        "Give each object (x, y, visibility) for each name; 0, 0, 0 for what is not annotated.",
    ),
    "keypoints-names": Check(
        ERROR,
        "lists of keypoint names missing or different",
        "The model's keypoints would be called wrongly, and left and right mixed up by mirroring.",
        "Give keypoint_names (and keypoint_flip_map) in data/dataset.py as the annotations have "
        "them.",
    ),
    "keypoints-unnamed": Check(
        WARNING,
        "files whose categories do not name the keypoints that objects have",
        "Only the boxes are read: without names nothing says what mirroring swaps.",
        'Name them in the category: "keypoints": ["left_eye", "right_eye", ...].',
    ),
    "line-comment": Check(
        WARNING,
        "files of labels with comments",
        "Lines that begin with # are passed over.",
        "Nothing.",
    ),
    "line-score": Check(
        WARNING,
        "lines with a sixth number, a score as predictions have it",
        "They are read without the score.",
        "See whether these are annotations, and not what a model predicted.",
    ),
    "line-invalid": Check(
        WARNING,
        "lines that are neither a box nor a polygon",
        "They are left out.",
        "Correct them: `class x y width height` or `class x y x y x y ...`.",
    ),
    "labels-missing": Check(
        WARNING,
        "images without a file of annotations",
        "YOLO: they have no objects. Other formats: they are left out.",
        "Nothing, if they really show none.",
    ),
}


class Problems:
    """Counts what is found, and keeps the first examples of it."""

    checks = CHECKS
    kept = EXAMPLES

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = defaultdict(list)

    def add(self, check: str, example: str):
        self.counts[check] += 1
        if self.counts[check] <= self.kept:
            self.examples[check].append(example)

    def add_all(self, check: str, culprits: Iterable, describe: Callable[..., str]):
        """Adds many of a kind; `describe` makes the example of one."""
        culprits = list(culprits)
        if culprits:
            self.counts[check] += len(culprits)
            missing = self.kept - len(self.examples[check])
            self.examples[check] += map(describe, culprits[:missing])

    def update(self, other: "Problems"):
        """Adds what another list has."""
        for check, count in other.counts.items():
            self.examples[check] = (self.examples[check] + other.examples[check])[: self.kept]
            self.counts[check] += count

    def as_list(self) -> list[dict]:
        """The findings, errors first, in the order of `checks`."""
        found = [
            {
                "check": name,
                "severity": check.severity,
                "count": self.counts[name],
                "examples": self.examples[name][:EXAMPLES],
                "effect": check.effect,
                "fix": check.fix,
            }
            for name, check in self.checks.items()
            if self.counts[name]
        ]
        return sorted(found, key=lambda finding: finding["severity"] != ERROR)

    def notes(self) -> list[str]:
        """The findings as sentences in ASCII."""
        return [
            f"{self.headline(found)}, for example {ascii(found['examples'][0])}. {found['effect']}"
            for found in self.as_list()
        ]

    def headline(self, finding: dict) -> str:
        """ "3 boxes up to one pixel wide or high" """
        noun, _, rest = self.checks[finding["check"]].what.partition(" ")
        count = finding["count"]
        if count == 1:
            noun = SINGULAR.get(noun, noun.removesuffix("s"))
        return f"{count:,} {noun} {rest}"
