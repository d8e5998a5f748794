"""The project's data sets: where their files are and how they are read.

Semantic segmentation: for each image a PNG of the same name with the class of each pixel, 255 where
it does not count.

Paths are relative to the folder `$DETECTRON2_DATASETS/{{ cookiecutter.__dataset }}`,
or `datasets/{{ cookiecutter.__dataset }}`, if that is not set.
"""

from functools import partial

from detectron2.data.datasets import load_sem_seg

from d2_starter.data.catalog import dataset_folder, existing, hold_out, register
from d2_starter.data.shapes import register_shapes

NAME = "{{ cookiecutter.__dataset }}"
# The folder of the data set, where it is not there.
ELSEWHERE = ""
# split: (PNGs, images)
SPLITS = {
    "train": ("labels/train", "images/train"),
    "val": ("labels/val", "images/val"),
}
# Share of the images that is for validation, if both splits are read from the same files.
VAL_SHARE = 0.0
IMAGE_EXTENSION = "jpg"
# The value of a pixel is an index in this.
CLASSES = ("background", "object")


def register_datasets():
    """Registers every data set of the project. Nothing is read before it is asked for."""
    register_shapes()  # generated; configs/smoke.{{ cookiecutter.__suffix }} and the tests train on it
    for split, (labels, images) in SPLITS.items():
        folder = dataset_folder(NAME, ELSEWHERE)
        register(
            f"{NAME}_{split}_semantic",
            partial(load, split, folder / labels, folder / images),
            evaluator_type="sem_seg",
            stuff_classes=list(CLASSES),
            ignore_label=255,
        )


def load(split, labels, images) -> list[dict]:
    """The dataset dicts of a split."""
    folders = [str(existing(folder, NAME)) for folder in (labels, images)]
    return hold_out(load_sem_seg(*folders, image_ext=IMAGE_EXTENSION), split, VAL_SHARE)
