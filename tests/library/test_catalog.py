"""The catalog: registration, the cache, held-out images, clean boxes."""

import copy
import logging
import pickle

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from d2_starter.data import catalog

BOX = {"bbox": [1.0, 2.0, 30.0, 40.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
RECORD = {"file_name": "a.jpg", "image_id": 1, "height": 50, "width": 50}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A data set in two files, registered as "cached"; `calls` has an entry for each loading."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "CACHED_FROM", 0)
    folder = tmp_path / "labels"
    folder.mkdir()
    for name in ("one.txt", "two.txt"):
        (folder / name).write_text("x")

    def load():
        calls.append(1)
        MetadataCatalog.get("cached").thing_classes = ["a", "b"]
        outside = BOX | {"bbox": [40.0, 0.0, 70.0, 20.0]}
        return [copy.deepcopy(RECORD | {"annotations": [BOX, outside]})]

    def restart():
        """As a new process would."""
        catalog.register("cached", load, lambda: [folder], evaluator_type="coco")

    calls = []
    restart()
    files = list(folder.iterdir())
    return files, calls, restart


def test_data_set_is_loaded_once_for_many_processes(files, caplog):
    _, calls, restart = files
    first = DatasetCatalog.get("cached")
    restart()
    assert catalog.get_metadata("cached").thing_classes == ["a", "b"]
    assert MetadataCatalog.get("cached").evaluator_type == "coco"
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        second = DatasetCatalog.get("cached")
    assert second == first and second[0]["annotations"][1]["bbox"] == [40, 0, 50, 20]
    assert len(calls) == 1
    assert "cached: 1 boxes clipped to their image: a.jpg [40.0, 0.0, 70.0, 20.0]" in caplog.text


@pytest.mark.parametrize("change", ["rewritten", "touched", "added", "removed"])
def test_changed_file_is_noticed(files, change):
    (one, two), calls, _ = files
    DatasetCatalog.get("cached")
    match change:
        case "rewritten":
            one.write_text("y")  # of the same length
        case "touched":
            one.touch()
        case "added":
            one.with_name("three.txt").write_text("x")
        case "removed":
            two.unlink()
    DatasetCatalog.get("cached")
    assert len(calls) == 2
    DatasetCatalog.get("cached")
    assert len(calls) == 2


def test_what_is_quick_to_load_is_not_cached(files, monkeypatch):
    _, calls, _ = files
    monkeypatch.setattr(catalog, "CACHED_FROM", 60)
    DatasetCatalog.get("cached")
    DatasetCatalog.get("cached")
    assert len(calls) == 2
    assert not catalog.cache_folder().exists()


def test_broken_cache_is_made_again(files):
    _, calls, _ = files
    whole = DatasetCatalog.get("cached")
    (file,) = catalog.cache_folder().iterdir()
    for content in (b"", b"nonsense", file.read_bytes()[:-20]):
        file.write_bytes(content)
        assert DatasetCatalog.get("cached") == whole
    assert len(calls) == 4


def test_without_a_place_for_the_cache_it_works_as_well(files, tmp_path, monkeypatch):
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    assert len(DatasetCatalog.get("cached")) == 1


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, "x"], None, [[1, 2], [3, 4]]])
def test_box_that_is_none_is_named(box):
    records = [copy.deepcopy(RECORD | {"annotations": [BOX, BOX | {"bbox": box}]})]
    catalog.register("no_box", lambda: records, thing_classes=["a"])
    with pytest.raises(ValueError, match=r"'no_box', record 0 \(a.jpg\), annotation 1: 'bbox' is"):
        DatasetCatalog.get("no_box")


def test_boxes_as_in_the_files_for_the_checks(files):
    assert catalog.load_uncleaned("cached")[0]["annotations"][1]["bbox"] == [40, 0, 70, 20]


def test_data_sets_of_detectron2_get_clean_boxes(tmp_path, monkeypatch):
    DatasetCatalog.register(
        "adopted", lambda: [RECORD | {"annotations": [BOX | {"bbox": [0, 0, 99, 99]}]}]
    )
    MetadataCatalog.get("adopted").set(thing_classes=["a"], evaluator_type="coco")
    for _ in range(2):
        catalog.adopt("adopted")
        assert DatasetCatalog.get("adopted")[0]["annotations"][0]["bbox"] == [0, 0, 50, 50]
    assert MetadataCatalog.get("adopted").thing_classes == ["a"]
    with pytest.raises(KeyError, match=r"'adopte' is not registered. Nearest names: adopted"):
        catalog.adopt("adopte")


def test_registration_reads_nothing_and_can_be_repeated():
    calls = []
    for _ in range(2):
        catalog.register("lazy", lambda: calls.append(1) or [], thing_classes=["a"])
    assert not calls
    assert DatasetCatalog.get("lazy") == []
    assert calls == [1]
    assert catalog.get_metadata("lazy").thing_classes == ["a"]
    assert len(catalog.get_metadata("lazy").thing_colors) == 1


def test_boxes_outside_of_the_image_are_clipped_or_dropped_with_a_warning(caplog):
    boxes = [[10, 10, 50, 50], [80, 20, 130, 60], [30, 30, 31, 40], [200, 0, 300, 50]]
    record = {"file_name": "a.jpg", "height": 100, "width": 100}
    record["annotations"] = [BOX | {"bbox": box} for box in boxes]
    catalog.register("defects", lambda: [record], thing_classes=["a"])
    with caplog.at_level(logging.WARNING):
        (cleaned,) = DatasetCatalog.get("defects")
    assert [a["bbox"] for a in cleaned["annotations"]] == [boxes[0], [80, 20, 100, 60]]
    assert "defects: 1 boxes clipped" in caplog.text
    assert "defects: 2 boxes dropped as empty: a.jpg [30.0, 30.0, 31.0, 40.0]" in caplog.text


def test_rotated_boxes_are_left_alone():
    rotated = {"bbox": [90, 50, 40, 20, 30], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0}
    record = {"file_name": "a.jpg", "height": 100, "width": 100, "annotations": [dict(rotated)]}
    catalog.register("rotated", lambda: [record], thing_classes=["a"])
    assert DatasetCatalog.get("rotated")[0]["annotations"] == [rotated | {"iscrowd": 0}]


def test_a_cache_of_somebody_else_runs_no_code(files, tmp_path):
    """It may lie in a folder that others can write to."""

    class Call:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    _, calls, _ = files
    DatasetCatalog.get("cached")
    (file,) = catalog.cache_folder().iterdir()
    file.write_bytes(pickle.dumps(Call()))
    DatasetCatalog.get("cached")
    assert len(calls) == 2 and not (tmp_path / "executed").exists()


def test_names_of_classes_that_loading_finds():
    """Those of things are known before; those of stuff are in the files."""

    def load():
        MetadataCatalog.get("both").set(stuff_classes=["things", "sky"])
        return []

    catalog.register("both", load, thing_classes=["cat"], evaluator_type="coco_panoptic_seg")
    assert catalog.get_metadata("both").stuff_classes == ["things", "sky"]
