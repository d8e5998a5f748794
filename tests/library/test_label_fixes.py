"""Fixes of annotations: each action, what they leave alone, and what they refuse."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from d2_starter.data.label_fixes import apply_fixes, read_fixes


def dataset():
    def box(category, *xyxy):
        return {"category_id": category, "bbox": list(xyxy), "bbox_mode": BoxMode.XYXY_ABS}

    return [
        {
            "file_name": "data/a.jpg",
            "image_id": 1,
            "annotations": [box(0, 10, 10, 30, 50), box(1, 10, 10, 30, 50), box(0, 60, 60, 70, 70)],
        },
        {"file_name": "data/b.jpg", "image_id": 2, "annotations": []},
        {"file_name": "one/c.jpg", "image_id": 3, "annotations": [box(0, 0, 0, 9, 9)]},
        {"file_name": "two/c.jpg", "image_id": 4, "annotations": [box(0, 0, 0, 9, 9)]},
    ]


def fixes(*entries):
    return {"dataset": "d", "classes": ["cat", "dog"], "fixes": list(entries)}


DROP = {"action": "drop", "file_name": "a.jpg", "class": "cat", "bbox": [10, 10, 20, 40]}
RELABEL = DROP | {"action": "relabel", "class": "dog", "to": "cat"}
ADD = {"action": "add", "file_name": "b.jpg", "class": "dog", "bbox": [1, 2, 3, 4]}


def summary(records):
    return [[(a["category_id"], a["bbox"]) for a in r["annotations"]] for r in records]


def test_drops_relabels_and_adds_without_changing_what_was_given():
    given = dataset()
    fixed = apply_fixes(given, fixes(DROP, RELABEL, ADD))
    assert summary(fixed)[:2] == [
        [(0, [10, 10, 30, 50]), (0, [60, 60, 70, 70])],
        [(1, [1, 2, 4, 6])],
    ]
    assert summary(given) == summary(dataset())
    assert fixed[2] is given[2]


def test_finds_an_annotation_whose_box_was_clipped_or_is_in_another_mode():
    given = dataset()
    given[0]["annotations"][0] |= {"bbox": [10, 10, 20, 40], "bbox_mode": BoxMode.XYWH_ABS}
    near = DROP | {"bbox": [9, 10, 21, 41]}
    assert len(apply_fixes(given, fixes(near))[0]["annotations"]) == 2


def test_image_id_chooses_between_equal_file_names():
    drop = DROP | {"file_name": "c.jpg", "bbox": [0, 0, 9, 9]}
    fixed = apply_fixes(dataset(), fixes(drop | {"image_id": "4"}))
    assert [len(record["annotations"]) for record in fixed] == [3, 0, 1, 0]
    with pytest.raises(ValueError, match="0 images"):
        apply_fixes(dataset(), fixes(drop))


def test_an_added_annotation_has_what_the_others_have():
    given = dataset()
    given[0]["annotations"][0] |= {"segmentation": [[0, 0, 1, 0, 1, 1]], "keypoints": [1, 2, 2] * 3}
    new = apply_fixes(given, fixes(ADD))[1]["annotations"][0]
    assert new["segmentation"] == [[1, 2, 4, 2, 4, 6, 1, 6]] and new["keypoints"] == [0.0] * 9
    mask = [[1, 2, 4, 2, 4, 6]]
    new = apply_fixes(given, fixes(ADD | {"segmentation": mask}))[1]["annotations"][0]
    assert new["segmentation"] == mask


@pytest.mark.parametrize(
    "fix, message",
    [
        (DROP | {"file_name": "z.jpg"}, "0 images"),
        (DROP | {"bbox": [40, 40, 5, 5]}, "no cat with this box"),
        (DROP | {"class": "cow"}, "the classes are"),
        (RELABEL | {"to": "cow"}, "the classes are"),
        (DROP | {"action": "delete"}, "not one of drop"),
    ],
)
def test_refuses_what_does_not_fit(fix, message):
    with pytest.raises(ValueError, match=message):
        apply_fixes(dataset(), fixes(fix))


def test_a_fix_is_not_applied_twice():
    with pytest.raises(ValueError, match="no cat with this box"):
        apply_fixes(dataset(), fixes(DROP, DROP))


def test_reads_a_file_or_says_what_is_wrong(tmp_path):
    path = tmp_path / "fixes.json"
    with pytest.raises(FileNotFoundError, match="Download fixes"):
        read_fixes(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="is no fixes file"):
        read_fixes(path)
    path.write_text(json.dumps(fixes(ADD)))
    assert read_fixes(path) == fixes(ADD)


def test_training_and_evaluation_have_the_fixes(load, tmp_path):
    record = DatasetCatalog.get("shapes_val")[0]
    wrong = record["annotations"][0]
    classes = MetadataCatalog.get("shapes_val").thing_classes
    box = BoxMode.convert(wrong["bbox"], wrong["bbox_mode"], BoxMode.XYWH_ABS)
    fix = {"action": "drop", "file_name": record["file_name"], "bbox": box}
    fix["class"] = classes[wrong["category_id"]]
    file = tmp_path / "fixes.json"
    file.write_text(json.dumps({"dataset": "shapes_val", "classes": classes, "fixes": [fix]}))
    experiment = load("DATASETS.FIXES", (str(file),), "DATASETS.TRAIN", ("shapes_val",))
    (evaluator,) = experiment.build_evaluator("shapes_val", str(tmp_path))._evaluators
    evaluated = json.loads((tmp_path / "ground_truth.json").read_text())["annotations"]
    compared = evaluator._evaluators[0]._coco_api.dataset["annotations"]
    number = sum(len(r["annotations"]) for r in load().test_dataset("shapes_val")) - 1
    assert len(evaluated) == len(compared) == number
    trained = load(
        "DATASETS.FIXES", (str(file),), "DATASETS.TRAIN", ("shapes_val",)
    ).train_arguments()["dataset"]
    assert sum(len(r["annotations"]) for r in trained) == number
    with pytest.raises(FileNotFoundError, match="A report writes one"):
        load("DATASETS.FIXES", ("none.json",)).test_dataset("shapes_val")
