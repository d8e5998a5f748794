"""The project's data sets: where their files are and how they are read.

detectron2 has {{ cookiecutter.__dataset }} built in, and says where it expects the files:
https://detectron2.readthedocs.io/tutorials/builtin_datasets.html
`$DETECTRON2_DATASETS`, if set, takes the place of `datasets`.
"""

from d2_starter.data.catalog import adopt
from d2_starter.data.shapes import register_shapes

NAMES = ("{{ cookiecutter.__dataset }}_train", "{{ cookiecutter.__dataset }}_val")


def register_datasets():
    """Registers every data set of the project. Nothing is read before it is asked for."""
    register_shapes()  # generated; configs/smoke.{{ cookiecutter.__suffix }} and the tests train on it
    for name in NAMES:
        adopt(name)
