"""A generated dataset: circles, squares and triangles between sky and ground.

It has boxes, masks, keypoints, panoptic and semantic ground truth in COCO's formats, so that every
config of the project can be tried before any real data is there. The files are made on first use
in `$DETECTRON2_DATASETS/shapes` (default `datasets/shapes`), the same ones in every run; delete the
folder to have them made again. Where datasets can only be read, they are made in the cache.
"""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data.datasets import load_coco_json, load_sem_seg
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic
from PIL import Image, ImageDraw

from .catalog import atomic_folder, cache_folder, datasets_root, register

SPLITS = {"train": 400, "val": 80}  # images
SIZE = 128  # height and width of an image, pixels
THINGS = ("circle", "square", "triangle")
STUFF = ("sky", "ground")
CLASSES = THINGS + STUFF
COLORS = ((220, 60, 60), (60, 160, 60), (70, 90, 220), (130, 190, 240), (150, 120, 80))
# The outermost points of a shape; mirroring an image swaps left and right.
KEYPOINTS = ("top", "right", "bottom", "left")
# (x, y) of the unit shapes' outlines and keypoints, y downwards.
OUTLINES = {
    "circle": [(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 24, endpoint=False)],
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0, -1), (1, 0.8), (-1, 0.8)],
}
POINTS = {
    "circle": [(0, -1), (1, 0), (0, 1), (-1, 0)],
    "square": [(0, -0.85), (0.85, 0), (0, 0.85), (-0.85, 0)],
    "triangle": [(0, -1), (1, 0.8), (0, 0.8), (-1, 0.8)],
}


def register_shapes():
    """Registers `shapes_train` and `shapes_val`, and their `_panoptic` and `_semantic` variants."""
    root = shapes_root()
    things = {"thing_classes": list(THINGS), "thing_colors": list(COLORS[: len(THINGS)])}
    for split in SPLITS:
        instances = {
            "json_file": str(root / f"annotations/instances_{split}.json"),
            "image_root": str(root / f"images_{split}"),
            **things,
        }
        register(
            f"shapes_{split}",
            partial(_load_instances, root, split),
            evaluator_type="coco",
            keypoint_names=list(KEYPOINTS),
            keypoint_flip_map=[("left", "right")],
            **instances,
        )
        # As in detectron2's own panoptic datasets, class 0 of the semantic head is all things.
        register(
            f"shapes_{split}_panoptic",
            partial(_load_panoptic, root, split),
            evaluator_type="coco_panoptic_seg",
            panoptic_json=str(root / f"annotations/panoptic_{split}.json"),
            panoptic_root=str(root / f"panoptic_{split}"),
            stuff_classes=["things", *STUFF],
            stuff_colors=[(255, 255, 255), *COLORS[len(THINGS) :]],
            thing_dataset_id_to_contiguous_id={1: 0, 2: 1, 3: 2},
            stuff_dataset_id_to_contiguous_id={0: 0, 4: 1, 5: 2},
            ignore_label=255,
            **instances,
        )
        register(
            f"shapes_{split}_semantic",
            partial(_load_semantic, root, split, "semantic"),
            evaluator_type="sem_seg",
            stuff_classes=list(CLASSES),
            stuff_colors=list(COLORS),
            ignore_label=255,
        )


def _load_instances(root, split, name=None):
    make_shapes()
    json_file = str(root / f"annotations/instances_{split}.json")
    return load_coco_json(json_file, str(root / f"images_{split}"), name or f"shapes_{split}")


def _load_semantic(root, split, kind):
    make_shapes()
    return load_sem_seg(str(root / f"{kind}_{split}"), str(root / f"images_{split}"))


def _load_panoptic(root, split):
    instances = _load_instances(root, split, f"shapes_{split}_panoptic")
    return merge_to_panoptic(instances, _load_semantic(root, split, "stuff"))


def shapes_root() -> Path:
    """Returns where the dataset is, or is to be made."""
    root = datasets_root().absolute() / "shapes"
    place = next(folder for folder in root.parents if folder.exists())
    is_usable = root.exists() or os.access(place, os.W_OK)
    return datasets_root() / "shapes" if is_usable else cache_folder() / "shapes"


def make_shapes() -> Path:
    """Returns the folder of the dataset. Its files are made, atomically, if they are not there."""
    root = shapes_root()
    if not root.exists():
        with atomic_folder(root) as temporary:
            for number, (split, images) in enumerate(SPLITS.items()):
                rngs = [np.random.default_rng([number, i]) for i in range(images)]
                _make_split(temporary, split, rngs)
    return root


def _make_split(root: Path, split: str, rngs: list[np.random.Generator]):
    folders = {k: root / f"{k}_{split}" for k in ("images", "panoptic", "stuff", "semantic")}
    for folder in (*folders.values(), root / "annotations"):
        folder.mkdir(exist_ok=True)
    images, instances, panoptic = [], [], []
    for image_id, rng in enumerate(rngs, start=1):
        image, segments, shapes = _draw(rng)
        name = f"{image_id:06d}"
        images.append({"id": image_id, "file_name": f"{name}.jpg", "height": SIZE, "width": SIZE})
        classes = np.array([*(CLASSES.index(s) for s in STUFF), *(c for c, _, _ in shapes)])
        infos = [
            {"id": i + 1, "category_id": int(classes[i]) + 1, "iscrowd": 0, "area": int(area)}
            for i, area in enumerate(np.bincount(segments.ravel()))
        ]
        panoptic.append({"image_id": image_id, "file_name": f"{name}.png", "segments_info": infos})
        for info, (_, outline, points) in zip(infos[len(STUFF) :], shapes):
            corner, extent = outline.min(0), np.ptp(outline, axis=0)
            instances.append(
                {
                    **info,
                    "id": len(instances) + 1,
                    "image_id": image_id,
                    "bbox": [*corner.tolist(), *extent.tolist()],
                    "segmentation": [outline.ravel().tolist()],
                    "keypoints": [v for x, y in points.tolist() for v in (x, y, 2)],
                    "num_keypoints": len(points),
                }
            )
        Image.fromarray(image).save(folders["images"] / f"{name}.jpg", quality=95)
        for kind, values in (
            ("semantic", classes[segments]),
            ("stuff", np.maximum(classes - len(THINGS) + 1, 0)[segments]),
            # COCO's panoptic PNGs hold id = R + 256 G + 256^2 B, and 0 for no segment.
            ("panoptic", np.stack([segments + 1, 0 * segments, 0 * segments], axis=-1)),
        ):
            Image.fromarray(values.astype(np.uint8)).save(folders[kind] / f"{name}.png")

    categories = [
        {"id": i + 1, "name": name, "isthing": int(name in THINGS), "color": COLORS[i]}
        for i, name in enumerate(CLASSES)
    ]
    things = [{**c, "keypoints": KEYPOINTS} for c in categories if c["isthing"]]
    for kind, annotations, listed in (
        ("instances", instances, things),
        ("panoptic", panoptic, categories),
    ):
        content = {"images": images, "annotations": annotations, "categories": listed}
        path = root / "annotations" / f"{kind}_{split}.json"
        path.write_text(json.dumps(content), encoding="utf-8")


def _draw(rng: np.random.Generator):
    """Draws one image.

    Returns:
        image: (SIZE, SIZE, 3) uint8, RGB
        segments: (SIZE, SIZE) int, 0 sky, 1 ground, 2 + i the i-th shape
        shapes: a list of (class index, outline (N, 2), keypoints (4, 2)), in pixels
    """
    segments = np.zeros((SIZE, SIZE), dtype=np.int64)
    segments[rng.integers(SIZE // 3, 2 * SIZE // 3) :] = 1
    colors = [np.array(COLORS[CLASSES.index(s)]) for s in STUFF]
    shapes = []
    taken = np.zeros((SIZE, SIZE), dtype=bool)  # shapes do not overlap: every outline is visible
    for _ in range(rng.integers(1, 6)):
        radius = rng.uniform(8, 24)
        center = rng.uniform(radius + 1, SIZE - radius - 1, size=2)
        x, y = center.astype(int)
        reach = int(radius) + 2
        area = np.s_[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach]
        if taken[area].any():
            continue
        taken[area] = True
        category = int(rng.integers(len(THINGS)))
        outline, points = (
            (center + radius * np.array(table[THINGS[category]])).round(2)
            for table in (OUTLINES, POINTS)
        )
        canvas = Image.fromarray(segments.astype(np.uint8))
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in outline], fill=len(colors))
        segments = np.array(canvas).astype(np.int64)
        # Any color: the class shows in the outline alone.
        colors.append(rng.integers(0, 256, size=3))
        shapes.append((category, outline, points))
    image = np.stack(colors)[segments] + rng.normal(0, 12, size=(SIZE, SIZE, 3))
    return image.clip(0, 255).astype(np.uint8), segments, shapes
