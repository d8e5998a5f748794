"""The project's data sets: where their files are and how they are read.

    datasets/{{ cookiecutter.dataset_name }}/
      train/  val/                        images
      annotations/train.json, val.json    COCO instances: boxes; masks or keypoints if you have them

`$DETECTRON2_DATASETS`, if set, takes the place of `datasets`. Change the lines below if your files
lie elsewhere. The class names come from the JSON file.
"""

from functools import partial

from detectron2.data.datasets import load_coco_json

from .catalog import datasets_root, register
from .shapes import register_shapes

NAME = "{{ cookiecutter.dataset_name }}"
SPLITS = {  # split: (annotations, images), both relative to the data set's folder
    "train": ("annotations/train.json", "train"),
    "val": ("annotations/val.json", "val"),
}
# For keypoints: their names in the order of the JSON file, and the pairs that mirroring swaps.
KEYPOINTS = ()
KEYPOINT_FLIPS = ()  # e.g. (("left_eye", "right_eye"),)


def register_datasets():
    """Registers every data set of the project. Nothing is read before it is asked for."""
    register_shapes()  # generated; configs/smoke.{{ cookiecutter.__suffix }} and the tests train on it
    for split, (annotations, images) in SPLITS.items():
        name = f"{NAME}_{split}"
        json_file = datasets_root() / NAME / annotations
        metadata = {"evaluator_type": "coco", "json_file": str(json_file)}
        if KEYPOINTS:
            metadata.update(keypoint_names=KEYPOINTS, keypoint_flip_map=KEYPOINT_FLIPS)
        load = partial(load_coco_json, str(json_file), str(datasets_root() / NAME / images), name)
        register(name, load, **metadata)
