"""One rule for what images are read as: also those of 16 bits, of floats, and of odd shapes."""

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from d2_starter.data.image import read_image

GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def saved(tmp_path, array, name):
    file = tmp_path / name
    Image.fromarray(array).save(file)
    return str(file)


@pytest.mark.parametrize(
    "array, name",
    [
        (GRAY.astype(np.uint16) * 257, "16.png"),
        (GRAY.astype(np.uint16) * 257, "16.tif"),
        (GRAY.astype(np.int32) * 257, "32.tif"),
        (GRAY.astype(np.float32) / 255, "share.tif"),
        (GRAY.astype(np.float32), "float.tif"),
    ],
)
def test_deep_gray(tmp_path, array, name):
    image = read_image(saved(tmp_path, array, name), "BGR")
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert np.abs(image[..., 0].astype(int) - GRAY).max() <= (1 if name == "share.tif" else 0)


def test_dark_16_bits_stay_dark(tmp_path):
    file = saved(tmp_path, GRAY.astype(np.uint16), "dark.png")
    assert read_image(file, "RGB").max() == 0


@pytest.mark.parametrize("value", [-1, 300, np.nan])
def test_float_of_unknown_range(tmp_path, value):
    file = saved(tmp_path, np.full((4, 4), value, np.float32), "f.tif")
    with pytest.raises(ValueError, match=r"f\.tif has gray values from .* to "):
        read_image(file, "RGB")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_others_are_as_detectron2_reads_them(tmp_path, mode):
    file = tmp_path / "i.png"
    Image.fromarray(np.dstack([GRAY, GRAY.T, GRAY])).convert(mode).save(file)
    expected = detection_utils.read_image(str(file), "BGR")
    assert np.array_equal(read_image(str(file), "BGR"), expected)


@pytest.mark.parametrize("shape", [(3, 3000), (3000, 3)])
def test_too_long(tmp_path, shape):
    file = saved(tmp_path, np.zeros((*shape, 3), np.uint8), "long.png")
    with pytest.raises(ValueError, match=r"long\.png has \d+ x \d+ pixels"):
        read_image(file, "RGB")


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_no_image(tmp_path, content):
    file = tmp_path / "no.png"
    file.write_bytes(content)
    with pytest.raises(OSError, match="no.png"):
        read_image(str(file), "RGB")
