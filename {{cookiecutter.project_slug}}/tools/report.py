#!/usr/bin/env python
"""Writes an HTML report of a run directory: uv run tools/report.py output/smoke"""

from d2_starter.report.page import main

from {{ cookiecutter.package_name }}.experiment import load_experiment

if __name__ == "__main__":
    main(load_experiment)
