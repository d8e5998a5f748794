"""Writes what was found: pictures, a video, COCO's JSON, a table, crops, annotations to correct.

Every output has `add(result)`, which may be called by one thread only, and `close()`.
"""

import csv
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from pycocotools import mask as mask_util

from .drawing import draw
from .labels import WRITERS
from .memory import to_rgb


@dataclass
class Result:
    """Holds what was found in one image, or one frame.

    Attributes:
        name: of its results, without extension; see `sources.output_names`.
        file: path of the image or video.
        source: the image: a path, or a frame, (H, W, 3) uint8 in BGR.
        frame: number of the frame in its video; None for images.
    """

    number: int
    name: str
    file: str
    source: Path | np.ndarray
    output: Instances | dict
    frame: int | None = None

    @cached_property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8, RGB."""
        return to_rgb(self.source, "BGR")

    @cached_property
    def instances(self) -> Instances:
        if isinstance(self.output, Instances):
            return self.output
        if "instances" in self.output:
            return self.output["instances"]
        raise ValueError("this model predicts a class for each pixel: pictures are all there is.")


class InThreads:
    """Has an output's files written by threads, while the model works; not too many wait."""

    def __init__(self, threads: int = 2):
        self._pool, self._waiting, self._most = ThreadPoolExecutor(threads), [], 4 * threads

    def add(self, result: Result):
        if len(self._waiting) >= self._most:
            self._waiting.pop(0).result()
        self._waiting.append(self._pool.submit(self.write, result))

    def close(self):
        with self._pool:
            for future in self._waiting:
                future.result()


class Pictures(InThreads):
    """A JPEG file for each image."""

    def __init__(self, folder: Path, metadata: Metadata):
        super().__init__()
        self.folder, self.metadata = folder, metadata

    def write(self, result):
        picture = draw(result.image, result.output, self.metadata)
        save_jpeg(self.folder / f"{result.name}.jpg", picture)


class Crops(InThreads):
    """A JPEG file for each object, in a folder for each class."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def write(self, result):
        found = result.instances
        height, width = result.image.shape[:2]
        frame = "" if result.frame is None else f"-{result.frame:06d}"
        boxes = found.pred_boxes.tensor.numpy()
        for i, (left, top, right, bottom) in enumerate(boxes.tolist()):
            x0, y0 = max(0, int(left)), max(0, int(top))
            x1, y1 = min(width, int(np.ceil(right))), min(height, int(np.ceil(bottom)))
            if x1 > x0 and y1 > y0:
                name = f"{result.name}{frame}-{i}.jpg"
                folder = self.folder / found.names[i].replace("/", "_")
                save_jpeg(folder / name, result.image[y0:y1, x0:x1])


class Movie:
    """A video with the predictions drawn, MP4 as OpenCV writes it."""

    def __init__(self, file: Path, rate: float, metadata: Metadata):
        self.file, self.rate, self.metadata = file, rate, metadata
        self._writer = None

    def add(self, result):
        picture = draw(result.image, result.output, self.metadata)
        height, width = (side - side % 2 for side in picture.shape[:2])  # codecs want even sides
        if self._writer is None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.file), code, self.rate, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"the video {self.file} cannot be written")
        self._writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))

    def close(self):
        if self._writer is not None:
            self._writer.release()


class CocoJson:
    """One file in COCO's format for all images; annotations have a `score`.

    `annotations` alone is what pycocotools' `loadRes` reads.
    """

    def __init__(self, file: Path, metadata: Metadata):
        self.file = file
        known = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        self._ids = {index: number for number, index in known.items()}
        self._names = list(metadata.get("thing_classes") or ())
        self._images, self._number = [], 0
        file.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = file.with_name(f".{file.name}.tmp")
        self._out = open(self._temporary, "w", encoding="utf-8")
        self._out.write('{"annotations": [')

    def add(self, result):
        height, width = result.instances.image_size
        image = {"id": result.number, "file_name": result.file, "height": height, "width": width}
        if result.frame is not None:
            image["frame"] = result.frame
        self._images.append(image)
        for annotation in annotations_of(result.instances):
            index = annotation["category_id"]
            self._number += 1
            entry = {"id": self._number, "image_id": result.number, **annotation, "iscrowd": 0}
            entry["category_id"] = self._ids.get(index, index)
            self._out.write(("," if self._number > 1 else "") + "\n" + json.dumps(entry))

    def close(self):
        categories = [{"id": self._ids.get(i, i), "name": n} for i, n in enumerate(self._names)]
        rest = {"images": self._images, "categories": categories}
        with self._out:
            self._out.write("\n], " + json.dumps(rest)[1:])
        os.replace(self._temporary, self.file)


class Table:
    """A CSV file with a line for each object."""

    HEADER = ("file", "frame", "class", "score", "left", "top", "right", "bottom")

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._out = open(file, "w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._out)
        self._writer.writerow(self.HEADER)

    def add(self, result):
        for row in rows_of(result.instances):
            frame = "" if result.frame is None else result.frame
            self._writer.writerow([result.file, frame, *row.values()])

    def close(self):
        self._out.close()


class Labels:
    """Annotations in the format of a tool in which a person corrects them."""

    def __init__(self, folder: Path, format: str, metadata: Metadata):
        self._writer = WRITERS[format](folder, list(metadata.get("thing_classes") or ()))

    def add(self, result):
        objects = [
            {**a, "name": name}
            for a, name in zip(annotations_of(result.instances, True), result.instances.names)
        ]
        self._writer.add(result.name, result.file, *result.instances.image_size, objects)

    def close(self):
        self._writer.close()


def annotations_of(found: Instances, polygons: bool = False) -> list[dict]:
    """Returns objects as COCO's annotations, with `score`; `category_id` is the index of the class.

    Args:
        polygons: outlines of masks as lists of points; else run lengths (RLE), which are exact.
    """
    boxes = found.pred_boxes.tensor.tolist()
    scores, classes = found.scores.tolist(), found.pred_classes.tolist()
    annotations = []
    for i, (left, top, right, bottom) in enumerate(boxes):
        box = [left, top, right - left, bottom - top]
        annotation = {
            "category_id": classes[i],
            "bbox": [round(v, 2) for v in box],
            "area": round(box[2] * box[3], 1),
            "score": round(scores[i], 5),
        }
        if found.has("pred_masks"):
            mask = found.pred_masks[i].numpy().astype(np.uint8)
            annotation["area"] = cv2.countNonZero(mask)
            annotation["segmentation"] = _polygons(mask) if polygons else _rle(mask)
        if found.has("pred_keypoints"):
            # COCO counts pixels; detectron2 gives points on a pixel's corner. The third: labelled.
            points = found.pred_keypoints[i].numpy()
            flat = np.concatenate([points[:, :2] - 0.5, np.full((len(points), 1), 2)], axis=1)
            annotation["keypoints"] = flat.round(2).ravel().tolist()
        annotations.append(annotation)
    return annotations


def rows_of(found: Instances) -> list[dict]:
    """Returns objects as rows of a table: class, score, and the corners of the box in pixels."""
    corners = ("left", "top", "right", "bottom")
    values = zip(found.names, found.scores.tolist(), found.pred_boxes.tensor.tolist())
    return [
        {"class": name, "score": round(score, 5)} | {k: round(v, 2) for k, v in zip(corners, box)}
        for name, score, box in values
    ]


def to_dataframe(found: Instances):
    """Returns objects as a pandas DataFrame, a row for each.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError("a table needs pandas: uv add pandas (or pip install pandas)") from None
    columns = ["class", "score", "left", "top", "right", "bottom"]
    return pandas.DataFrame(rows_of(found), columns=columns)


def to_supervision(found: Instances):
    """Returns objects as `supervision.Detections`.

    Raises:
        ImportError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise ImportError(
            "supervision.Detections needs supervision: uv add supervision (or pip install "
            "supervision; it brings opencv-python, which must then replace opencv-python-headless)"
        ) from None
    masks = None
    if found.has("pred_masks") and len(found):
        masks = np.stack([mask.numpy() for mask in found.pred_masks])
    return supervision.Detections(
        xyxy=found.pred_boxes.tensor.numpy(),
        confidence=found.scores.numpy(),
        class_id=found.pred_classes.numpy(),
        mask=masks,
        data={"class_name": np.array(list(found.names), dtype=str)},
    )


def save_jpeg(file: Path, picture: np.ndarray):
    """Writes (H, W, 3) uint8 in RGB.

    Raises:
        OSError: it cannot be written.
    """
    _, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)  # and not imwrite, which fails without a word


def _rle(mask):
    rle = mask_util.encode(cv2.transpose(mask).T)  # columns first, as np.asfortranarray, sooner
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _polygons(mask):
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours = [cv2.approxPolyDP(contour, 0.75, True) for contour in contours]
    # Pixels have an extent: their centers are half a pixel from the corners that are counted.
    return [(c.reshape(-1) + 0.5).tolist() for c in contours if len(c) >= 3]
