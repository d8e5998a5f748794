"""The project's datasets: which there are, and how they are read.

datasets.json says where their files are, and what is in them. `tools/set_dataset.py PATH` writes it
anew, with `--add` beside what is there; docs/data.md has the formats. Register your own here, too:

    from d2_starter.data.catalog import register
    register("mine_train", my_function, evaluator_type="coco", thing_classes=["cat", "dog"])

`my_function` returns detectron2's dataset dicts:
https://detectron2.readthedocs.io/tutorials/datasets.html
"""

from d2_starter.data.datasets import register_project
from d2_starter.data.shapes import register_shapes


def register_datasets():
    """Registers every dataset of the project. Nothing is read before it is asked for."""
    register_shapes()  # generated; the smoke config and the tests train on it
    register_project(__file__)
