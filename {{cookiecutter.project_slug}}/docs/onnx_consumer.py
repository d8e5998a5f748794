"""Finds objects by a file of tools/export.py: python onnx_consumer.py model.onnx photo.jpg"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def predict(session, photo, threshold=0.5):
    """Returns boxes in pixels (N, 4), scores, names, and masks (N, H, W), if the model has them."""
    about = session.get_modelmeta().custom_metadata_map
    how, classes = json.loads(about["preprocessing"]), json.loads(about["classes"])
    image = ImageOps.exif_transpose(photo).convert("RGB")
    scale = how["short_side"] / min(image.size)
    scale *= min(1, how["longest_side"] / (scale * max(image.size)))
    small = image.resize([int(side * scale + 0.5) for side in image.size], Image.BILINEAR)
    pixels = np.asarray(small)[:, :, :: -1 if how["channels"] == "BGR" else 1].transpose(2, 0, 1)
    values = session.run(None, {"image": np.ascontiguousarray(pixels)})
    found = {output.name: value for output, value in zip(session.get_outputs(), values)}
    found = {name: value[found["scores"] >= threshold] for name, value in found.items()}
    boxes = (found["boxes"] * np.divide(image.size * 2, small.size * 2)).clip(0, image.size * 2)
    masks = [paste(mask, box, *image.size) for mask, box in zip(found.get("masks", ()), boxes)]
    return boxes, found["scores"], [classes[i] for i in found["classes"]], masks


def paste(mask, box, width, height):
    """Returns (height, width) bool: the mask of a box in the whole image, interpolated."""
    weights = []
    for low, high, side, length in ((*box[1::2], height, len(mask)), (*box[::2], width, len(mask))):
        position = (np.arange(side) + 0.5 - low) / (high - low) * length - 0.5
        weights.append(np.maximum(0, 1 - np.abs(position[:, None] - np.arange(length))))
    return weights[0] @ mask @ weights[1].T >= 0.5


if __name__ == "__main__":
    found = predict(onnxruntime.InferenceSession(sys.argv[1]), Image.open(sys.argv[2]))
    for box, score, name in zip(*found[:3]):
        print(name, f"{score:.2f}", box.round(1).tolist())
