"""The project's data sets: where their files are and how they are read.

COCO panoptic: a PNG of segments for each image, things and stuff. The class names come from the
JSON files.

Paths are relative to the folder `$DETECTRON2_DATASETS/{{ cookiecutter.__dataset }}`,
or `datasets/{{ cookiecutter.__dataset }}`, if that is not set.
"""

from functools import partial

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic

from d2_starter.data.catalog import dataset_folder, existing, register
from d2_starter.data.panoptic import load_instances, load_stuff, panoptic_classes, semantic_classes
from d2_starter.data.shapes import register_shapes

NAME = "{{ cookiecutter.__dataset }}"
# The folder of the data set, where it is not there.
ELSEWHERE = ""
# split: (annotations, their PNGs, images, COCO instances if you have them, or "")
SPLITS = {
    "train": ("annotations/panoptic_train.json", "panoptic_train", "train", ""),
    "val": ("annotations/panoptic_val.json", "panoptic_val", "val", ""),
}


def register_datasets():
    """Registers every data set of the project. Nothing is read before it is asked for.

    Those of a split, such as train, are `..._train`, its things; `..._train_panoptic`, things and
    stuff; and `..._train_semantic`, the classes of all pixels.
    """
    register_shapes()  # generated; configs/smoke.{{ cookiecutter.__suffix }} and the tests train on it
    for split, paths in SPLITS.items():
        paths = [p and dataset_folder(NAME, ELSEWHERE) / p for p in paths]
        name, files = f"{NAME}_{split}", partial(list, filter(None, paths))
        register(name, partial(load, name, "coco", *paths), files, evaluator_type="coco")
        for kind in ("panoptic", "semantic"):
            register(
                f"{name}_{kind}",
                partial(load, f"{name}_{kind}", kind, *paths),
                files,
                evaluator_type={"panoptic": "coco_panoptic_seg", "semantic": "sem_seg"}[kind],
                ignore_label=255,
                panoptic_json=str(paths[0]),
                panoptic_root=str(paths[1]),
            )


def load(name, kind, json_file, masks, images, instances) -> list[dict]:
    """The dataset dicts of a split and kind; sets its classes in the metadata."""
    existing(json_file, NAME)
    metadata = MetadataCatalog.get(name)
    if kind == "semantic":
        metadata.set(**semantic_classes(json_file))
        return load_stuff(name, json_file, masks, images, "semantic")
    classes = panoptic_classes(json_file)
    if kind == "panoptic":
        metadata.set(**classes)
        stuff = load_stuff(name, json_file, masks, images, "stuff")
        return merge_to_panoptic(load_instances(name, json_file, masks, images, instances), stuff)
    metadata.thing_classes = classes["thing_classes"]
    return load_instances(name, json_file, masks, images, instances)
