#!/usr/bin/env python
"""Finds what is wrong with a dataset: uv run tools/check_dataset.py --help"""

from d2_starter.doctor.command import main

from {{ cookiecutter.package_name }}.data.dataset import register_datasets
from {{ cookiecutter.package_name }}.experiment import load_experiment

if __name__ == "__main__":
    main(load_experiment, register_datasets)
