"""What detectron2's loaders leave out of files in COCO's formats: their list of categories."""

import json
import mmap
import re
from pathlib import Path

from detectron2.utils.colormap import colormap

# Of the names of keypoints: what becomes of one side in the mirror.
SIDES = [("left", "right"), ("Left", "Right"), ("^l_", "r_"), ("_l$", "_r")]


def read_categories(json_file: Path) -> list[dict]:
    """The `categories` of a file, sorted by id, without reading the rest of it.

    Raises:
        ValueError: the file has none.
    """
    with open(json_file, "rb") as file:
        text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = re.search(rb'"categories"\s*:\s*', text)
        size = 2**16
        while found:
            part = text[found.end() : found.end() + size]
            try:
                categories, _ = json.JSONDecoder().raw_decode(part.decode(errors="ignore"))
                return sorted(categories, key=lambda category: category["id"])
            except ValueError:
                if len(part) < size:
                    break
                size *= 16
    raise ValueError(f"{json_file} has no list of categories.")


def keypoint_metadata(json_file: Path) -> dict:
    """What the metadata of a data set with keypoints need; empty if it has none.

    Returns:
        `keypoint_names`; `keypoint_flip_map`, the pairs whose names differ in left and right, which
        mirroring swaps; `keypoint_connection_rules`, the skeleton as (name, name, color), without
        lines to keypoints that there are not.
    """
    with_keypoints = [c for c in read_categories(json_file) if c.get("keypoints")]
    if not with_keypoints:
        return {}
    names = with_keypoints[0]["keypoints"]
    colors = colormap(rgb=True).astype(int).tolist()
    skeleton = with_keypoints[0].get("skeleton") or []  # pairs of numbers that start at 1
    return {
        "keypoint_names": names,
        "keypoint_flip_map": [
            (name, mirrored)
            for name in names
            for mirrored in {re.sub(*side, name) for side in SIDES}
            if mirrored != name and mirrored in names
        ],
        "keypoint_connection_rules": [
            (names[a - 1], names[b - 1], tuple(colors[i % len(colors)]))
            for i, (a, b) in enumerate(skeleton)
            if 1 <= min(a, b) and max(a, b) <= len(names)
        ],
    }
