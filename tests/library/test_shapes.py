"""The generated dataset."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from d2_starter.data import shapes


def test_shapes_are_the_same_in_every_run(tmp_path, monkeypatch):
    folders = []
    for name in ("first", "second"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / name))
        shapes.register_shapes()
        DatasetCatalog.get("shapes_train")
        folders.append(tmp_path / name / "shapes")
    monkeypatch.undo()
    shapes.register_shapes()
    files = [{f.relative_to(d): f.read_bytes() for f in d.rglob("*.*")} for d in folders]
    assert files[0] == files[1]
    assert len(files[0]) == 4 * (24 + 8) + 4


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_agree_with_each_other(split):
    records = DatasetCatalog.get(f"shapes_{split}_panoptic")
    semantic = DatasetCatalog.get(f"shapes_{split}_semantic")
    assert len(records) == len(semantic) == shapes.SPLITS[split]
    for record, other in zip(records, semantic, strict=True):
        classes = np.array(Image.open(other["sem_seg_file_name"]))
        stuff = np.array(Image.open(record["sem_seg_file_name"]))
        assert ((classes < 3) == (stuff == 0)).all()
        for annotation in record["annotations"]:
            x0, y0, x1, y1 = annotation["bbox"]
            assert classes[int(y0 + y1) // 2, int(x0 + x1) // 2] == annotation["category_id"]
            points = np.array(annotation["keypoints"]).reshape(-1, 3)[:, :2] - 0.5
            assert (points.min(0) >= [x0 - 0.01, y0 - 0.01]).all()
            assert (points.max(0) <= [x1 + 0.01, y1 + 0.01]).all()
