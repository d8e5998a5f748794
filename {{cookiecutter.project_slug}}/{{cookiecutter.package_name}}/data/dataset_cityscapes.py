"""The project's data sets: where their files are and how they are read.

Cityscapes: street scenes with masks of 8 classes and a class of 19 for each pixel.

Paths are relative to the folder `$DETECTRON2_DATASETS/{{ cookiecutter.__dataset }}`,
or `datasets/{{ cookiecutter.__dataset }}`, if that is not set.
"""

from functools import partial

from d2_starter.data.catalog import dataset_folder, register
from d2_starter.formats.cityscapes import CLASSES, THINGS, load_instances, load_semantic
from d2_starter.data.shapes import register_shapes

NAME = "{{ cookiecutter.__dataset }}"
# The folder of the data set, where it is not there.
ELSEWHERE = ""
# split: (images, annotations), with a folder for each city
SPLITS = {
    "train": ("leftImg8bit/train", "gtFine/train"),
    "val": ("leftImg8bit/val", "gtFine/val"),
}


def register_datasets():
    """Registers every data set of the project. Nothing is read before it is asked for.

    Those of a split, such as train, are `..._train`, its instances, and `..._train_semantic`.
    """
    register_shapes()  # generated; configs/smoke.{{ cookiecutter.__suffix }} and the tests train on it
    for split, paths in SPLITS.items():
        images, labels = (dataset_folder(NAME, ELSEWHERE) / path for path in paths)
        name = f"{NAME}_{split}"
        register(
            name,
            partial(load_instances, name, images, labels),
            files=lambda folder=labels: sorted(folder.glob("*")),
            evaluator_type="coco",
            thing_classes=[category["name"] for category in THINGS],
            thing_colors=[category["color"] for category in THINGS],
        )
        register(
            f"{name}_semantic",
            partial(load_semantic, name, images, labels),
            evaluator_type="sem_seg",
            stuff_classes=[category["name"] for category in CLASSES],
            stuff_colors=[category["color"] for category in CLASSES],
            ignore_label=255,
        )
