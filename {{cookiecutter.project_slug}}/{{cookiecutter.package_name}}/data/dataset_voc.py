"""The project's data sets: where their files are and how they are read.

Pascal VOC: boxes, in one XML file for each image.

Paths are relative to the folder `$DETECTRON2_DATASETS/{{ cookiecutter.__dataset }}`,
or `datasets/{{ cookiecutter.__dataset }}`, if that is not set.
"""

from functools import partial

from detectron2.data import MetadataCatalog

from d2_starter.data.catalog import dataset_folder, hold_out, register
from d2_starter.data.shapes import register_shapes
from d2_starter.formats.voc import class_names, load_voc

NAME = "{{ cookiecutter.__dataset }}"
# The folder of the data set, where it is not there.
ELSEWHERE = ""
# split: (list of images without their extension, annotations, images)
SPLITS = {
    "train": ("ImageSets/Main/train.txt", "Annotations", "JPEGImages"),
    "val": ("ImageSets/Main/val.txt", "Annotations", "JPEGImages"),
}
# Share of the images that is for validation, if both splits are read from the same files.
VAL_SHARE = 0.0
# The order gives the class ids. Empty: all names found in the annotations, sorted. Write them down
# before you share a checkpoint, so that its classes keep their ids when the data change.
CLASSES = ()


def register_datasets():
    """Registers every data set of the project. Nothing is read before it is asked for."""
    register_shapes()  # generated; configs/smoke.{{ cookiecutter.__suffix }} and the tests train on it
    for split, paths in SPLITS.items():
        # Without a list of images (""), there is one for each file of annotations.
        listed, annotations, images = (p and dataset_folder(NAME, ELSEWHERE) / p for p in paths)
        register(
            f"{NAME}_{split}",
            partial(load, split, listed, annotations, images),
            files=partial(list, [annotations, images, *([listed] if listed else [])]),
            evaluator_type="coco",
            **({"thing_classes": list(CLASSES)} if CLASSES else {}),
        )


def load(split, listed, annotations, images) -> list[dict]:
    """The dataset dicts of a split; sets the class names in the metadata."""
    folders = {dataset_folder(NAME, ELSEWHERE) / paths[1] for paths in SPLITS.values()}
    classes = list(CLASSES) or class_names(NAME, folders)
    MetadataCatalog.get(f"{NAME}_{split}").thing_classes = classes
    return hold_out(load_voc(NAME, listed, annotations, images, classes), split, VAL_SHARE)
