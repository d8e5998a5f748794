"""Tiles of large images: at random places for training, on a grid for evaluation and prediction."""

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T

from .sample import transform


class TileCrop(T.Augmentation):
    """Takes a random tile, mostly around an object. A smaller image gets a gray margin.

    Objects at the tile's border are cut, and their boxes with them. INPUT.MIN_VISIBLE says how much
    of one has to be left.
    """

    def __init__(self, size: Sequence[int], around_object: float = 0.8):
        """
        Args:
            size: height and width of the tile, pixels.
            around_object: how often it is around an object: one of them at random is in it, whole
                if it fits. Else the tile is anywhere, so that background is seen too.
        """
        super().__init__()
        self.size, self.around_object = tuple(size), around_object
        self.input_args = ("image", "boxes")

    def get_transform(self, image, boxes):
        lengths = image.shape[:2]
        if boxes is not None and len(boxes) and self._rand_range() < self.around_object:
            x0, y0, x1, y1 = boxes[np.random.randint(len(boxes))]
        else:
            (y0, y1), (x0, x1) = ((0, length) for length in lengths)
        start = [self._start(*a) for a in zip((y0, x0), (y1, x1), self.size, lengths)]
        (y, x), (height, width) = start, np.minimum(self.size, lengths)
        crop = T.CropTransform(x, y, width, height, lengths[1], lengths[0])
        bottom, right = self.size[0] - height, self.size[1] - width
        pad = T.PadTransform(0, 0, right, bottom, width, height, 128, 255)
        return T.TransformList([crop, pad] if bottom or right else [crop])

    @staticmethod
    def _start(low, high, size, length):
        """A random start of a tile that contains low to high, or lies in it if that is longer."""
        first, last = sorted((high - size, low))
        first, last = max(0, int(np.ceil(first))), min(length - size, int(last))
        return (
            np.random.randint(first, last + 1)
            if last > first
            else max(0, min(first, length - size))
        )


def grid(size: Sequence[int], tile: Sequence[int], overlap: int) -> list[tuple[int, int, int, int]]:
    """Returns tiles (x0, y0, x1, y1) that cover an image; neighbours share at least `overlap`.

    Args:
        size, tile: height and width, of the image and of a tile.
    """
    rows, columns = (_spans(*lengths, overlap) for lengths in zip(size, tile))
    return [(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]


def _spans(length, tile, overlap):
    if length <= tile:
        return [(0, length)]
    number = int(np.ceil((length - overlap) / (tile - overlap)))
    starts = np.linspace(0, length - tile, number).round().astype(int).tolist()
    return [(start, start + tile) for start in starts]


class TileMapper:
    """Maps a dataset dict to its tiles, each of which is an input of detectron2's models.

    The tiles are cut from the image as it is in the file, and then resized as test images are. The
    output is the record with the size of the whole image, and `tiles`, a list of inputs. Each says
    its place: `tile`, (x0, y0, x1, y1) in pixels of the image.
    """

    def __init__(self, mapper, size: Sequence[int], overlap: int, whole_image: bool = True):
        """
        Args:
            mapper: the one for whole images, with `read`, `augment` and `to_input`.
            size: height and width of a tile, pixels.
            overlap: pixels that neighbours share.
            whole_image: whether the whole image is an input too, the last.
        """
        if not hasattr(mapper, "to_input"):
            raise ValueError(
                "tiles need a mapper with read, augment and to_input, as in the project's "
                f"data/dataset_mapper.py; {type(mapper).__name__} has not. "
                "Set TEST.TILES.ENABLED False."
            )
        self.mapper, self.size, self.overlap, self.whole_image = mapper, size, overlap, whole_image

    def __getattr__(self, name):
        if name == "mapper":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.mapper, name)

    def __call__(self, dataset_dict: dict) -> dict:
        sample = self.mapper.read(dataset_dict)
        height, width = sample.size
        places = grid(sample.size, self.size, self.overlap)
        if self.whole_image and len(places) > 1:
            places.append((0, 0, width, height))
        kept = {
            k: v for k, v in dataset_dict.items() if k not in ("annotations", "sem_seg_file_name")
        }
        return kept | {
            "height": height,
            "width": width,
            "tiles": [self._tile(dataset_dict, sample, place) for place in places],
        }

    def _tile(self, record, sample, place):
        x0, y0, x1, y1 = place
        height, width = sample.size
        crop = T.AugmentationList([T.CropTransform(x0, y0, x1 - x0, y1 - y0, width, height)])
        tile = transform(sample, crop)
        tile = self.mapper.augment(tile, self.mapper.read)
        record = record | {"height": y1 - y0, "width": x1 - x0, "tile": place}
        return self.mapper.to_input(record, tile)
