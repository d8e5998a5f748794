#!/usr/bin/env python
"""Draws what a trained model finds in photographs:

uv run tools/predict.py output/smoke photo.jpg more/*.jpg --output found
"""

import argparse
from pathlib import Path

import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from PIL import Image
from tqdm import tqdm

from {{ cookiecutter.package_name }}.engine.checkpoint import Checkpointer
from {{ cookiecutter.package_name }}.engine.visualize import draw_prediction
from {{ cookiecutter.package_name }}.experiment import (
    build_mapper,
    build_model,
    get_config,
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="output folder of a training")
    parser.add_argument("images", type=Path, nargs="+", help="image files")
    parser.add_argument("--output", type=Path, default="found", help="folder for the pictures")
    parser.add_argument("--threshold", type=float, default=0.5, help="lowest score that is drawn")
    parser.add_argument("--weights", help="checkpoint; default: the last one of the run")
    args = parser.parse_args()
    if not (args.run / "config.yaml").is_file():
        parser.error(f"{args.run} is not the output folder of a training: it has no config.yaml")
    missing = [str(image) for image in args.images if not image.is_file()]
    if missing:
        parser.error(f"no such image: {', '.join(missing)}")

    cfg = get_config(str(args.run / "config.yaml"))
    model = build_model(cfg).eval()
    checkpointer = Checkpointer(model, str(args.run), complete=True)
    weights = args.weights or checkpointer.get_checkpoint_file()
    if not weights:
        parser.error(f"{args.run} has no checkpoint yet; give one with --weights")
    checkpointer.load(weights, checkpointables=[])
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    mapper = build_mapper(cfg, is_train=False)
    args.output.mkdir(parents=True, exist_ok=True)
    for path in tqdm(args.images, unit="image"):
        with torch.no_grad():
            (output,) = model([mapper({"file_name": str(path)})])
        picture = draw_prediction(read_image(path, "RGB"), output, metadata, args.threshold)
        Image.fromarray(picture).save(args.output / f"{path.stem}.jpg", quality=95)
    print(f"{len(args.images)} pictures in {args.output}")


if __name__ == "__main__":
    main()
