"""The project's data sets: where their files are and how they are read.

LVIS: boxes and masks of many classes, not all of which are annotated in each image. The class names
come from the JSON files.

Paths are relative to the folder `$DETECTRON2_DATASETS/{{ cookiecutter.__dataset }}`,
or `datasets/{{ cookiecutter.__dataset }}`, if that is not set.
"""

from functools import partial

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_lvis_json

from d2_starter.data.catalog import dataset_folder, existing, register
from d2_starter.formats.coco import read_categories
from d2_starter.data.shapes import register_shapes

NAME = "{{ cookiecutter.__dataset }}"
# The folder of the data set, where it is not there.
ELSEWHERE = ""
# split: (annotations, folder of the folders that an image's `coco_url` ends with)
SPLITS = {
    "train": ("lvis_v1_train.json", "."),
    "val": ("lvis_v1_val.json", "."),
}


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
            evaluator_type="lvis",
            json_file=str(json_file),
            image_root=str(folder / images),
        )


def load(split, json_file, images) -> list[dict]:
    """The dataset dicts of a split; sets the class names and their ids in the metadata."""
    dataset_dicts = load_lvis_json(str(existing(json_file, NAME)), f"{images}/")
    categories = read_categories(json_file)
    ids = {category["id"]: index for index, category in enumerate(categories)}
    for annotation in (a for record in dataset_dicts for a in record["annotations"]):
        annotation["category_id"] = ids[annotation["category_id"] + 1]  # detectron2 took 1 off
    MetadataCatalog.get(f"{NAME}_{split}").set(
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id=ids,
    )
    return dataset_dicts
