#!/usr/bin/env python
"""Packs a run into one file: weights, config, classes, environment, metrics, model card.

uv run tools/pack.py output/smoke                               # output/smoke.pth
uv run tools/pack.py output/smoke --for-resume                  # also to train on elsewhere
uv run tools/pack.py smoke.pth --unpack output/smoke            # a run directory again
uv run tools/pack.py output/smoke --test tests/test_model.py    # a test of the model, for CI

The file is read by Predictor, by the tools, and as MODEL.WEIGHTS.
"""

from d2_starter.export.pack_command import main

from {{ cookiecutter.package_name }}.experiment import load_experiment

if __name__ == "__main__":
    main(load_experiment, __doc__)
