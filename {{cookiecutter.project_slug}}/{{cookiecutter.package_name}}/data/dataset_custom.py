"""The project's datasets: what they are called and how they are read.

This one works, on a table of six objects in three of the generated pictures. Put your own class
names into CLASSES and your own reading into `load`.
"""

from functools import partial

from d2_starter.data.catalog import register
from d2_starter.data.datasets import register_project
from d2_starter.data.shapes import make_shapes, register_shapes
from detectron2.structures import BoxMode

NAME = "my_dataset"
SPLITS = ("train", "val")
CLASSES = ("circle", "square", "triangle")  # the order gives the category ids
EXAMPLE = {  # file name, class, and the corners of the box: x0, y0, x1, y1
    "train": """
        000001.jpg  circle      5    3   30   27
        000001.jpg  square     70   53  100   83
        000001.jpg  triangle   95    5  111   19
        000003.jpg  square     62   17   86   42
    """,
    "val": """
        000001.jpg  circle     12   76   59  123
        000001.jpg  triangle   83   60  100   75
    """,
}


def register_datasets():
    """Registers every dataset of the project. Nothing is read before it is asked for."""
    register_shapes()  # generated; the smoke config and the tests train on it
    register_project(__file__)  # those of datasets.json, if tools/set_dataset.py wrote some
    for split in SPLITS:
        name = f"{NAME}_{split}"
        register(name, partial(load, split), evaluator_type="coco", thing_classes=list(CLASSES))


def load(split: str) -> list[dict]:
    """Your data as detectron2's dataset dicts, one an image:

        {
            "file_name": "path/to/image.jpg",
            "image_id": "image",            # unique within the split; default: the file's name
            "height": 480, "width": 640,    # pixels; default: read from the file
            "annotations": [                # one an object; an empty list if there is none
                {
                    "bbox": [x0, y0, x1, y1],             # pixels
                    "bbox_mode": BoxMode.XYXY_ABS,        # or XYWH_ABS: [x0, y0, width, height]
                    "category_id": 0,                     # index in CLASSES
                    "segmentation": [[x, y, x, y, ...]],  # optional: polygons, or an RLE
                    "keypoints": [x, y, visible, ...],    # optional; visible: 0, 1 or 2
                    "iscrowd": 0,                         # optional; 1: left out of training
                }
            ],
            "sem_seg_file_name": "path/to/labels.png",    # optional: the class of each pixel
        }

    https://detectron2.readthedocs.io/tutorials/datasets.html has all fields.

    Args:
        split: one of SPLITS.
    """
    images = make_shapes() / f"images_{split}"
    records = {}
    for line in EXAMPLE[split].strip().splitlines():
        file_name, class_name, *box = line.split()
        record = records.setdefault(
            file_name,
            {
                "file_name": str(images / file_name),
                "image_id": file_name,
                "height": 128,
                "width": 128,
                "annotations": [],
            },
        )
        record["annotations"].append(
            {
                "bbox": [float(value) for value in box],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": CLASSES.index(class_name),
            }
        )
    return list(records.values())
