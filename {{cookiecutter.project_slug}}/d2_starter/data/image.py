"""Reads images, resizes them, and makes tensors of them, on the fast path."""

import io

import cv2
import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

END_OF_JPEG = b"\xff\xd9"
DEEP = ("I", "F")  # with the "I;16..." of Pillow: gray values of 16 or 32 bits, whole or float
LONGEST = 500  # times the short side; what is longer would be resized to nothing
ORIENTATION = 0x0112  # in Exif: how a camera was held; 2 to 4 turn or mirror, 5 to 8 swap sides too
# By orientation: whether to exchange the axes, then to turn over the rows, then the columns.
TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def read_image(file: str, format: str) -> np.ndarray:
    """Reads an image as detectron2's `read_image` does: the same pixels, and the same errors.

    JPEG files, gray or in color, are decoded by OpenCV, straight into the order of channels that
    is asked for. That takes half of Pillow's time, and the array is contiguous, which makes what
    is done to it next faster. All other files, and those that are cut off (OpenCV would fill them
    up with gray), are read as detectron2 reads them, by Pillow, with two exceptions: a damaged PNG
    is an error, and see `to_eight_bits`.

    Args:
        format: of detectron2, such as "BGR" or "RGB".

    Returns:
        (H, W, C) uint8, turned as its Exif orientation says.

    Raises:
        OSError: the file is not there, is no image, or is damaged.
        ValueError: the image cannot be used: its gray values have no known range, or it is more
            than `LONGEST` times as long as it is wide.
    """
    image = _read(file, format)
    height, width = image.shape[:2]
    if max(height, width) > LONGEST * min(height, width):
        raise ValueError(
            f"{file} has {width} x {height} pixels: more than {LONGEST} times as long as wide, it "
            "would be resized to nothing. Cut it into pieces, or leave it out."
        )
    return image


def to_eight_bits(image: Image.Image, file: str = "the image") -> Image.Image:
    """Scales gray values of more than 8 bits to 8; other images stay as they are.

    16 bits lose their lower half, as Pillow does with color images; so 65,535 becomes 255, whatever
    the largest value of the image is. Float values from 0 to 1 are multiplied by 255; those up to
    255 stay. (Pillow's own conversion cuts off everything above 255: images all white or black.)

    Raises:
        ValueError: other values, of which nobody can say what is white.
    """
    if image.mode not in DEEP and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()
    is_float = image.mode == "F"
    if not (low >= 0 and high <= (255 if is_float else 65535)):  # or not a number
        known = "0 to 1, or to 255" if is_float else "0 to 65,535"
        raise ValueError(
            f"{file} has gray values from {low:g} to {high:g}; what is white is known of {known}. "
            "Save it with 8 or 16 bits, scaled as you want it."
        )
    values = values * (255 if high <= 1 else 1) if is_float else values >> 8
    return Image.fromarray(values.astype(np.uint8))


def _read(file, format):
    with PathManager.open(file, "rb") as opened:
        data = opened.read()
    orientation = _orientation_of_plain_jpeg(data) if format in ("BGR", "RGB") else None
    if orientation is None:
        return _read_by_pillow(file, data, format)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        return _read_by_pillow(file, data, format)
    if format == "RGB":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if orientation in TURNS:
        axes, rows, columns = TURNS[orientation]
        image = image.transpose(1, 0, 2) if axes else image
        image = image[::-1] if rows else image
        image = np.ascontiguousarray(image[:, ::-1] if columns else image)
    return image


def _read_by_pillow(file, data, format):
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()  # detectron2's look at Exif would hide that a PNG is broken
            upright = utils._apply_exif_orientation(image)
            return utils.convert_PIL_to_numpy(to_eight_bits(upright, file), format)
    except UnidentifiedImageError:
        what = "is no image that Pillow can read" if data else "is empty"
        raise UnidentifiedImageError(f"{file} {what}") from None
    except (OSError, ValueError):
        raise
    except Exception as error:  # of Pillow's many readers, or more pixels than it takes
        raise OSError(f"{file} cannot be read: {error}") from error


def _orientation_of_plain_jpeg(data):
    """Its Exif orientation (1 if it has none), or None of anything but a whole JPEG file."""
    if not data.startswith(b"\xff\xd8") or not data.endswith(END_OF_JPEG):
        return None
    try:
        with Image.open(io.BytesIO(data)) as header:  # it does not decode
            if header.format != "JPEG" or header.mode not in ("RGB", "L"):  # as CMYK, or several
                return None
            return header.getexif().get(ORIENTATION, 1)
    except Exception:  # detectron2 will say what is wrong, if it is
        return None


class FastResize(T.Augmentation):
    """An augmentation that resizes, such as `T.ResizeShortestEdge`, by PyTorch instead of Pillow.

    Bilinear, with the same antialiasing, but with weights of 16 bits where Pillow's have 22. What
    that changes is written at INPUT.FAST_RESIZE in config.py.
    """

    RESIZES = (T.ResizeShortestEdge, T.Resize, T.ResizeScale)

    def __init__(self, resize: T.Augmentation):
        super().__init__()
        self.resize = resize

    def get_transform(self, image):
        transform = self.resize.get_transform(image)
        if type(transform) is not T.ResizeTransform:
            return transform
        t = transform
        return _FastResizeTransform(t.h, t.w, t.new_h, t.new_w, t.interp)


class _FastResizeTransform(T.ResizeTransform):
    def apply_image(self, img, interp=None):
        is_color = img.dtype == np.uint8 and img.ndim == 3 and img.shape[2] == 3
        if not is_color or (interp or self.interp) != Image.BILINEAR:
            return super().apply_image(img, interp)
        image = torch.from_numpy(np.require(img, requirements="CW")).permute(2, 0, 1)[None]
        size = (self.new_h, self.new_w)
        image = torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
        return image[0].permute(1, 2, 0).numpy()  # its memory is (C, H, W), as to_tensor wants it


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Turns an image, (H, W, C) of any type, into a tensor, (C, H, W)."""
    is_mirrored = image.strides[1] < 0  # a view, which numpy takes long to copy
    planes = (image[:, ::-1] if is_mirrored else image).transpose(2, 0, 1)
    if planes.flags.c_contiguous and planes.flags.writeable:
        return torch.from_numpy(planes).flip(2) if is_mirrored else torch.from_numpy(planes)
    if image.dtype != np.uint8 or image.shape[2] == 1:
        return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
    if is_mirrored:
        image = cv2.flip(np.ascontiguousarray(image[:, ::-1]), 1)
    tensor = torch.empty(image.shape[2], *image.shape[:2], dtype=torch.uint8)
    cv2.split(np.ascontiguousarray(image), list(tensor.numpy()))
    return tensor


def read_label_map(file: str) -> np.ndarray:
    """Reads (H, W) uint8, the class of each pixel: the values in the file, whatever its palette.

    detectron2's own mapper takes the brightness of a palette's colors for classes.
    """
    with Image.open(file) as image:
        return np.array(image)
