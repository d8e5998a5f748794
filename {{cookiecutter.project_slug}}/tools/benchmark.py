#!/usr/bin/env python
"""Measures what limits the speed of a training: uv run tools/benchmark.py --help"""

from d2_starter.benchmark.command import main

from {{ cookiecutter.package_name }}.experiment import load_experiment

if __name__ == "__main__":
    main(load_experiment)
