#!/usr/bin/env python
"""Shows a dataset as the model sees it: uv run tools/visualize_data.py --help"""

from d2_starter.pictures.command import main

from {{ cookiecutter.package_name }}.experiment import load_experiment

if __name__ == "__main__":
    main(load_experiment)
