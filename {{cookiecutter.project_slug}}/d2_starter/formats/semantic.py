"""Label maps: a PNG for each image, whose values are the numbers of classes."""

import os
import re
import statistics
import struct
import zlib

from .base import Sources, Split, class_file, class_names, split_of
from .files import PNG, Tree, image_size, is_image, spread, stem
from .problems import Unusable
from .voc import image_folder

NEEDS = "images and PNG label maps (one channel) of the same names, in images/ and masks/"
LABEL_MAPS = r"(?<![a-z])(labels?|masks?|annotations?|segmentationclass|gt|groundtruth)(?![a-z])"
MAX_PIXELS = 10_000_000  # of label maps decoded to see their values; about 3 seconds


def find(tree: Tree) -> Sources:
    """Finds folders of label maps, each with its folder of images."""
    found: Sources = {}
    for folder in tree.folders() if not tree.given else ():
        if not re.search(LABEL_MAPS, folder.lower()) or "panoptic" in folder:
            continue
        stems = {stem(name) for name in tree.names(folder) if name.lower().endswith(".png")}
        images = image_folder(tree, stems, split_of(folder), LABEL_MAPS) if stems else ""
        inside = {stem(name) for name in tree.names(images) if is_image(name)}
        if stems & inside and folder != images:
            source = {"labels": folder, "images": images, "description": class_file(tree)}
            found.setdefault(split_of(folder), []).append(source)
    return found


def read(split: Split):
    """Reads pairs of an image and a label map; what has no counterpart is left out."""
    tree, (labels, folder) = split.tree, (split.source[key] for key in ("labels", "images"))
    maps = {stem(name): name for name in tree.names(labels) if name.lower().endswith(".png")}
    images = [name for name in tree.names(folder) if is_image(name)]
    for name in images:
        if stem(name) in maps:
            path = tree.path(f"{labels}/{maps[stem(name)]}")
            record = split.add_image(tree.path(f"{folder}/{name}"), stem(name), 1, 1)
            del record["width"], record["height"], record["annotations"]
            record["sem_seg_file_name"] = path
    without = [name for name in images if stem(name) not in maps]
    split.problems.add_all("labels-missing", without, lambda name: tree.path(f"{folder}/{name}"))
    split.tasks = {"semantic"}
    split.metadata["objects"] = len(split.records)
    description = split.source["description"]
    split.stuff = class_names(split.path("description")) if description else []
    if split.is_light and split.records:
        _look_inside(split)


def _look_inside(split):
    """Checks a sample of the maps; finds the classes, and the value that is none."""
    files = [record["sem_seg_file_name"] for record in split.records]
    for file in spread(files, 500):
        _check(file)
    sizes = [size for size in map(image_size, spread(files, 100)) if size]
    split.metadata["sizes"] = sizes
    pixels = statistics.mean(width * height for width, height in sizes)
    sample = spread(files, min(200, max(1, int(MAX_PIXELS / max(1, pixels)))))
    values: set[int] = set()
    for file in sample:
        try:
            values |= label_values(file)
        except (IndexError, ValueError, struct.error, zlib.error):
            raise Unusable(f"{file!a} cannot be read as a PNG label map") from None
    if split.stuff:
        others = sorted(values - set(range(len(split.stuff))) - {255})
        if len(others) == 1 and 255 not in values:
            split.metadata["ignore_label"] = others[0]
        split.metadata["others"] = others
        return
    split.stuff = [f"class_{number}" for number in range(max(values - {255}, default=0) + 1)]
    split.metadata["sample"] = len(sample)
    if len(split.stuff) == 1:
        raise Unusable(
            f"{os.path.dirname(files[0])!a}: label maps have only the values {sorted(values)}."
            " Classes are 0, 1, 2 ..., and 255 means not labelled: write 1 instead of 255"
        )


def _check(file):
    with open(file, "rb") as opened:
        start = opened.read(29)
    if not start.startswith(PNG) or len(start) < 29:
        raise Unusable(f"{file!a} is not a PNG")
    depth, color = start[24], start[25]
    if not (color == 3 or (color == 0 and depth == 8)):
        kind = {0: "gray", 2: "RGB", 4: "gray with alpha", 6: "RGBA"}.get(color, f"kind {color}")
        raise Unusable(
            f"{file!a} is a PNG of {depth}-bit {kind}; label maps have one channel of 8 bits, whose"
            " values are class ids (0, 1, 2 ...; 255: not labelled). Convert colors to ids"
        )


def label_values(file: str) -> set[int]:
    """Returns the values in a label map; 0 may be reported although it is not there."""
    with open(file, "rb") as opened:
        data = opened.read(64 << 20)
    width, height, depth = struct.unpack(">IIB", data[16:25])
    position, packed = 8, []
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        if kind == b"IDAT":
            packed.append(data[position + 8 : position + 8 + length])
        position += length + 12
    stride = (width * depth + 7) // 8
    size = height * (stride + 1)
    if size > 256 << 20:
        raise ValueError("too large")
    rows = zlib.decompressobj().decompress(b"".join(packed), size or 1)
    if data[28] or len(rows) < size:
        raise ValueError("interlaced, or rows are missing")
    row, seen = bytes(stride), set()
    for start in range(0, size, stride + 1):
        row = _unfiltered(rows[start], rows[start + 1 : start + 1 + stride], row)
        seen.update(row)
    return {byte >> shift & (1 << depth) - 1 for byte in seen for shift in range(0, 8, depth)}


def _unfiltered(kind: int, line: bytes, above: bytes) -> bytes:
    """Returns a row of a PNG of one byte a pixel, of which `line` has the differences."""
    if kind == 0:
        return line
    row, left, corner = bytearray(), 0, 0
    for difference, up in zip(line, above, strict=True):
        if kind == 4:  # the neighbour nearest to left + up - corner
            guess = min(left, up, corner, key=lambda v, p=left + up - corner: abs(p - v))
        else:
            guess = (0, left, up, (left + up) // 2)[kind]
        left, corner = (difference + guess) & 255, up
        row.append(left)
    return bytes(row)
