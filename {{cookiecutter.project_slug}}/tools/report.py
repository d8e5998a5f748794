#!/usr/bin/env python
"""Writes an HTML report of a run directory: uv run tools/report.py output/smoke"""

from {{ cookiecutter.package_name }}.experiment import load_experiment

from d2_starter.report.page import main

if __name__ == "__main__":
    main(load_experiment)
