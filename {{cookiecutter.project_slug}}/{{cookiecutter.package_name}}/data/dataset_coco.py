"""The project's data sets: where their files are and how they are read.

COCO instances: boxes; masks (polygons or RLE) and keypoints if the annotations have them. The class
names, and those of keypoints, come from the JSON files.

Paths are relative to the folder `$DETECTRON2_DATASETS/{{ cookiecutter.__dataset }}`,
or `datasets/{{ cookiecutter.__dataset }}`, if that is not set.
"""

from functools import partial

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from d2_starter.data.catalog import dataset_folder, existing, hold_out, register
from d2_starter.formats.coco import keypoint_metadata
from d2_starter.data.shapes import register_shapes

NAME = "{{ cookiecutter.__dataset }}"
# The folder of the data set, where it is not there.
ELSEWHERE = ""
# split: (annotations, images)
SPLITS = {
    "train": ("annotations/train.json", "train"),
    "val": ("annotations/val.json", "val"),
}
# Share of the images that is for validation, if both splits are read from the same files.
VAL_SHARE = 0.0


def register_datasets():
    """Registers every data set of the project. Nothing is read before it is asked for."""
    register_shapes()  # generated; configs/smoke.{{ cookiecutter.__suffix }} and the tests train on it
    for split, (annotations, images) in SPLITS.items():
        folder = dataset_folder(NAME, ELSEWHERE)
        json_file = folder / annotations
        register(
            f"{NAME}_{split}",
            partial(load, split, json_file, folder / images),
            files=partial(list, [json_file]),
            evaluator_type="coco",
            json_file=str(json_file),
            image_root=str(folder / images),
        )


def load(split, json_file, images) -> list[dict]:
    """The dataset dicts of a split; sets the names of classes and keypoints in the metadata."""
    name = f"{NAME}_{split}"
    dataset_dicts = load_coco_json(str(existing(json_file, NAME)), str(images), name)
    MetadataCatalog.get(name).set(**keypoint_metadata(json_file))
    return hold_out(dataset_dicts, split, VAL_SHARE)
