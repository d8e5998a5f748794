"""The project's data sets: what they are called and how they are read.

Fill in CLASSES and `load`. Until then, configs/smoke.{{ cookiecutter.__suffix }} and the tests train on generated shapes.
"""

from functools import partial

from .catalog import register
from .shapes import register_shapes

NAME = "{{ cookiecutter.dataset_name }}"
SPLITS = ("train", "val")
CLASSES = ()  # e.g. ("red blood cell", "white blood cell"); the order gives the category ids


def register_datasets():
    """Registers every data set of the project. Nothing is read before it is asked for."""
    register_shapes()
    for split in SPLITS:
        name = f"{NAME}_{split}"
        register(name, partial(load, split), evaluator_type="coco", thing_classes=list(CLASSES))


def load(split: str) -> list[dict]:
    """Your data as detectron2's dataset dicts, one an image:

        {
            "file_name": "path/to/image.jpg",
            "image_id": "image",            # unique within the split
            "height": 480, "width": 640,    # pixels
            "annotations": [                # one an object; an empty list if there is none
                {
                    "bbox": [x0, y0, x1, y1],             # pixels
                    "bbox_mode": BoxMode.XYXY_ABS,        # from detectron2.structures
                    "category_id": 0,                     # index in CLASSES
                    "segmentation": [[x, y, x, y, ...]],  # optional: polygons, or an RLE
                    "keypoints": [x, y, visible, ...],    # optional; visible: 0, 1 or 2
                }
            ],
        }

    https://detectron2.readthedocs.io/tutorials/datasets.html has all fields.

    Args:
        split: one of SPLITS.
    """
    raise NotImplementedError(f"data set '{NAME}': fill in load() and CLASSES in {__file__}")
