"""The page of pictures of a dataset: what a user sees of it."""

import copy
import re
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import CONFIGS, load_yaml
from detectron2.data import DatasetCatalog
from PIL import Image

from d2_starter.data.catalog import register
from d2_starter.data.shapes import COLORS
from d2_starter.pictures.command import main

CLASSES = ["circle", "square", "triangle"]


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """`show(*options, output=...)` runs the command: the folder, and what it printed."""

    def show(*options, config="smoke", output="page"):
        config_file = CONFIGS / f"{config}.yaml"
        arguments = ["--config-file", config_file, "--output", tmp_path / output, *options]
        monkeypatch.setattr(sys, "argv", ["visualize_data", *map(str, arguments)])
        main(load_yaml)
        assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
        return tmp_path / output, capsys.readouterr().out

    return show


@pytest.fixture
def refusal(show, capsys):
    def refusal(*options, **where):
        with pytest.raises(SystemExit) as exit:
            show(*options, **where)
        assert exit.value.code == 2
        return capsys.readouterr().err

    return refusal


@pytest.fixture
def registered():
    """`registered(name, change)` registers shapes_val, changed, until the test ends."""
    names = []

    def registered(name, change):
        records = DatasetCatalog.get("shapes_val")
        change(records)
        register(name, lambda: copy.deepcopy(records), thing_classes=CLASSES)
        names.append(name)

    yield registered
    for name in names:
        DatasetCatalog.remove(name)


def pictures(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "pictures").iterdir())}


def html(folder) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def entries(folder) -> list[str]:
    return re.findall(r"<article.*?</article>", html(folder), re.DOTALL)


def pixels(picture) -> np.ndarray:
    return np.asarray(Image.open(picture)).astype(int)


def test_page(show):
    folder, out = show("--number", 5)
    assert out.splitlines()[-1] == f"5 pictures in {folder / 'index.html'}"
    assert len(entries(folder)) == 5
    page = html(folder)
    assert "5 of 24 images" in page
    records = DatasetCatalog.get("shapes_train")
    number = sum(a["category_id"] == 1 for record in records for a in record["annotations"])
    images = sum(any(a["category_id"] == 1 for a in r["annotations"]) for r in records)
    assert re.search(f"square</th><td>{number}</td><td>{images}</td>", page)
    linked = re.findall(r'<img src="pictures/(.*?)"', page)
    assert sorted(linked) == list(pictures(folder)) and len(linked) == 15
    assert page.count('alt="0000') == 15 and 'lang="en"' in page and "http" not in page
    for file in linked:
        assert Image.open(folder / "pictures" / file).size == (640, 640)


def test_seed(show):
    """The same pictures again, byte for byte; number and augmented change none of those there."""
    few = pictures(show("--number", 3, "--augmented", 1)[0])
    assert few == pictures(show("--number", 3, "--augmented", 1, output="again")[0])
    many = pictures(show("--number", 6, "--augmented", 3, output="many")[0])
    assert len(few) == 6 and len(many) == 24 and few.items() <= many.items()
    other = pictures(show("--number", 6, "--seed", 1, output="other")[0])
    assert set(other) != {name for name in many if not name.endswith("-3.jpg")}


def test_other_augmentations(show):
    """Of another seed, and among each other."""
    options = ["--dataset", "shapes_val", "--number", 8, "--augmented", 4]
    first, second = (pictures(show(*options, "--seed", s, output=f"{s}")[0]) for s in (0, 1))
    assert set(first) == set(second) and len(first) == 8 * 5
    same = {name for name in first if first[name] == second[name]}
    assert {name for name in first if name.endswith("-0.jpg")} <= same != set(first)
    assert len({first[f"000000-{k}.jpg"] for k in range(1, 5)}) == 2  # mirrored or not


def test_colors(show):
    """BGR inputs come out as they look, so that they are like the annotated ones or their mirror
    image; objects have the color of their class."""
    folder, _ = show("--number", 3, "INPUT.RANDOM_FLIP", "none")
    for name in pictures(folder):
        annotated = pixels(folder / "pictures" / f"{name[:6]}-0.jpg")
        shown = pixels(folder / "pictures" / name)
        distance = min(np.abs(annotated - s).mean() for s in (shown, shown[:, ::-1]))
        assert distance < 12  # keypoints and labels differ
        used = [c for c, n in enumerate(CLASSES) if f"{n} " in entry_of(folder, name)]
        for c in used:
            assert (np.abs(shown - COLORS[c]).max(axis=2) < 40).sum() > 300


def entry_of(folder, picture: str) -> str:
    (entry,) = [entry for entry in entries(folder) if picture in entry]
    return entry


def test_classes(show, refusal):
    """Only images with the class, and of them nothing else is drawn."""
    options = ["--dataset", "shapes_val", "--number", 8]
    everything, _ = show(*options, output="all")
    folder, _ = show(*options, "--classes", "circle")
    with_circle = [
        f"{i:06d}"
        for i, record in enumerate(DatasetCatalog.get("shapes_val"))
        if any(a["category_id"] == 0 for a in record["annotations"])
    ]
    assert 0 < len(with_circle) < 8
    assert sorted({name[:6] for name in pictures(folder)}) == with_circle
    before, after = pictures(everything), pictures(folder)
    for entry in entries(folder):
        (index,) = set(re.findall(r"pictures/(\d+)-", entry))
        alone = "square" not in entry and "triangle" not in entry
        for k in range(3):
            name = f"{index}-{k}.jpg"
            assert (before[name] == after[name]) == alone
    assert "no class 'cirkle', but circle, " in refusal("--classes", "cirkle", output="no")


def test_refusals(show, refusal, registered, tmp_path):
    message = refusal("--dataset", "shapes_vall")
    assert "'shapes_vall' is not registered. Nearest names: shapes_val" in message
    registered("no_circles", lambda records: [r["annotations"].clear() for r in records])
    message = refusal("--dataset", "no_circles", "--classes", "circle")
    assert "'no_circles' has no image with circle" in message
    assert "--number at least 1" in refusal("--number", 0)
    assert "there is no config file" in refusal(config="none")
    assert list(tmp_path.iterdir()) == []


def test_output_folder(show, refusal, tmp_path):
    """An earlier page is replaced, as a whole; what is not the tool's stays."""
    folder, _ = show("--number", 3)
    show("--number", 1)
    assert len(entries(folder)) == 1 and len(pictures(folder)) == 3

    (folder / "notes.txt").write_text("mine")
    assert "something else" in refusal("--number", 1)
    assert (folder / "notes.txt").exists() and len(pictures(folder)) == 3

    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<h1>My site</h1>")
    assert "something else" in refusal("--number", 1, output="site")
    assert (site / "index.html").read_text() == "<h1>My site</h1>"

    (tmp_path / "empty").mkdir()
    assert len(entries(show("--number", 1, output="empty")[0])) == 1


def test_interruption(show, monkeypatch, tmp_path):
    """leaves the earlier page, and nothing half-written."""
    folder, _ = show("--number", 1)
    earlier = pictures(folder)

    def interrupt(self, index):
        raise KeyboardInterrupt

    monkeypatch.setattr("d2_starter.pictures.data_page.DataPage.add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        show("--number", 2)
    assert pictures(folder) == earlier and list(tmp_path.iterdir()) == [folder]


def test_errors_do_not_stop_it(show, registered, tmp_path):
    """They are in the place of the picture that cannot be, in words, with names escaped."""
    (tmp_path / "a <b>.jpg").write_text("not an image")

    def spoil(records):
        records[1]["file_name"] = str(tmp_path / "a <b>.jpg")
        records[2]["height"] += 1

    registered("spoilt", spoil)
    folder, out = show("--dataset", "spoilt")
    assert out.splitlines()[-1] == f"8 pictures in {folder / 'index.html'}, 2 of them with an error"
    shown = entries(folder)
    assert "UnidentifiedImageError" in shown[1] and "<img" not in shown[1]
    assert "a &lt;b&gt;.jpg" in shown[1] and "<b>" not in html(folder)
    assert shown[2].count("SizeMismatchError") == 1 and shown[2].count("<img") == 1
    assert all(entry.count("<img") == 3 for entry in shown[3:])
    assert 'href="#image-1"' in html(folder) and 'id="image-1"' in shown[1]


def test_masks(show):
    """They are drawn where the model gets them: all else is alike in these two configs."""
    boxes, masks = (
        pictures(show("--number", 4, "MODEL.MASK_ON", has_masks, output=has_masks)[0])
        for has_masks in ("False", "True")
    )
    same = {name for name in boxes if boxes[name] == masks[name]}
    assert same == {name for name in boxes if name.endswith("-0.jpg")}


def test_rle_masks_and_a_crowd(show, registered):
    """RLE masks look like polygons; a crowd is annotated, but not what a model gets."""

    def to_rle(records):
        for annotation in (a for record in records for a in record["annotations"]):
            polygons = mask_util.frPyObjects(annotation["segmentation"], 128, 128)
            annotation["segmentation"] = mask_util.merge(polygons)
        records[0]["annotations"][0]["iscrowd"] = 1

    registered("polygons", lambda records: None)
    registered("rle", to_rle)
    keys = ["INPUT.MASK_FORMAT", "bitmask"]
    polygons, _ = show("--dataset", "polygons", "--number", 8)
    rle, out = show("--dataset", "rle", "--number", 8, *keys, output="rle")
    assert "error" not in out
    for name in pictures(polygons):
        if not name.startswith("000000"):
            both = (pixels(folder / "pictures" / name) for folder in (polygons, rle))
            assert np.abs(np.subtract(*both)).mean() < 3
    left = len(DatasetCatalog.get("rle")[0]["annotations"]) - 1
    assert f"objects: {left}<" in entry_of(rle, "000000-1.jpg")


def names(kind):
    return [
        "DATASETS.TRAIN",
        f"('shapes_train_{kind}',)",
        "DATASETS.TEST",
        f"('shapes_val_{kind}',)",
    ]


TASKS = {
    "boxes": ["MODEL.MASK_ON", "False"],
    "keypoints": ["MODEL.KEYPOINT_ON", "True"],
    "panoptic": names("panoptic"),
    "semantic": names("semantic"),
}


@pytest.mark.parametrize("task", TASKS)
def test_tasks(show, task):
    """What a model of the task learns from is in the augmented pictures."""
    folder, out = show("--number", 2, *TASKS[task])
    assert "error" not in out and len(pictures(folder)) == 6
    page = html(folder)
    has_points = task == "keypoints"
    assert ("Keypoints:" in page) == (task in ("keypoints", "boxes"))
    for name in pictures(folder):
        shown = pixels(folder / "pictures" / name)
        blue = np.abs(shown - [0, 113, 188]).max(axis=2) < 24  # of the first keypoint
        if not name.endswith("-0.jpg"):
            assert (blue.sum() > 30) == has_points
    if task in ("panoptic", "semantic"):
        assert re.search(r"sky \d+ %", page)
        part, _ = show("--number", 2, "--classes", "sky", "--seed", 0, *TASKS[task], output="sky")
        before, after = pictures(folder), pictures(part)
        assert set(before) == set(after) and all(before[n] != after[n] for n in before)
