#!/usr/bin/env python
"""Finds objects in images, folders, videos and cameras by a trained model.

uv run tools/predict.py output/smoke photo.jpg folder "more/**/*.png" clip.mp4 --output found
uv run tools/predict.py output/smoke folder --save json csv crops --threshold 0.7
uv run tools/predict.py output/smoke folder --format labelme   # annotations that you correct
uv run tools/predict.py output/smoke aerial.tif --tiles 1000   # small objects in large images

Inputs that cannot be read are named and skipped; the exit status is then 1.
"""

from d2_starter.predict.command import main

from {{ cookiecutter.package_name }}.experiment import load_experiment

if __name__ == "__main__":
    main(load_experiment, __doc__)
