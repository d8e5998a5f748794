"""What can be wrong with a data set: every check, its effect and its remedy.

An error ends a training or an evaluation, or makes the model learn something wrong. With a warning
they run, on less or other data than one may think.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Check(NamedTuple):
    severity: str  # ERROR or WARNING
    what: str  # reads on after the count: "3 boxes that ..."
    effect: str
    fix: str


ERROR, WARNING = "error", "warning"
EXAMPLES = 3  # of each finding
COCO_COUNTS = "An evaluation that reads a COCO file itself still counts them as objects to find."

CHECKS = {
    # ---- The data set as a whole
    "not-loadable": Check(
        ERROR,
        "data sets that cannot be loaded",
        "Training and evaluation stop with this message.",
        "Do what the message says; the function that loads is registered in data/dataset.py.",
    ),
    "annotations-invalid": Check(
        ERROR,
        "parts of the annotations missing or unreadable",
        "Training and evaluation stop when they load the data set. These parts were not checked "
        "further.",
        "Add what is missing, or export the annotations again.",
    ),
    "no-images": Check(
        ERROR,
        "data sets without an image",
        "There is nothing to train on or to evaluate.",
        "See in data/dataset.py which files and which split are read.",
    ),
    "no-annotations": Check(
        ERROR,
        "images, all there are, without an object",
        "Training stops, since detectron2 leaves out images without objects; an evaluation has "
        "no AP.",
        "See in data/dataset.py whether the right annotations are read.",
    ),
    # ---- Images
    "image-missing": Check(
        ERROR,
        "images without a file",
        "Training or evaluation stops when it comes to one of them.",
        "Put the files there, correct the folder in data/dataset.py, or remove the images from the "
        "annotations.",
    ),
    "image-empty": Check(
        ERROR,
        "image files of zero bytes",
        "Training or evaluation stops when it comes to one of them.",
        "Copy or download them again: a transfer was interrupted, or the disk was full.",
    ),
    "image-unreadable": Check(
        ERROR,
        "files that are not an image that Pillow can open",
        "Training or evaluation stops when it comes to one of them.",
        "Convert them to JPEG or PNG, or download them again: some are web pages with an error.",
    ),
    "image-truncated": Check(
        ERROR,
        "image files that decode only partly",
        "Training or evaluation stops when it comes to one of them.",
        "Copy or download them again; if there is no whole copy, remove the images from the "
        "annotations.",
    ),
    "image-size": Check(
        ERROR,
        "images of another size than the annotations say",
        "Training stops with a SizeMismatchError. The boxes probably belong to another version of "
        "the image.",
        "Use the images that were annotated; or, if only the numbers are wrong, correct width and "
        "height in the annotations.",
    ),
    "image-orientation-size": Check(
        ERROR,
        "images that EXIF turns on their side, with the width and height of the unturned file",
        "detectron2 turns images upright as their EXIF says: training stops with a "
        "SizeMismatchError, and the boxes are on other things.",
        "If they were annotated unturned, remove the tag: exiftool -Orientation= FILE. Else "
        "correct width and height in the annotations.",
    ),
    "image-orientation": Check(
        WARNING,
        "images that EXIF turns or mirrors",
        "detectron2 shows the model the upright image. Boxes that were drawn in the unturned one "
        "are in the wrong place.",
        "Look at some with their boxes. To be safe, save the upright images without the tag: "
        "mogrify -auto-orient FILE.",
    ),
    "image-16-bit": Check(
        ERROR,
        "images of more than 8 bits per pixel",
        "They are read as 8 bits, and every value above 255 becomes white: most of the picture.",
        "Scale them to 0 to 255, all alike, and save them as 8-bit PNG.",
    ),
    "image-listed-twice": Check(
        WARNING,
        "images with the same file as another image",
        "The image counts twice. If its objects are divided between the two, each of them "
        "teaches the model that the others' objects are background.",
        "Make them one image, with all its objects.",
    ),
    "image-duplicate": Check(
        WARNING,
        "images with the same pixels as another image",
        "They count more than others. If their annotations differ, they contradict each other.",
        "Keep one of each.",
    ),
    "image-leak": Check(
        WARNING,
        "images that are in two data sets",
        "If one is for training and the other for evaluation, the metrics are too good: the model "
        "has seen the answers.",
        "Remove them from one of the two, and other pictures of the same scene with them.",
    ),
    "image-id-duplicate": Check(
        ERROR,
        "images with the id of another image",
        "One takes the other's place, or its annotations: the model is trained and evaluated on "
        "the boxes of another image.",
        "Give each image an id of its own, also in its annotations.",
    ),
    "image-without-annotations": Check(
        WARNING,
        "images without an object",
        "They are left out of training, unless DATALOADER.FILTER_EMPTY_ANNOTATIONS (in a lazy "
        "config: filter_empty) is False. In a test set only false detections count in them.",
        "Nothing, if they really show none. Else annotate them.",
    ),
    # ---- Annotations and their classes
    "annotation-id-duplicate": Check(
        ERROR,
        "annotations with the id of another annotation",
        "Loading the file stops: detectron2 wants each annotation to have an id of its own.",
        "Number the annotations anew.",
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
        "Loading or training stops, or learns a wrong class.",
        "Add the class to the list (in a COCO file: categories), or correct the annotations.",
    ),
    "class-without-objects": Check(
        WARNING,
        "classes without an object",
        "In training: the model never learns them. In a test set: they have no AP, and the mean is "
        "over the others.",
        "Annotate some, or remove the classes. Small splits: divide the images anew.",
    ),
    "class-duplicate-name": Check(
        WARNING,
        "class names that are there twice",
        "The model learns to tell apart what has one name; results by class mix them up.",
        "Make them one class, or rename one.",
    ),
    "class-imbalance": Check(
        WARNING,
        "classes with far fewer objects than the most frequent one",
        "Their AP will be low, and changes by chance from one evaluation to the next.",
        "Annotate more of them, join them with others, or repeat their images in training: "
        "DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler.",
    ),
    "class-lists-differ": Check(
        ERROR,
        "pairs of data sets with different lists of classes",
        "The model's outputs would mean other classes in each: training refuses to use them "
        "together.",
        "Give both the same classes in the same order (in COCO files: by id).",
    ),
    "class-number": Check(
        ERROR,
        "numbers in the config file that the data set contradicts",
        "Training refuses to start.",
        "Remove the number from the config: it follows from the data set.",
    ),
    # ---- Boxes
    "box-invalid": Check(
        ERROR,
        "boxes that are not four finite numbers with a bbox_mode",
        "Loading or training stops, or the losses become NaN.",
        "Correct or remove these annotations.",
    ),
    "box-mode": Check(
        ERROR,
        "boxes that only make sense in the other format",
        "XYXY (two corners) and XYWH (corner, width, height) are mixed up: the model would learn "
        "boxes of wrong sizes. Other checks of boxes were left out.",
        "In COCO files boxes must be XYWH: subtract the first corner from the second. In dataset "
        "dicts correct bbox_mode.",
    ),
    "box-relative": Check(
        ERROR,
        "boxes, all there are, with numbers up to 1 only",
        "They are fractions of the image's size, but are read as pixels: all are dropped as "
        "empty. Other checks of boxes were left out.",
        "Multiply x and width by the image's width, y and height by its height.",
    ),
    "box-degenerate": Check(
        WARNING,
        "boxes up to one pixel wide or high",
        f"They are left out of training. {COCO_COUNTS}",
        "Remove them: most are slips of the mouse. If all objects are small: use larger images.",
    ),
    "box-out-of-bounds": Check(
        WARNING,
        "boxes that reach a pixel or more beyond their image",
        "They are clipped to the image in training. An evaluation that reads a COCO file itself "
        "takes them as they are.",
        "Clip them, if they are a little too large. If they are shifted or scaled, the annotations "
        "belong to another version of the images.",
    ),
    "box-outside": Check(
        WARNING,
        "boxes entirely outside of their image, or all but a pixel",
        f"They are left out of training. {COCO_COUNTS}",
        "See whether the annotations belong to these images; remove them if not.",
    ),
    "box-duplicate": Check(
        WARNING,
        "boxes of the same class as another one, in the same place",
        "One object counts as two, and in evaluation one of them is never found: detections in the "
        "same place are merged.",
        "Remove one of the two; unless there really are two objects, one just before the other.",
    ),
    "object-small": Check(
        WARNING,
        "objects smaller than half of the smallest anchor, once images are resized",
        "No anchor fits them well, and few of them are found.",
        "Enlarge the images (INPUT.MIN_SIZE_TRAIN and MIN_SIZE_TEST; in a lazy config "
        "short_edge_length), or use smaller anchors.",
    ),
    "object-large": Check(
        WARNING,
        "objects larger than twice the largest anchor, once images are resized",
        "No anchor fits them well, and their boxes become inexact.",
        "Use larger anchors (MODEL.ANCHOR_GENERATOR.SIZES; in a lazy config anchor_generator.sizes)"
        ", or smaller images.",
    ),
    # ---- Masks
    "mask-polygon": Check(
        ERROR,
        "masks with a polygon that is none: fewer than three points, or half a point",
        "From COCO files such polygons are left out, and the object with its last one; from other "
        "formats training stops. An evaluation of masks stops.",
        "Remove these polygons; draw the masks again that have no other.",
    ),
    "mask-rle": Check(
        ERROR,
        "masks in run-length encoding that do not fit their image",
        "Training or evaluation stops, or learns masks that are nothing but stripes.",
        "Encode these masks again: size is [height, width] of the image, and the counts go down "
        "the columns and add up to height times width.",
    ),
    "mask-empty": Check(
        WARNING,
        "masks without a pixel",
        "A model of masks learns that there is nothing in the object's box.",
        "Draw them again, or remove the objects.",
    ),
    "mask-self-overlap": Check(
        WARNING,
        "masks whose outline crosses or touches itself",
        "Where the outline crosses itself the mask may have holes, and parts of it are lost where "
        "training crops images (INPUT.CROP).",
        "Nothing, if it is a small loop. Else draw the outline again.",
    ),
    "mask-box": Check(
        WARNING,
        "masks that lie elsewhere than their box",
        "Box and mask teach the model different objects; it learns the part of the mask inside of "
        "the box.",
        "See which of the two is right, and compute the box from the mask if it is the mask.",
    ),
    "mask-missing": Check(
        ERROR,
        "objects without a mask",
        "A model of masks cannot be trained: the project refuses to.",
        "Draw them, leave out these objects, or train a model of boxes only.",
    ),
    "mask-in-some": Check(
        WARNING,
        "objects without a mask, while others have one",
        "Nothing with a model of boxes. A model of masks cannot be trained.",
        "Nothing, if only boxes are needed.",
    ),
    # ---- Keypoints
    "keypoints-invalid": Check(
        ERROR,
        "objects with another number of keypoints than there are names, or with some not finite",
        "Training stops when it comes to one of them.",
        "Give each object (x, y, visibility) for each name; 0, 0, 0 for what is not annotated.",
    ),
    "keypoints-missing": Check(
        ERROR,
        "objects without keypoints",
        "This config learns keypoints, and the project refuses to train it.",
        "Annotate them (0, 0, 0 for unknown ones), leave out these objects, or train without "
        "keypoints.",
    ),
    "keypoints-names": Check(
        ERROR,
        "lists of keypoint names missing or different",
        "The model's keypoints would be called wrongly, and left and right mixed up by mirroring.",
        "Give keypoint_names (and keypoint_flip_map) in data/dataset.py as the annotations have "
        "them.",
    ),
    "keypoints-outside-image": Check(
        WARNING,
        "objects with visible keypoints a pixel or more beyond their image",
        "These keypoints are left out of training.",
        "Correct them, or mark them as not annotated: 0, 0, 0.",
    ),
    "keypoints-outside-box": Check(
        WARNING,
        "objects with most visible keypoints far outside of their box",
        "Only keypoints inside of the box are learned.",
        "See whether they belong to another object, and whether x and y are in order.",
    ),
    # ---- Label maps of semantic segmentation
    "label-missing": Check(
        ERROR,
        "images without a label map",
        "Training or evaluation stops when it comes to one of them.",
        "Put the files there, or leave these images out.",
    ),
    "label-unreadable": Check(
        ERROR,
        "label maps that Pillow cannot read",
        "Training or evaluation stops when it comes to one of them.",
        "Write them again as 8-bit PNG.",
    ),
    "label-mode": Check(
        ERROR,
        "label maps with colors, or not 8 bits",
        "Training stops, or takes something else for the numbers of classes.",
        "Save them as 8-bit gray PNG whose values are the classes' numbers.",
    ),
    "label-size": Check(
        ERROR,
        "label maps of another size than their image",
        "Training or evaluation stops, or learns labels at the wrong place.",
        "Scale the maps to the size of the image, without interpolation (nearest), or find the "
        "image that they belong to.",
    ),
    "label-value": Check(
        ERROR,
        "label maps with a value that is neither a class nor the ignored label",
        "Training stops; on a GPU with a message that does not name the cause.",
        "Add the classes, or set these pixels to the ignored label (ignore_label in the metadata).",
    ),
    "label-class-absent": Check(
        WARNING,
        "classes that no pixel has",
        "In training: the model never learns them. In a test set: they have no IoU.",
        "Nothing, if that is so. Else see whether the numbers in the maps are the right ones.",
    ),
}

SINGULAR = {"boxes": "box", "classes": "class"}


class Findings:
    """Counts what is found, and keeps the first examples of it."""

    def __init__(self):
        self.counts = Counter()
        self.examples = defaultdict(list)

    def add(self, check: str, example: str):
        self.add_all(check, [example], str)

    def add_all(self, check: str, culprits: Iterable, describe: Callable[..., str]):
        """Adds many of a kind; `describe` makes the example of one."""
        culprits = list(culprits)
        if culprits:
            self.counts[check] += len(culprits)
            missing = EXAMPLES - len(self.examples[check])
            self.examples[check] += map(describe, culprits[:missing])

    def as_list(self) -> list[dict]:
        """The findings, errors first, in the order of `CHECKS`."""
        found = [
            {
                "check": name,
                "severity": check.severity,
                "count": self.counts[name],
                "examples": self.examples[name],
                "effect": check.effect,
                "fix": check.fix,
            }
            for name, check in CHECKS.items()
            if self.counts[name]
        ]
        return sorted(found, key=lambda finding: finding["severity"] != ERROR)


def headline(finding: dict) -> str:
    """ "3 boxes up to one pixel wide or high" """
    noun, _, rest = CHECKS[finding["check"]].what.partition(" ")
    count = finding["count"]
    if count == 1:
        noun = SINGULAR.get(noun, noun.removesuffix("s"))
    return f"{count:,} {noun} {rest}"
