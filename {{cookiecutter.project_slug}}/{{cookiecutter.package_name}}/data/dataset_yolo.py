"""The project's data sets: where their files are and how they are read.

YOLO: boxes or polygons, in one text file for each image. The labels of images/train/a.jpg are in
labels/train/a.txt.

Paths are relative to the folder `$DETECTRON2_DATASETS/{{ cookiecutter.__dataset }}`,
or `datasets/{{ cookiecutter.__dataset }}`, if that is not set.
"""

from functools import partial

from detectron2.data import MetadataCatalog

from d2_starter.data.catalog import dataset_folder, hold_out, register
from d2_starter.data.shapes import register_shapes
from d2_starter.formats.yolo import class_names, load_yolo, yolo_files

NAME = "{{ cookiecutter.__dataset }}"
# The folder of the data set, where it is not there.
ELSEWHERE = ""
# split: folder of images, or text file with a line for each
SPLITS = {
    "train": "images/train",
    "val": "images/val",
}
# Share of the images that is for validation, if both splits are read from the same files.
VAL_SHARE = 0.0
# In the order of the class ids. Empty: the `names` in data.yaml.
CLASSES = ()


def register_datasets():
    """Registers every data set of the project. Nothing is read before it is asked for."""
    register_shapes()  # generated; configs/smoke.{{ cookiecutter.__suffix }} and the tests train on it
    for split, images in SPLITS.items():
        images = dataset_folder(NAME, ELSEWHERE) / images
        register(
            f"{NAME}_{split}",
            partial(load, split, images),
            files=partial(yolo_files, images),
            evaluator_type="coco",
            **({"thing_classes": list(CLASSES)} if CLASSES else {}),
        )


def load(split, images) -> list[dict]:
    """The dataset dicts of a split; sets the class names in the metadata."""
    classes = list(CLASSES) or class_names(NAME, dataset_folder(NAME, ELSEWHERE) / "data.yaml")
    MetadataCatalog.get(f"{NAME}_{split}").thing_classes = classes
    return hold_out(load_yolo(NAME, images, classes), split, VAL_SHARE)
