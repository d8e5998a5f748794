"""Lists what can be wrong with a dataset: every check, its effect and its remedy.

An error ends a training or an evaluation, or makes the model learn something wrong. With a warning
they run, on less or other data than one may think. What readers of files find is in
formats/problems.py.
"""

from ..formats.problems import CHECKS as READER_CHECKS
from ..formats.problems import ERROR, WARNING, Check, Problems

COCO_COUNTS = "An evaluation that reads a COCO file itself still counts them as objects to find."

CHECKS = {
    # ---- The dataset as a whole
    "not-loadable": Check(
        ERROR,
        "datasets that cannot be loaded",
        "Training and evaluation stop with this message.",
        "Do what the message says; the function that loads is registered in data/dataset.py.",
    ),
    "no-images": Check(
        ERROR,
        "datasets without an image",
        "There is nothing to train on or to evaluate.",
        "See in datasets.json, or data/dataset.py, which files and which split are read.",
    ),
    "no-annotations": Check(
        ERROR,
        "images, all there are, without an object",
        "Training stops, since detectron2 leaves out images without objects; an evaluation has "
        "no AP.",
        "See in datasets.json, or data/dataset.py, whether the right annotations are read.",
    ),
    # ---- Images
    "image-missing": Check(
        ERROR,
        "images without a file",
        "Training or evaluation stops when it comes to one of them.",
        "Put the files there, run tools/set_dataset.py again, or remove the images from the "
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
        WARNING,
        "images of more than 8 bits per pixel",
        "Their upper 8 bits are read: 65,535 becomes white, and what uses fewer bits, such as 12 "
        "of 16, is nearly black.",
        "Look at some by tools/visualize_data.py. If they are too dark, scale them to 0 to 255, all "
        "alike, and save them as 8-bit PNG.",
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
        "images that are in two datasets",
        "If one is for training and the other for evaluation, the metrics are too good: the model "
        "has seen the answers.",
        "Remove them from one of the two, and other pictures of the same scene with them.",
    ),
    "image-without-annotations": Check(
        WARNING,
        "images without an object",
        "They are left out of training, unless DATALOADER.FILTER_EMPTY_ANNOTATIONS (in a lazy "
        "config: filter_empty) is False. In a test set only false detections count in them.",
        "Nothing, if they really show none. Else annotate them.",
    ),
    # ---- Annotations and their classes
    "class-without-objects": Check(
        WARNING,
        "classes without an object",
        "In training: the model never learns them. In a test set: they have no AP, and the mean is "
        "over the others.",
        "Annotate some, or remove the classes. Small splits: divide the images anew.",
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
        "pairs of datasets with different lists of classes",
        "The model's outputs would mean other classes in each: training refuses to use them "
        "together.",
        "Give both the same classes in the same order (in COCO files: by id).",
    ),
    # ---- Boxes
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
    "keypoints-missing": Check(
        ERROR,
        "objects without keypoints",
        "This config learns keypoints, and the project refuses to train it.",
        "Annotate them (0, 0, 0 for unknown ones), leave out these objects, or train without "
        "keypoints.",
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
    # ---- Since users lose days over them
    "objects-many": Check(
        WARNING,
        "images with more objects than an evaluation counts detections",
        "COCO's AP counts 100 detections an image, and a model gives TEST.DETECTIONS_PER_IMAGE at "
        "most: the AP stays below 100 whatever the model finds.",
        "Raise TEST.DETECTIONS_PER_IMAGE (in a lazy config: test_topk_per_image), or cut the "
        "images into tiles.",
    ),
    "image-near-duplicate": Check(
        WARNING,
        "images almost the same as one in another dataset: encoded again, or resized",
        "If one is for training and the other for evaluation, the metrics are too good.",
        "Look at the pairs; keep both of a pair in the same split.",
    ),
    "split-sequence": Check(
        WARNING,
        "videos or bursts, by the names of files, that are in two datasets",
        "Neighbouring frames are almost the same image: the metrics are too good.",
        "Divide by video, and not by image.",
    ),
    "class-only-elsewhere": Check(
        WARNING,
        "classes with objects in one dataset and none in the first one",
        "Where the first is for training, the model cannot find them: their AP is 0.",
        "Divide the images anew, so that each class is in both.",
    ),
}

CHECKS = READER_CHECKS | CHECKS


class Findings(Problems):
    """Problems that readers find, and those that the doctor finds."""

    checks = CHECKS
