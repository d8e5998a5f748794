#!/usr/bin/env python
"""Compares runs on the same test set: uv run tools/compare.py output/a output/b"""

from d2_starter.report.compare import main

from {{ cookiecutter.package_name }}.experiment import load_experiment

if __name__ == "__main__":
    main(load_experiment)
