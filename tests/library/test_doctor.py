"""The checker reports each kind of mistake, and that one alone; it names who is to blame."""

import copy
import json
import math
from functools import partial

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from PIL import Image

from d2_starter import doctor
from d2_starter.data.catalog import register
from d2_starter.data.datasets import is_held_out
from d2_starter.data.shapes import register_shapes
from d2_starter.doctor import command as doctor_command
from d2_starter.doctor.findings import CHECKS, READER_CHECKS
from d2_starter.doctor.pairs import shared_videos
from d2_starter.doctor.reading import Model, read_model
from d2_starter.formats import scan

IMAGES, WIDTH, HEIGHT = 12, 100, 80
EXIF_ORIENTATION = 0x0112
COCO = "my_set"


class Made:
    """A data set in COCO's format without a mistake: two objects an image, a cat and a dog."""

    def __init__(self, folder, seed=0):
        self.folder, self.json_file = folder, folder / "all.json"
        self.random = np.random.default_rng(seed)
        (folder / "images").mkdir(parents=True)
        self.images, self.annotations = [], []
        names = ["nose", "tail"]
        self.categories = [
            {"id": i, "name": name, "keypoints": names} for i, name in ((3, "cat"), (7, "dog"))
        ]
        for i in range(IMAGES):
            image = {"id": i + 100, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT}
            self.images.append(image)
            self.draw(i)
            self.add(image, [6 + i, 8, 24, 20], 3)
            self.add(image, [55 + i, 40 + i, 26, 24], 7)
        for i, encode in ((2, compressed), (4, uncompressed)):
            self.annotations[i]["segmentation"] = encode(self.annotations[i]["bbox"])

    def file(self, i):
        return self.folder / "images" / self.images[i]["file_name"]

    def draw(self, i, size=(WIDTH, HEIGHT), **options):
        pixels = self.random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.file(i), **options)

    def turn(self, i, orientation, upright):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        self.draw(i, (HEIGHT, WIDTH) if upright else (WIDTH, HEIGHT), exif=exif)

    def add(self, image, box, category):
        x, y, w, h = box
        self.annotations.append({
            "id": len(self.annotations) + 1, "image_id": image["id"], "category_id": category,
            "bbox": box, "area": w * h, "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            "keypoints": [x + 2, y + 2, 2, x + w - 2, y + h - 2, 1],
        })  # fmt: skip

    def change(self, i, **values):
        self.annotations[i].update(values)

    def content(self):
        return {k: getattr(self, k) for k in ("images", "annotations", "categories")}

    def register(self, name=COCO, **metadata):
        if self.json_file.suffix and not self.json_file.exists():
            self.json_file.write_text(json.dumps(self.content()))
        folder = str(self.folder / "images")
        register(
            name,
            partial(load_coco_json, str(self.json_file), folder, name),
            evaluator_type="coco",
            json_file=str(self.json_file),
            image_root=folder,
            **{"keypoint_names": ["nose", "tail"]} | metadata,
        )
        return name


def mask_of(box):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    return mask


def compressed(box):
    rle = mask_util.encode(mask_of(box))
    return rle | {"counts": rle["counts"].decode()}


def uncompressed(box):
    values = mask_of(box).ravel(order="F")
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), values.size]
    return {"size": [HEIGHT, WIDTH], "counts": np.diff(edges).tolist()}


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path / "made")


def findings(report, name=COCO):
    found = report["datasets"][name]["findings"] if name else report["findings"]
    return {finding["check"]: finding for finding in found}


def counts(report, name=COCO):
    return {check: finding["count"] for check, finding in findings(report, name).items()}


def to_corners(d):
    for annotation in d.annotations:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]


def to_fractions(d):
    for annotation in d.annotations:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]


def add_many_cats(d):
    for i in range(230):
        d.add(d.images[i % 12], [2 + 4 * (i // 12), 65 + i % 5, 6, 6], 3)
    d.categories.append({"id": 9, "name": "bird"})
    d.add(d.images[0], [60, 5, 9, 9], 9)


def without_masks(d, annotations):
    for annotation in annotations:
        del annotation["segmentation"]


def empty_rle():
    return {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}


def half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def nothing_at(d, i):
    d.annotations = [a for a in d.annotations if a["image_id"] != d.images[i]["id"]]


NAN = math.nan
BOW_TIE = [[10, 8, 34, 28, 34, 8, 10, 28]]  # the corners of annotation 8's box, crosswise
# What is done to the data set; the checks that must find it, and how often; who is to blame.
DEFECTS = [
    (lambda d: d.file(3).unlink(), {"image-missing": 1}, "3.png"),
    (lambda d: d.file(3).write_bytes(b""), {"image-empty": 1}, "3.png"),
    (lambda d: d.file(3).write_text("<html>"), {"image-unreadable": 1}, "3.png: cannot identify"),
    (lambda d: half(d.file(3)), {"image-truncated": 1}, "3.png: "),
    (lambda d: d.draw(3, (90, 80)), {"image-size": 1}, "3.png: annotated as 100 x 80, it is 90 x"),
    (lambda d: d.turn(3, 6, upright=True), {"image-orientation": 1}, "3.png: its EXIF"),
    (lambda d: d.turn(3, 3, upright=False), {"image-orientation": 1}, "3.png: its EXIF"),
    (lambda d: d.turn(3, 6, upright=False), {"image-orientation-size": 1}, "3.png"),
    (
        lambda d: Image.fromarray(np.full((HEIGHT, WIDTH), 999, np.uint16)).save(d.file(3)),
        {"image-16-bit": 1},
        "3.png",
    ),
    (
        lambda d: Image.fromarray(np.full((HEIGHT, WIDTH), 1e6, "f4")).save(d.file(3), "TIFF"),
        {"image-unreadable": 1},
        "3.png: the image has gray values from 1e+06",
    ),
    (
        lambda d: [
            Image.fromarray(np.full((HEIGHT, WIDTH), value, np.uint16)).save(d.file(number))
            for number, value in ((3, 5000), (4, 9000))
        ],
        {"image-16-bit": 2},  # and not that they are the same
        "3.png",
    ),
    (lambda d: d.images[4].update(file_name="3.png"), {"image-listed-twice": 1}, "3.png: ids 103"),
    (
        lambda d: d.file(4).write_bytes(d.file(3).read_bytes()),
        {"image-duplicate": 1},
        "made/images/4.png",
    ),
    (
        lambda d: (d.images[4].update(id=103), [d.change(i, image_id=103) for i in (8, 9)]),
        {"image-id-duplicate": 1, "box-duplicate": 1},  # one image has the boxes of both
        "3.png and of 4.png",
    ),
    (lambda d: nothing_at(d, 5), {"image-without-annotations": 1}, "5.png"),
    (lambda d: [nothing_at(d, i) for i in range(12)], {"no-annotations": 12}, "0.png"),
    (
        lambda d: (d.images.clear(), d.annotations.clear()),
        {"annotations-invalid": 1},
        "lacks the key 'images'",
    ),
    (lambda d: d.change(7, id=6), {"annotation-id-duplicate": 1}, "all.json: id 6"),
    (
        lambda d: (d.change(7, image_id=55), d.change(8, image_id=55)),
        {"annotation-without-image": 2},
        "all.json: image_id 55",
    ),
    (
        lambda d: d.change(7, category_id=5),
        {"category-unknown": 1},
        "image 103: category_id 5",
    ),
    (
        lambda d: d.categories.append({"id": 9, "name": "bird"}),
        {"class-without-objects": 1},
        "bird",
    ),
    (lambda d: d.categories[1].update(name="cat"), {"class-duplicate-name": 1}, "'cat'"),
    (add_many_cats, {"class-imbalance": 1}, "bird has 1, cat has 242"),
    (
        lambda d: d.change(7, bbox=[1, 2, NAN, 4]),
        {"box-invalid": 1},
        "annotation 8 of image 103: bbox [1",
    ),
    (
        lambda d: d.change(7, bbox=[1, 2, 3]),
        {"box-invalid": 1},
        "annotation 8 of image 103: bbox [1",
    ),
    (lambda d: d.change(7, bbox=[1, "b", 3, 4]), {"box-invalid": 1}, "annotation 8 of image 103"),
    (lambda d: d.change(7, bbox=None, segmentation=[]), {"box-missing": 1}, "image 103: bbox None"),
    (to_corners, {"box-mode": 12}, "0.png, annotation 2: box [55, 40, 81, 64] in 100 x 80 pixels"),
    (to_fractions, {"box-relative": 24}, "0.png, annotation 1: box [0.06, 0.1"),
    (lambda d: d.change(7, bbox=[60, 50, 1, 24]), {"box-degenerate": 1}, "3.png, annotation 8"),
    (lambda d: d.change(7, bbox=[60, 50, 9, -5]), {"box-degenerate": 1}, "3.png, annotation 8"),
    (lambda d: d.change(7, bbox=[99.5, 50, 30, 24]), {"box-outside": 1}, "3.png, annotation 8"),
    (lambda d: d.change(7, bbox=[58, 43, 26, 38]), {"box-out-of-bounds": 1}, "[58, 43, 26, 38]"),
    (lambda d: d.add(d.images[3], [9, 9, 24, 20], 3), {"box-duplicate": 1}, "like annotation 7"),
    (
        lambda d: d.change(7, segmentation=[[1, 2, 3, 4]]),
        {"mask-polygon": 1},
        "annotation 8: [[1, 2",
    ),
    (lambda d: d.change(7, segmentation=[[1] * 7]), {"mask-polygon": 1}, "annotation 8: [[1, 1"),
    (lambda d: d.change(7, segmentation=[[1, 2, "c"]]), {"mask-polygon": 1}, "annotation 8: [[1"),
    (lambda d: d.change(7, segmentation=[]), {"mask-missing": 1}, "3.png, annotation 8"),
    (
        lambda d: d.annotations[2]["segmentation"].update(size=[WIDTH, HEIGHT]),
        {"mask-rle": 1},
        "1.png, annotation 3: its size is [100, 80]",
    ),
    (
        lambda d: d.annotations[4]["segmentation"]["counts"].append(5),
        {"mask-rle": 1},
        "2.png, annotation 5: its counts cannot be used: they add up to 8005, not to 8000",
    ),
    (
        lambda d: d.annotations[2]["segmentation"].update(counts="zz"),
        {"mask-rle": 1},
        "1.png, annotation 3: its counts",
    ),
    (
        lambda d: d.annotations[2]["segmentation"].update(
            counts=d.annotations[2]["segmentation"]["counts"][:-2]
        ),
        {"mask-rle": 1},
        "1.png, annotation 3: its counts",
    ),
    (lambda d: d.change(7, segmentation=empty_rle()), {"mask-empty": 1}, "3.png, annotation 8"),
    (lambda d: d.change(8, segmentation=BOW_TIE), {"mask-self-overlap": 1}, "4.png, annotation 9"),
    (
        lambda d: d.change(7, segmentation=d.annotations[6]["segmentation"]),
        {"mask-box": 1},
        "3.png, annotation 8: box [58.0, 43.0, 84.0, 67.0], mask [9.0, 8.0, 33.0, 28.0]",
    ),
    (lambda d: without_masks(d, d.annotations[7:8]), {"mask-missing": 1}, "3.png, annotation 8"),
    (lambda d: without_masks(d, d.annotations[6:]), {"mask-in-some": 18}, "3.png, annotation 7"),
    (lambda d: d.change(7, keypoints=[1, 2, 2]), {"keypoints-invalid": 1}, "image 103: [1, 2, 2]"),
    (
        lambda d: d.change(7, keypoints=[60, 50, 2, NAN, 0, 0]),
        {"keypoints-invalid": 1},
        "object of image 103",
    ),
    (
        lambda d: d.change(7, keypoints=[60, 50, 2, 60, 82, 2]),
        {"keypoints-outside-image": 1},
        "3.png, annotation 8",
    ),
    (
        lambda d: d.change(7, keypoints=[9, 9, 2, 12, 12, 2]),
        {"keypoints-outside-box": 1},
        "3.png, annotation 8",
    ),
    (
        lambda d: d.categories[1].update(keypoints=["tail", "nose"]),
        {"keypoints-names": 1},
        "'dog' has ['tail', 'nose'], others",
    ),
    (
        lambda d: d.json_file.write_text('{"images'),
        {"annotations-invalid": 1},
        "all.json' is not JSON",
    ),
    (
        lambda d: d.json_file.write_text(json.dumps(d.content() | {"categories": 1})),
        {"annotations-invalid": 1},
        "all.json' lacks the key 'categories'",
    ),
    (
        lambda d: d.json_file.write_text(json.dumps({"images": d.images})),
        {"not-loadable": 1, "no-annotations": 12},
        "categories",
    ),
    (
        lambda d: d.images[3].pop("height"),
        {"not-loadable": 1},  # by detectron2's own loader
        "KeyError: height",
    ),
    (
        lambda d: d.images[3].update(width="wide"),
        {"annotations-invalid": 1, "annotation-without-image": 2},
        "images number 4: could not convert",
    ),
    (
        lambda d: d.images[3].update(width=1e300),
        {"annotations-invalid": 1, "annotation-without-image": 2},
        "images number 4: the width '1e+300'",
    ),
    (lambda d: d.change(7, category_id=[3]), {"annotations-invalid": 1}, "number 8: unhashable"),
    (lambda d: d.annotations[2]["segmentation"].update(size=9), {"mask-rle": 1}, "annotation 3"),
    (lambda d: d.change(7, keypoints=5), {"keypoints-invalid": 1}, "image 103: 5"),
    (
        lambda d: d.annotations[7].pop("category_id"),
        {"annotations-invalid": 1},
        "number 8: no 'category_id'",
    ),
    (lambda d: d.change(7, ignore=1), {"not-loadable": 1}, '"ignore" in COCO json'),
]
# The same with a config file.
SMOKE = Model([16, 32, 64], 128, 1333, masks=True, keypoints=False)
CONFIG_DEFECTS = [
    ({"short_side": 20}, {"object-small": 24}, "resized 5"),
    ({"short_side": 800}, {"object-large": 24}, "resized 219"),
    ({"detections": 1}, {"objects-many": 12}, "0.png: 2 objects, 1 are counted"),
]


@pytest.fixture
def model(monkeypatch):
    """Says what the model of an experiment is like, which is the argument of `doctor.check`."""
    monkeypatch.setattr(doctor, "read_model", lambda experiment: experiment)


def test_clean(made, model):
    made.register()
    report = doctor.check([COCO], SMOKE)
    assert counts(report) == {} and report["findings"] == []
    dataset = report["datasets"][COCO]
    assert (dataset["images"], dataset["annotations"], dataset["crowds"]) == (12, 24, 0)
    assert dataset["classes"] == dataset["images_with_class"] == {"cat": 12, "dog": 12}
    # 24 x 20 and 26 x 24 pixels in images whose height becomes 128.
    assert dataset["object_sizes"] == {"16-32": 0, "32-64": 24, "64-128": 0}
    report = doctor.check([COCO])
    assert report["datasets"][COCO]["object_sizes"] == {"16-32": 24}


@pytest.mark.parametrize(
    "defect, expected, culprit", DEFECTS, ids=[next(iter(d[1])) for d in DEFECTS]
)
def test_defect(made, defect, expected, culprit):
    defect(made)
    made.register()
    report = doctor.check([COCO])
    assert counts(report) == expected
    first = findings(report)[next(iter(expected))]
    assert culprit in first["examples"][0]
    assert len(first["examples"]) == min(first["count"], 3)


@pytest.mark.parametrize("defect, expected, culprit", CONFIG_DEFECTS)
def test_defect_against_a_config(made, model, defect, expected, culprit):
    made.register()
    report = doctor.check([COCO], SMOKE._replace(**defect))
    assert counts(report) == expected
    assert culprit in findings(report)[next(iter(expected))]["examples"][0]


def test_what_the_model_of_a_config_learns_must_be_there(made, model):
    without_masks(made, made.annotations[4:])
    for annotation in made.annotations[1:]:
        del annotation["keypoints"]
    made.register()
    assert counts(doctor.check([COCO], SMOKE)) == {"mask-missing": 20}
    cfg = SMOKE._replace(masks=False, keypoints=True)
    expected = {"mask-in-some": 20, "keypoints-missing": 23}
    assert counts(doctor.check([COCO], cfg)) == expected
    for category in made.categories:
        del category["keypoints"]
    made.json_file.unlink()
    made.register(keypoint_names=None)
    found = counts(doctor.check([COCO], cfg))
    assert found["keypoints-names"] == found["keypoints-unnamed"] == 1


@pytest.mark.parametrize(
    "numbers, rare",
    [
        ([2000, 19], ["b"]),
        ([2000, 20], []),
        ([9, 200], ["a"]),
        ([10, 200], []),
        ([199, 9], []),
        ([0, 2000, 3, 2], ["d", "c"]),
    ],
)
def test_classes_out_of_balance(made, monkeypatch, numbers, rare):
    made.register()
    dataset = doctor.read(COCO)
    dataset.classes = dict(enumerate("abcd"[: len(numbers)]))
    monkeypatch.setattr(doctor.annotations, "class_counts", lambda *args: np.array(numbers))
    doctor.check_classes(dataset, doctor.Objects(dataset))
    examples = dataset.found.examples["class-imbalance"]
    assert [example.split()[1] for example in examples] == rare


def test_every_check_of_the_doctor_is_tested():
    tested = [defect[1] for defect in DEFECTS + CONFIG_DEFECTS + LABEL_DEFECTS]
    others = {"keypoints-missing", "image-leak", "class-lists-differ", "image-near-duplicate"}
    others |= {"split-sequence", "class-only-elsewhere", "no-images"}  # in tests of their own
    own = CHECKS.keys() - READER_CHECKS.keys()  # those of readers: tests/test_format_cases.py
    assert own <= set().union(*tested) | others <= set(CHECKS)
    assert {check.severity for check in CHECKS.values()} == {"error", "warning"}


def test_missing_file_of_annotations(made):
    made.register()
    made.json_file.unlink()
    report = doctor.check([COCO])
    assert counts(report) == {"not-loadable": 1}
    assert "all.json" in findings(report)["not-loadable"]["examples"][0]


def test_other_processes_find_the_same(made, monkeypatch):
    half(made.file(3))
    made.change(7, segmentation=[])
    made.register()
    alone = doctor.check([COCO])
    monkeypatch.setattr(doctor, "POOL_FROM", 2)
    pools = []
    context = doctor.multiprocessing.get_context
    monkeypatch.setattr(
        doctor.multiprocessing, "get_context", lambda m: pools.append(m) or context(m)
    )
    assert doctor.check([COCO]) == alone
    assert counts(alone) == {"image-truncated": 1, "mask-missing": 1} and pools


def test_annotations_only_reads_no_image(made):
    for i in range(IMAGES):
        made.file(i).unlink()
    made.change(8, segmentation=BOW_TIE)
    made.register()
    assert counts(doctor.check([COCO], with_images=False)) == {"mask-self-overlap": 1}


def test_crowds_are_counted_only(made):
    made.change(7, iscrowd=1, segmentation=compressed([1, 1, 9, 9]))
    made.register()
    report = doctor.check([COCO])
    assert counts(report) == {}
    assert report["datasets"][COCO]["crowds"] == 1
    assert report["datasets"][COCO]["classes"] == {"cat": 12, "dog": 11}


def test_several_data_sets_are_compared(made, tmp_path):
    other = Made(tmp_path / "other", seed=1)
    other.file(2).write_bytes(made.file(5).read_bytes())
    made.register("first"), other.register("second")
    report = doctor.check(["first", "second"])
    assert counts(report, "first") == counts(report, "second") == {}
    assert counts(report, None) == {"image-leak": 1}
    (example,) = report["findings"][0]["examples"]
    assert "made/images/5.png" in example and "other/images/2.png" in example

    other.draw(2)
    other.categories.reverse()
    other.categories[0]["id"], other.categories[1]["id"] = 3, 7
    other.json_file.unlink()
    other.register("second")
    report = doctor.check(["first", "second"])
    assert counts(report, None) == {"class-lists-differ": 1}
    assert "another order: class 0 is 'cat' and 'dog'" in report["findings"][0]["examples"][0]


def test_splits_of_one_file(made):
    made.register()
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(COCO).as_dict()
        del metadata["name"]
        load = DatasetCatalog[COCO]
        del metadata["json_file"]
        metadata["thing_classes"] = ["cat", "dog"]
        register(
            split,
            lambda load=load, s=split: [r for r in load() if is_held_out(r, 0.4) == (s == "val")],
            **metadata,
        )
    report = doctor.check(["train", "val"])
    numbers = [report["datasets"][split]["images"] for split in ("train", "val")]
    assert sum(numbers) == IMAGES and min(numbers) > 0
    assert report["findings"] == []
    assert counts(report, "train") == counts(report, "val") == {}


def test_lvis_files_name_images_by_their_address(made):
    for image in made.images:
        image["coco_url"] = f"http://lvis/images/{image.pop('file_name')}"
    made.file = lambda i: made.folder / "images" / f"{i}.png"
    made.file(3).unlink()
    made.json_file.write_text(json.dumps(made.content()))
    places = {"json_file": str(made.json_file), "image_root": str(made.folder)}
    register("lvis", list, evaluator_type="lvis", **places)
    report = doctor.check(["lvis"])
    assert counts(report, "lvis") == {"image-missing": 1}
    assert findings(report, "lvis")["image-missing"]["examples"] == [str(made.file(3))]


def dataset_dicts(made, mode=BoxMode.XYXY_ABS):
    return [
        {
            "file_name": str(made.file(i)),
            "image_id": i,
            "width": WIDTH,
            "height": HEIGHT,
            "annotations": [
                {"bbox": box, "bbox_mode": mode, "category_id": k}
                for k, box in enumerate([[5, 5, 30, 30], [50, 10 + i, 90, 60 + i]])
            ],
        }
        for i in range(IMAGES)
    ]


def annotation_of(records, **values):
    records[3]["annotations"][1].update(values)


@pytest.mark.parametrize(
    "defect, expected, culprit",
    [
        (lambda r: None, {}, ""),
        (lambda r: annotation_of(r, category_id=2), {"category-unknown": 1}, "category_id 2"),
        (lambda r: annotation_of(r, bbox_mode=2), {"box-invalid": 1}, "annotation number 2: box"),
        (lambda r: annotation_of(r, bbox=[1, 2, 1.5, 9]), {"box-degenerate": 1}, "number 2: box"),
        (lambda r: annotation_of(r, bbox=[40, 9, 8, 9], bbox_mode=4), {}, ""),  # rotated
        (lambda r: annotation_of(r, bbox=[9] * 5, bbox_mode=BoxMode.XYWHA_ABS), {}, ""),
        (
            lambda r: annotation_of(r, segmentation=np.eye(3)),
            {"mask-polygon": 1, "mask-in-some": 23},
            "number 2",
        ),
        (
            lambda r: r[3].pop("file_name"),
            {"annotations-invalid": 1},
            "record 3: 'file_name' is missing",
        ),
        (lambda r: r[3].update(image_id=2), {"image-id-duplicate": 2}, "2.png: id 2"),
        (lambda r: r.clear(), {"no-images": 1}, "dicts"),
        (None, {"not-loadable": 1}, "dicts: its function returned NoneType, not a list"),
        (lambda r: r[0]["annotations"][0].pop("bbox_mode"), {"box-invalid": 1}, "0.png"),
        (lambda r: r.insert(0, 1 / 0), {"not-loadable": 1}, "ZeroDivisionError: division by zero"),
    ],
)
def test_dataset_dicts_of_a_function(made, defect, expected, culprit):
    def load():
        records = dataset_dicts(made)
        return defect and (defect(records), records)[1]

    register("dicts", load, thing_classes=["cat", "dog"], evaluator_type="coco")
    report = doctor.check(["dicts"])
    assert counts(report, "dicts") == expected
    if expected:
        assert culprit in findings(report, "dicts")[next(iter(expected))]["examples"][0]


def test_boxes_that_are_corner_and_size_but_declared_as_corners(made):
    records = dataset_dicts(made)
    for record in records:
        record["annotations"][1]["bbox"] = [50, 50, 20, 22]
    register("dicts", partial(copy.deepcopy, records), thing_classes=["cat", "dog"])
    assert counts(doctor.check(["dicts"]), "dicts") == {"box-mode": 12}


def labels(folder, i, values=(0, 1, 255), size=(WIDTH, HEIGHT), mode="L"):
    pixels = np.resize(np.repeat(np.array(values, dtype=np.uint8), 30), (size[1], size[0]))
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    image.convert(mode).save(folder / f"{i}.png")


LABEL_DEFECTS = [
    (lambda d, r: None, {}, ""),
    (lambda d, r: (d / "3.png").unlink(), {"label-missing": 1}, "3.png: there is no"),
    (
        lambda d, r: r[3].pop("sem_seg_file_name"),
        {"label-missing": 1, "image-without-annotations": 1},
        "has no sem_seg",
    ),
    (lambda d, r: (d / "3.png").write_bytes(b"x"), {"label-unreadable": 1}, "3.png: "),
    (lambda d, r: half(d / "3.png"), {"label-unreadable": 1}, "3.png: "),
    (lambda d, r: labels(d, 3, mode="RGB"), {"label-mode": 1}, "3.png RGB"),
    (lambda d, r: labels(d, 3, mode="P"), {}, ""),
    (lambda d, r: labels(d, 3, size=(WIDTH, 79)), {"label-size": 1}, "3.png is 100 x 79, the"),
    (lambda d, r: labels(d, 3, (0, 1, 2)), {"label-value": 1}, "3.png has 2; classes are 0 to 1"),
    (
        lambda d, r: [labels(d, i, (1, 255)) for i in range(IMAGES)],
        {"label-class-absent": 1},
        "semantic: sky",
    ),
]


@pytest.mark.parametrize("defect, expected, culprit", LABEL_DEFECTS)
def test_label_maps(made, defect, expected, culprit):
    folder = made.folder / "labels"
    folder.mkdir()
    records = []
    for i in range(IMAGES):
        labels(folder, i)
        files = {"file_name": str(made.file(i)), "sem_seg_file_name": str(folder / f"{i}.png")}
        records.append(files)
    defect(folder, records)
    metadata = {"evaluator_type": "sem_seg", "stuff_classes": ["sky", "ground"]}
    register("semantic", partial(copy.deepcopy, records), ignore_label=255, **metadata)
    report = doctor.check(["semantic"])
    assert counts(report, "semantic") == expected
    if expected:
        assert culprit in findings(report, "semantic")[next(iter(expected))]["examples"][0]
    else:
        images = report["datasets"]["semantic"]["images_with_class"]
        assert images == {"sky": IMAGES, "ground": IMAGES}


@pytest.fixture
def command(capsys):
    """Runs the command; returns its exit status, and what it wrote to stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            doctor_command.main(register_shapes, None, list(arguments))
        return exit_.value.code, *capsys.readouterr()

    return run


def test_command_on_clean_data(command):
    code, out, err = command("shapes_train", "shapes_val")
    assert code == 0
    assert out.startswith("shapes_train: 24 images, ")
    assert "circle " in out and "#" in out and "ERROR" not in out and "WARNING" not in out
    assert out.endswith("\nNothing wrong was found.\n")
    assert "24/24" in err and "8/8" in err


def test_command_on_mistakes(command, made):
    made.change(7, bbox=[60, 50, 1, 24])
    made.register()
    code, out, _ = command(COCO)
    assert code == 0 and out.endswith("0 errors, 1 warning\n")
    assert "WARNING box-degenerate: 1 box up to one pixel wide or high\n  - " in out
    made.file(3).unlink()
    code, out, _ = command(COCO)
    assert code == 1 and out.endswith("1 error, 1 warning\n")
    assert out.index("ERROR image-missing") < out.index("WARNING box-degenerate")
    assert "Effect: " in out and "Fix: " in out

    code, out, _ = command(COCO, "--json")
    finding = findings(json.loads(out))["image-missing"]
    assert code == 1 and finding["severity"] == "error"
    assert finding["examples"] == [str(made.file(3))]
    assert command(COCO, "--json", "--annotations-only")[0] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "name a dataset"),
        (["shapes_trian"], "Nearest names: shapes_train"),
    ],
)
def test_wrong_usage(command, arguments, message):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "") and message in err


def test_table_of_many_classes_has_both_ends(command, made):
    made.categories += [{"id": 100 + i, "name": f"class {i:02d}"} for i in range(30)]
    made.register()
    _, out, _ = command(COCO)
    assert "... 12 classes in between ..." in out
    assert "cat  " in out and "class 07" in out and "class 29" in out and "class 09  " not in out


# ---- Two datasets, and mended copies -----------------------------------------------------------


def test_images_that_look_alike_in_two_datasets(made, tmp_path):
    other = Made(tmp_path / "other", seed=1)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    photo = Image.fromarray((128 + 100 * np.sin(rows / 7) * np.cos(columns / 9)).astype(np.uint8))
    photo = photo.convert("RGB")
    photo.save(made.file(3))
    encoded = made.file(3).with_suffix(".jpg")
    photo.resize((60, 48)).resize((WIDTH, HEIGHT)).save(encoded, quality=60)
    encoded.replace(other.file(5))
    made.register("first"), other.register("second")
    report = doctor.check(["first", "second"])
    assert counts(report, None) == {"image-near-duplicate": 1}
    (example,) = report["findings"][0]["examples"]
    assert "made/images/3.png ~ " in example and "other/images/5.png" in example


@pytest.mark.parametrize(
    "ones, others, found",
    [
        (["a_1", "a_2", "a_3", "b_1", "b_2"], ["a_4", "a_9", "b_80", "b_90"], ["a_*"]),
        (["img_1", "img_2", "img_3"], ["img_4", "img_5"], []),  # how people number images
        (["a_1", "a_2", "a_3", "b_9"], ["a_100", "b_1", "b_2", "b_3"], []),  # far apart
        (["001", "002", "003"], ["004", "005"], []),
    ],
)
def test_videos_in_two_datasets(ones, others, found):
    names = [[f"x/{name}.jpg" for name in those] for those in (ones, others)]
    assert shared_videos(*names) == found


def test_classes_that_training_never_sees(made, tmp_path):
    other = Made(tmp_path / "other", seed=1)
    for annotation in made.annotations:
        annotation["category_id"] = 3
    made.register("first"), other.register("second")
    report = doctor.check(["first", "second"])
    assert counts(report, None) == {"class-only-elsewhere": 1}
    assert "dog has objects in second, none in first" in report["findings"][0]["examples"][0]


def test_many_objects_and_small_ones(made):
    for i in range(120):
        made.add(made.images[3], [2 + 5 * (i % 16), 2 + 5 * (i // 16), 4, 4], 3)
    made.register()
    report = doctor.check([COCO])
    assert findings(report)["objects-many"]["examples"][0].endswith("122 objects, 100 are counted")
    made.register()
    assert report["datasets"][COCO]["coco_small"] == [1.0, 1.0]


def test_model_of_an_experiment():
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.RESNETS.DEPTH = "", "cpu", 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.TEST.DETECTIONS_PER_IMAGE = 64, 300

    class Experiment:
        tiles = {"enabled": False}

        def build_model(self):
            return build_model(cfg)

        def build_mapper(self, is_train):
            return DatasetMapper(cfg, is_train)

    sizes = [32, 64, 128, 256, 512]
    assert read_model(Experiment()) == Model(sizes, 800, 1333, False, False, 300)


def test_mended_copy(made, tmp_path, command):
    made.change(7, bbox=[58, 43, 26, 38])
    made.change(9, id=1)
    made.change(11, bbox=[])
    made.add(made.images[3], [9, 9, 24, 20], 3)
    made.register()
    before = made.json_file.read_bytes()
    doctor_command.main(register_shapes, None, [COCO, "--fix", str(tmp_path / "mended")])
    assert made.json_file.read_bytes() == before
    changes = (tmp_path / f"mended/{COCO}.changes.txt").read_text().splitlines()
    kinds = {change.split(":")[0] for change in changes}
    assert kinds == {"annotation-id-duplicate", "box-from-mask", "box-duplicate",
                     "boxes clipped to their image"}  # fmt: skip
    content = json.loads((tmp_path / f"mended/{COCO}.json").read_text())
    assert len(content["annotations"]) == 24
    assert [a["id"] for a in content["annotations"]] == list(range(1, 25))
    assert content["annotations"][7]["bbox"] == [58, 43, 26, 37]
    mended = Made.__new__(Made)
    mended.folder, mended.json_file = made.folder, tmp_path / f"mended/{COCO}.json"
    mended.register("mended")
    found = counts(doctor.check(["mended"]), "mended")
    assert not {"box-missing", "box-duplicate", "box-out-of-bounds"} & found.keys()
    assert scan(str(tmp_path / "mended")).objects == {"train": 24}
    with pytest.raises(FileExistsError, match=r"is there already"):
        doctor_command.main(register_shapes, None, [COCO, "--fix", str(tmp_path / "mended")])
