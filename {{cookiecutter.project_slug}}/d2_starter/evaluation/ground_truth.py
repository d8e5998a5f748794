"""The ground truth of an evaluation, beside its results: reports need no dataset and no model.

inference/<dataset>/ground_truth.json        COCO's format, and "dataset", "fingerprint",
                                             "evaluator_type", "stuff_classes", "oks_sigmas"
inference/<dataset>/sem_seg_per_image.json   {file name: [[true, predicted, pixels], ...]}
inference/<dataset>/panoptic_per_image.json  {"categories": [{"id", "name"}], "images": {image id:
                                             {category id: [TP, FP, FN, sum of IoU]}}}
"""

import json
import os
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils import comm

from ..data.fingerprint import fingerprint


def write_ground_truth(
    folder: str | Path, name: str, dataset_dicts: list[dict], coco: dict | None = None, sigmas=()
):
    """Writes `ground_truth.json`, on rank 0.

    Args:
        folder: of the evaluators' files, inference/<dataset>.
        name: of the registered dataset.
        dataset_dicts: those that are evaluated, which may be a subset.
        coco: what the evaluator compares with, such as `COCOEvaluator._coco_api.dataset`. None:
            what a COCOEvaluator would read for this dataset, nothing for a semantic one.
        sigmas: of the keypoints, TEST.KEYPOINT_OKS_SIGMAS.
    """
    if not comm.is_main_process():
        return
    metadata = MetadataCatalog.get(name)
    if coco is None and any("annotations" in record for record in dataset_dicts):
        file = metadata.get("json_file")
        coco = json.loads(Path(file).read_text("utf-8")) if file else convert_to_coco_dict(name)
    known = {image["id"]: image for image in (coco or {}).get("images", ())}
    images = []
    for number, record in enumerate(dataset_dicts):
        image_id = record.get("image_id", number)
        image = known.get(image_id, {}) | {"id": image_id}
        files = {k: record[k] for k in ("file_name", "sem_seg_file_name") if record.get(k)}
        image |= {key: os.path.abspath(file) for key, file in files.items()}
        images.append(image | {k: record[k] for k in ("width", "height") if k in record})
    ids = {image["id"] for image in images}
    content = {
        "dataset": name,
        "fingerprint": fingerprint(dataset_dicts),
        "evaluator_type": metadata.get("evaluator_type"),
        "stuff_classes": metadata.get("stuff_classes"),
        "oks_sigmas": list(sigmas),
        "images": images,
        "annotations": [a for a in (coco or {}).get("annotations", ()) if a["image_id"] in ids],
        "categories": (coco or {}).get("categories", []),
    }
    _write(Path(folder) / "ground_truth.json", content)


class PerImageSemSegEvaluator(SemSegEvaluator):
    """detectron2's evaluator, which also writes the pixels of each pair of classes by image."""

    def reset(self):
        super().reset()
        self._per_image = {}

    def process(self, inputs, outputs):
        for image, output in zip(inputs, outputs):
            before = self._conf_matrix.copy()
            super().process([image], [output])
            pixels = (self._conf_matrix - before)[:, :-1].T  # (true, predicted), without ignored
            pairs = [[*map(int, pair), int(pixels[tuple(pair)])] for pair in np.argwhere(pixels)]
            self._per_image[os.path.abspath(image["file_name"])] = pairs

    def evaluate(self):
        gathered = comm.gather(self._per_image)
        if comm.is_main_process() and self._output_dir:
            content = {file: pairs for part in gathered for file, pairs in part.items()}
            _write(Path(self._output_dir) / "sem_seg_per_image.json", content)
        return super().evaluate()


def write_panoptic_counts(folder: str | Path, images: dict, names: dict):
    """Writes `panoptic_per_image.json`.

    Args:
        images: image id: {category id: [TP, FP, FN, sum of IoU]}.
        names: category id: its name.
    """
    categories = [{"id": category, "name": name} for category, name in names.items()]
    path = Path(folder) / "panoptic_per_image.json"
    _write(path, {"categories": categories, "images": images})


def _default(value):
    return value.decode() if isinstance(value, bytes) else value.tolist()


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, default=_default), encoding="utf-8")
