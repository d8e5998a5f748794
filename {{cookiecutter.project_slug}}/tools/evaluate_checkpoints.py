#!/usr/bin/env python
"""Evaluates a run's checkpoints, beside its training or after it: see --help"""

from d2_starter.async_evaluation.command import main

from {{ cookiecutter.package_name }}.experiment import load_experiment

if __name__ == "__main__":
    main(load_experiment)
