#!/usr/bin/env python
"""Exports a trained model, and evaluates the file by the project's own evaluator.

uv run tools/export.py output/smoke --format onnx torchscript
uv run tools/export.py output/smoke --half                      # half the size

A file whose AP is more than 0.1 from the model's is removed, and the exit status is 1.
docs/use.md shows a program that uses the ONNX file without PyTorch.
"""

from d2_starter.export.command import main

from {{ cookiecutter.package_name }}.experiment import load_experiment

if __name__ == "__main__":
    main(load_experiment, __doc__)
