#!/usr/bin/env python
"""Looks for mistakes in datasets: in images, boxes, masks, keypoints, classes and label maps.

uv run tools/check_dataset.py shapes_train shapes_val
uv run tools/check_dataset.py --config-file configs/smoke.{{ cookiecutter.__suffix }}   # its datasets, and its anchors
uv run tools/check_dataset.py cells_train --fix mended   # a copy without what training leaves out
"""

from d2_starter.doctor.command import main

from {{ cookiecutter.package_name }}.data.dataset import register_datasets
from {{ cookiecutter.package_name }}.experiment import load_experiment

if __name__ == "__main__":
    main(register_datasets, load_experiment)
