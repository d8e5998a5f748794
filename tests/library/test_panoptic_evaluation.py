import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from d2_starter.evaluation.panoptic import PanopticEvaluator


def test_quality_of_an_image_counted_by_hand(tmp_path):
    """A circle and the sky match, one circle is wrong; void and crowds excuse two predictions."""
    circle, square, sky = 1, 2, 4
    rows = np.array([1, 1, 1, 1, 2, 2, 2, 2, 3, 0])  # a 10 x 10 image, one segment id a row
    png = np.zeros((10, 10, 3), dtype=np.uint8)
    png[..., 0] = rows[:, None]
    Image.fromarray(png).save(tmp_path / "a.png")
    truth = [(1, circle), (2, sky, 0), (3, circle, 1)]  # some do not say that they are no crowd
    infos = [dict(zip(("id", "category_id", "iscrowd"), values, strict=False)) for values in truth]
    content = {
        "annotations": [{"image_id": 5, "file_name": "a.png", "segments_info": infos}],
        "categories": [
            {"id": i, "isthing": int(i != sky), "name": name}
            for i, name in ((circle, "circle"), (square, "square"), (sky, "sky"))
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    MetadataCatalog.get("by_hand").set(
        panoptic_json=str(tmp_path / "truth.json"),
        panoptic_root=str(tmp_path),
        thing_dataset_id_to_contiguous_id={circle: 0, square: 1},
        stuff_dataset_id_to_contiguous_id={sky: 0},
    )
    predicted = torch.tensor([1, 1, 1, 2, 2, 2, 2, 5, 3, 4])[:, None].repeat(1, 10)
    segments = [
        {"id": 1, "isthing": True, "category_id": 0},  # 3 of the circle's 4 rows: IoU 3/4
        {"id": 2, "isthing": False, "category_id": 0},  # 3 of the sky's 4, 1 beside: IoU 3/5
        {"id": 5, "isthing": True, "category_id": 0},  # a circle in the sky: wrong
        {"id": 3, "isthing": True, "category_id": 0},  # in a crowd of circles
        {"id": 4, "isthing": True, "category_id": 1},  # in void
    ]
    evaluator = PanopticEvaluator("by_hand", str(tmp_path / "results"))
    evaluator.reset()
    evaluator.process([{"image_id": 5}], [{"panoptic_seg": (predicted, segments)}])
    quality = evaluator.evaluate()["panoptic_seg"]
    assert np.isnan(quality.pop("PQ-square"))
    circles = {"PQ_th": 100 * 0.75 / 1.5, "SQ_th": 75, "RQ_th": 100 / 1.5}
    assert quality == pytest.approx(
        {
            **circles,
            **{"PQ_st": 60, "SQ_st": 60, "RQ_st": 100},
            **{"PQ-circle": 50, "PQ-sky": 60},
            **{"PQ": (50 + 60) / 2, "SQ": (75 + 60) / 2, "RQ": (100 / 1.5 + 100) / 2},
        }
    )
    written = json.loads((tmp_path / "results" / "panoptic_per_image.json").read_text())
    assert written["images"] == {"5": {"1": [1, 1, 0, 0.75], "4": [1, 0, 0, 0.6]}}
