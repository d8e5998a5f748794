"""Makes a data set in COCO's format, with as many objects in an image as COCO has: 7.3 on average.

Runs inside of a project: synthetic_coco.py FOLDER WIDTH HEIGHT TRAINING_IMAGES TEST_IMAGES
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = [f"class {i}" for i in range(80)]


def picture(random, width, height) -> Image.Image:
    """Smooth color with some grain: a JPEG of 0.2 to 0.3 bytes a pixel, as photographs have."""
    small = Image.fromarray(random.integers(0, 256, (height // 16, width // 16, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = random.normal(0, 6, (height, width, 1)).astype(np.int16)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def polygon(random, width, height) -> np.ndarray:
    """(25, 2): a star-shaped outline; the sizes of objects spread as widely as COCO's."""
    radius = 0.5 * min(width, height) * min(0.9, random.lognormal(-1.8, 0.9))
    angles = np.linspace(0, 2 * np.pi, 25, endpoint=False)
    radii = radius * random.uniform(0.6, 1, 25)
    center = random.uniform(0, (width, height))
    points = center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points.clip(0, (width - 1, height - 1)).round(2)


def annotation(random, width, height, image_id, number) -> dict | None:
    points = polygon(random, width, height)
    (x, y), (right, bottom) = points.min(axis=0), points.max(axis=0)
    if right - x < 2 or bottom - y < 2:
        return None
    next_points = np.roll(points, -1, axis=0)
    area = abs(points[:, 0] @ next_points[:, 1] - points[:, 1] @ next_points[:, 0]) / 2
    return {
        "id": number,
        "image_id": image_id,
        "category_id": int(random.integers(1, 81)),
        "bbox": [float(x), float(y), float(right - x), float(bottom - y)],
        "area": float(area),
        "segmentation": [points.ravel().tolist()],
        "iscrowd": 0,
    }


def main():
    folder, *numbers = sys.argv[1:]
    width, height, *counts = map(int, numbers)
    random = np.random.default_rng(0)
    folder = Path(folder)
    (folder / "annotations").mkdir(parents=True)
    for split, count in zip(("train", "val"), counts, strict=True):
        (folder / split).mkdir()
        images, annotations = [], []
        for image_id in range(1, count + 1):
            name = f"{image_id:06d}.jpg"
            picture(random, width, height).save(folder / split / name, quality=85)
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            for _ in range(random.geometric(1 / 7.3)):
                found = annotation(random, width, height, image_id, len(annotations) + 1)
                annotations += [found] if found else []
        categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
