"""The project's data sets: what they are called and how they are read.

For your own data, write a function `load(split)` that returns a list of dataset dicts, and
register it here once for each split:

    register("cells_train", partial(load, "train"), thing_classes=["red", "white"],
             evaluator_type="coco")

Then name it as the training and the test set in configs/base.{{ cookiecutter.__suffix }}.
https://detectron2.readthedocs.io/tutorials/datasets.html lists the fields of a dataset dict.
"""

from d2_starter.data.shapes import register_shapes


def register_datasets():
    """Registers every data set of the project. Nothing is read before it is asked for."""
    register_shapes()
