"""The fast path of images: what detectron2 makes of them, in less time."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from PIL import Image

from d2_starter.data import image as images
from d2_starter.data.image import FastResize, read_image, read_label_map, to_tensor
from d2_starter.predict.memory import to_rgb


@pytest.fixture
def photo():
    """Of 90 x 120 pixels, with some noise."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((120, 90), Image.BICUBIC)).astype(int)
    return Image.fromarray(
        (smooth + generator.integers(-9, 9, smooth.shape)).clip(0, 255).astype("u1")
    )


@pytest.mark.parametrize("format", ["BGR", "RGB"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_same_pixels(photo, tmp_path, format, mode, subsampling, orientation, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = str(tmp_path / "photo.jpg")
    photo.convert(mode).save(file, quality=85, subsampling=subsampling, exif=exif)
    expected = utils.read_image(file, format)
    monkeypatch.setattr(images.utils, "read_image", None)  # not by detectron2
    image = read_image(file, format)
    assert image.flags.c_contiguous and np.array_equal(image, expected)


@pytest.mark.parametrize(
    "mode, suffix", [("RGB", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "jpg")]
)
def test_other_files_are_left_to_detectron2(photo, tmp_path, mode, suffix):
    file = str(tmp_path / f"photo.{suffix}")
    photo.convert(mode).save(file)
    assert np.array_equal(read_image(file, "BGR"), utils.read_image(file, "BGR"))


def test_cut_off_file_is_an_error(photo, tmp_path):
    file = tmp_path / "photo.jpg"
    photo.save(file)
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(OSError, match="truncated"):
        read_image(str(file), "BGR")


def test_damaged_png_is_an_error(photo, tmp_path):
    """detectron2 itself gives an image whose lower part is black."""
    file = tmp_path / "photo.png"
    photo.save(file)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    with pytest.raises(OSError):
        read_image(str(file), "BGR")
    with pytest.raises(OSError):
        to_rgb(Image.open(file))


def test_fast_resize_differs_by_little_in_few_values(photo):
    image = np.asarray(photo)
    for size in (60, 75, 150):
        slow = T.ResizeShortestEdge(size, 1000)
        pair = [a.get_transform(image).apply_image(image) for a in (slow, FastResize(slow))]
        difference = np.abs(pair[0].astype(int) - pair[1].astype(int))
        assert difference.max() <= 2 and difference.astype(bool).mean() < 0.1
    label_map = image[..., 0]
    transforms = [a.get_transform(image) for a in (slow, FastResize(slow))]
    assert np.array_equal(*[t.apply_segmentation(label_map) for t in transforms])
    same = T.ResizeShortestEdge(90, 1000)
    assert np.array_equal(FastResize(same).get_transform(image).apply_image(image), image)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_tensor_of_a_fast_resized_image(photo, is_mirrored):
    """The training's augmentations, and to_tensor at the end."""
    inputs = T.AugInput(np.asarray(photo))
    resize = FastResize(T.ResizeShortestEdge(60, 1000))
    T.AugmentationList([resize, T.RandomFlip(1.0 if is_mirrored else 0.0)])(inputs)
    expected = torch.from_numpy(np.ascontiguousarray(inputs.image)).permute(2, 0, 1)
    tensor = to_tensor(inputs.image)
    assert tensor.shape == (3, 60, 80)
    assert torch.equal(tensor, expected) and tensor.is_contiguous()


def test_fast_resize_is_for_training(load):
    """Test images are those that detectron2's evaluations see."""
    record = DatasetCatalog.get("shapes_train")[0]
    keys = ["INPUT.MIN_SIZE_TRAIN", "(150,)", "INPUT.MIN_SIZE_TEST", 150]
    experiment = load(*keys, "INPUT.RANDOM_FLIP", "none")
    plain = DatasetMapper(experiment.config, is_train=False)(record)["image"]
    assert torch.equal(experiment.build_mapper(is_train=False)(record)["image"], plain)
    trained = experiment.build_mapper(is_train=True)(record)["image"]
    difference = (trained.int() - plain.int()).abs()
    assert 0 < difference.max() <= 2
    experiment.config.INPUT.FAST_RESIZE = False
    assert torch.equal(experiment.build_mapper(is_train=True)(record)["image"], plain)


def test_tensor_of_any_array():
    color = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    for image in (color, color[:, ::-1], color[::-1], color[..., :1], color / 2, color[..., ::-1]):
        expected = torch.from_numpy(image.copy()).permute(2, 0, 1)
        assert torch.equal(to_tensor(image), expected) and to_tensor(image).is_contiguous()


def test_palette_of_a_label_map_does_not_matter(tmp_path):
    labels = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5) % 5)
    labels.save(tmp_path / "gray.png")
    labels.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 99, 99, 99])
    labels.save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    expected = np.arange(20).reshape(4, 5) % 5
    for name in ("gray", "palette"):
        assert np.array_equal(read_label_map(str(tmp_path / f"{name}.png")), expected)
