"""The project's data sets: where their files are and how they are read.

    datasets/{{ cookiecutter.dataset_name }}/
      JPEGImages/*.jpg
      Annotations/*.xml                   one file an image, Pascal VOC
      ImageSets/Main/train.txt, val.txt   one image a line, without extension

`$DETECTRON2_DATASETS`, if set, takes the place of `datasets`. Change the lines below if your files
lie elsewhere.
"""

import xml.etree.ElementTree as ET
from functools import cache, partial
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_voc_instances

from .catalog import datasets_root, register
from .shapes import register_shapes

NAME = "{{ cookiecutter.dataset_name }}"
SPLITS = ("train", "val")
# The order gives the class ids. Empty: all names found in the annotations, sorted. Write them down
# before you share a checkpoint, so that its classes keep their ids when the data change.
CLASSES = ()


def register_datasets():
    """Registers every data set of the project. Nothing is read before it is asked for."""
    register_shapes()  # generated; configs/smoke.{{ cookiecutter.__suffix }} and the tests train on it
    for split in SPLITS:
        name = f"{NAME}_{split}"
        register(name, partial(load, name, split), evaluator_type="coco")


def load(name: str, split: str) -> list[dict]:
    """The dataset dicts of a split; sets the class names in the metadata.

    Raises:
        FileNotFoundError: the folder is not laid out as above.
        ValueError: an annotation has a class that is not in CLASSES.
    """
    root = datasets_root() / NAME
    for needed in (root / "Annotations", root / f"ImageSets/Main/{split}.txt"):
        if not needed.exists():
            raise FileNotFoundError(
                f"data set '{NAME}' needs {needed.absolute()}, which is not there. Put or link the "
                f"folder at {root}, or say in {Path(__file__).name} where it is."
            )
    found = _class_names(root / "Annotations")
    classes = list(CLASSES) or found
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise ValueError(f"{root}/Annotations has classes that are not in CLASSES: {unknown}")
    MetadataCatalog.get(name).thing_classes = classes
    return load_voc_instances(str(root), split, classes)


@cache
def _class_names(folder: Path) -> list[str]:
    files = sorted(folder.glob("*.xml"))
    return sorted({e.text for file in files for e in ET.parse(file).iterfind("object/name")})
