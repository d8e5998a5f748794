"""Images that are in memory, for mappers, which read files."""

import io
import itertools
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from PIL import Image

from ..data.image import read_image, to_eight_bits

PREFIX = "image-in-memory://"
ORDERS = ("RGB", "BGR")


class _Handler(PathHandler):
    """Lets detectron2's PathManager open images in memory, so that any mapper can read them."""

    def __init__(self):
        self.images = {}
        self.numbers = itertools.count()

    def _get_supported_prefixes(self):
        return [PREFIX]

    def _open(self, path, mode="r", buffering=-1, **kwargs):
        image = self.images[path]
        header = b"P6 %d %d 255\n" % (image.shape[1], image.shape[0])
        return io.BytesIO(header + image.tobytes())  # a PPM file: nothing is compressed


_handler = _Handler()
PathManager.register_handler(_handler, allow_override=True)


@contextmanager
def as_file(image: np.ndarray):
    """Gives an image, (H, W, 3) uint8 in RGB, a file name, as long as the context lasts."""
    name = f"{PREFIX}{next(_handler.numbers)}.ppm"
    _handler.images[name] = image
    try:
        yield name
    finally:
        del _handler.images[name]


def to_rgb(image, channels: str | None = None) -> np.ndarray:
    """Returns a path, a PIL image or an array as (H, W, 3) uint8 in RGB.

    Args:
        image: files and PIL images are turned upright by their Exif orientation, as in training;
            an array is (H, W, 3) or (H, W), uint8.
        channels: the order of an array's channels, "RGB" or "BGR" (as OpenCV reads files).

    Raises:
        OSError: the file is not there, is no image, or is damaged.
        TypeError, ValueError: it is no image, or the order of its channels is not said.
    """
    if isinstance(image, str | Path):
        return read_image(str(image), "RGB")
    if isinstance(image, Image.Image):
        image.load()  # detectron2's look at Exif would hide that a PNG is broken
        upright = to_eight_bits(_apply_exif_orientation(image))
        return np.asarray(upright.convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is a path, a PIL image or an array, not {type(image).__name__}.")
    is_gray = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
    if image.dtype != np.uint8 or not image.size or not (is_gray or image.shape[2:] == (3,)):
        raise ValueError(
            f"an array of shape {image.shape} and type {image.dtype} is no image: give "
            "(height, width, 3) or (height, width), uint8."
        )
    if is_gray:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if channels not in ORDERS:
        raise ValueError(
            f"channels is {channels!r}. Say in which order an array has them: channels='RGB', or "
            "channels='BGR' if OpenCV made it."
        )
    return image if channels == "RGB" else image[:, :, ::-1]
