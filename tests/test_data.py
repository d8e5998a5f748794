"""The answer `data`: a project is set up from the user's files, or nothing is written."""

import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import TEMPLATE
from test_hooks import fingerprint
from test_read_dataset import (
    city_root,
    coco,
    coco_root,
    images,
    semantic_root,
    voc_flat,
    write,
    xml,
    yolo_root,
)
from test_render import ruff


def voc_root(root: Path) -> Path:
    images(root / "JPEGImages", "a.jpg", "b.jpg", "c.jpg")
    for name, objects in {"a": ["worn", "ok"], "b": ["ok"], "c": ["ok"]}.items():
        write(root / f"Annotations/{name}.xml", xml(*objects))
    write(root / "ImageSets/Main/train.txt", "a\nb\n")
    write(root / "ImageSets/Main/val.txt", "c\n")
    return root


def keypoints_root(root: Path) -> Path:
    names = ["nose", "left_eye", "right_eye"]
    for split in ("train", "val"):
        images(root / split, "a.jpg")
        content = coco(["a.jpg"])
        for category in content["categories"]:
            category |= {"keypoints": names, "skeleton": [[1, 2], [1, 3]]}
        content["annotations"][0]["keypoints"] = [5, 5, 2] * 3
        write(root / f"annotations/{split}.json", json.dumps(content))
    return root


def lvis_root(root: Path) -> Path:
    for split in ("train", "val"):
        images(root / split, "a.jpg")
        content = coco(["a.jpg"])
        content["images"][0]["coco_url"] = f"http://localhost/{split}/a.jpg"
        content["images"][0] |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        write(root / f"lvis_{split}.json", json.dumps(content))
    return root


def panoptic_root(root: Path) -> Path:
    segment = {"id": 1, "category_id": 3, "bbox": [1, 2, 10, 40], "iscrowd": 0}
    annotation = {"image_id": 0, "file_name": "a.png", "segments_info": [segment]}
    for split in ("train", "val"):
        images(root / split, "a.jpg")
        images(root / f"panoptic_{split}", "a.png")
        text = json.dumps(coco(["a.jpg"], annotations=[annotation]))
        write(root / f"annotations/panoptic_{split}.json", text)
    return root


def json_alone(root: Path) -> Path:
    images(root / "images", "a.jpg", "b.jpg")
    write(root / "labels.json", json.dumps(coco(["a.jpg", "b.jpg"])))
    return root


ROOTS = {  # format: a data set, a line of its dataset.py, the config that is advised
    "coco": (
        coco_root,
        '"train": ("annotations/instances_train2017.json", "train2017")',
        "mask_rcnn",
    ),
    "keypoints": (keypoints_root, '"val": ("annotations/val.json", "val"),', "keypoint_rcnn"),
    "held out": (json_alone, '"val": ("labels.json", "images"),', "mask_rcnn"),
    "lvis": (lvis_root, '"train": ("lvis_train.json", "."),', "mask_rcnn"),
    "panoptic": (
        panoptic_root,
        '"train": ("annotations/panoptic_train.json", "panoptic_train", "train", ""),',
        "panoptic_fpn",
    ),
    "semantic": (
        lambda root: semantic_root(root, classes="sky\nroad\ncar"),
        'CLASSES = ("sky", "road", "car")',
        "semantic",
    ),
    "voc": (voc_root, 'CLASSES = ("ok", "worn")', "faster_rcnn"),
    "voc flat": (voc_flat, '"train": ("", ".", "."),', "faster_rcnn"),
    "yolo": (
        lambda root: yolo_root(root, "train: train\nval: valid/images\nnames: ['6\" nail', it's]"),
        """CLASSES = ('6" nail', "it's")""",
        "mask_rcnn",
    ),
    "cityscapes": (city_root, '"train": ("leftImg8bit/train", "gtFine/train"),', "mask_rcnn"),
}


@pytest.mark.parametrize("trainer", ["plain", "lazyconfig"])
@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("kind", ROOTS)
def test_project_is_set_up_from_the_data(render, tmp_path, capfd, kind, length, trainer):
    make, line, config = ROOTS[kind]
    name = length * "z"
    root = make(tmp_path / "a folder with a long name, so that its path fills a line" / name)
    project = render(data=str(root), trainer=trainer, package_name=name)
    ruff(project, "check")
    ruff(project, "format", "--diff")
    code = (project / name / "data/dataset.py").read_text(encoding="utf-8")
    assert f'NAME = "{name}"\n' in code
    assert f"{json.dumps(str(root))}" in code
    assert line in code
    assert ("VAL_SHARE = 0.2" in code) == (kind in ("held out", "voc flat"))
    suffix = "py" if trainer == "lazyconfig" else "yaml"
    printed = capfd.readouterr().out
    advised = re.search(rf"--config-file (configs/{config}\w+\.{suffix})\n$", printed)[1]
    assert (project / advised).exists()
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert f"--config-file {advised}`." in readme
    train = f"{name}_train_semantic" if kind == "semantic" else f"{name}_train"
    assert f"uv run tools/check_dataset.py {train} {train.replace('train', 'val')}\n" in printed
    is_tiny = kind != "semantic"
    assert (project / f"configs/tiny.{suffix}").exists() == is_tiny == ("configs/tiny" in readme)
    assert (f"--config-file configs/tiny.{suffix}  # " in printed) == is_tiny
    base = (project / f"configs/base.{suffix}").read_text(encoding="utf-8")
    assert f'"{train}"' in base
    assert not (project / "dataset.json").exists()


def test_what_was_found_is_said(render, tmp_path, capfd):
    render(data=str(voc_root(tmp_path / "gears")))
    assert capfd.readouterr().out.startswith(
        f"Found the data set gears (voc) in '{tmp_path / 'gears'}':\n"
        "  train    2 images, 3 objects\n"
        "  val      1 images, 1 objects\n"
        "  classes  ok 2, worn 1\n"
        "  trains   boxes\n"
        "  pixels   48 x 64, resized to 320\n"
        "Next:\n"
    )


@pytest.mark.parametrize(
    "size, box, sizes, longest",
    [
        ((640, 480), 100, (384, 416, 448, 480), 800),
        ((640, 480), 24, (512, 544, 576, 608, 640), 1066),  # enlarged for small objects
        ((640, 480), 4, (640, 672, 704, 736, 768, 800), 1333),
        ((4000, 3000), 100, (640, 672, 704, 736, 768, 800), 1333),
        ((64, 64), 32, (256, 288, 320), 533),
    ],
)
def test_image_size_follows_from_the_data(render, tmp_path, size, box, sizes, longest):
    content = coco(["a.jpg"])
    content["images"][0] |= {"width": size[0], "height": size[1]}
    content["annotations"][0]["bbox"] = [0, 0, box, box]
    images(tmp_path / "data/images", "a.jpg")
    write(tmp_path / "data/all.json", json.dumps(content))
    project = render(data=str(tmp_path / "data"))
    text = (project / "configs/base.yaml").read_text(encoding="utf-8")
    inputs = yaml.safe_load(text)["INPUT"]
    assert inputs == {
        "MIN_SIZE_TRAIN": str(sizes),
        "MIN_SIZE_TEST": sizes[-1],
        "MAX_SIZE_TRAIN": longest,
        "MAX_SIZE_TEST": longest,
    }


@pytest.mark.parametrize("data", ["cells", "./cells", "cells/Annotations/../", "voc:cells"])
def test_paths_are_relative_to_where_it_is_run(cli, data, monkeypatch):
    voc_root(cli.folder / "cells")
    monkeypatch.setenv("PWD", str(cli.folder))
    run = cli(str(TEMPLATE), "--no-input", f"data={data}", "-o", "elsewhere")
    assert run.returncode == 0, run.stderr
    code = cli.folder / "elsewhere/my-detector/my_detector/data/dataset.py"
    assert f'ELSEWHERE = "{cli.folder / "cells"}"\n' in code.read_text(encoding="utf-8")


@pytest.mark.parametrize("prefix, format", [("", "coco"), ("voc:", "voc")])
def test_the_format_can_be_named(render, tmp_path, prefix, format):
    """It is needed where the files are of several formats."""
    root = voc_root(json_alone(tmp_path / "cells"))
    project = render(data=f"{prefix}{root}")
    code = (project / "my_detector/data/dataset.py").read_text(encoding="utf-8")
    assert f'ELSEWHERE = "{root}"\n' in code
    assert ('("ImageSets/Main/train.txt", "Annotations", "JPEGImages")' in code) == bool(prefix)
    assert (project / "my_detector/data/voc.py").exists() == (format == "voc")
    assert (project / "my_detector/data/coco.py").exists() == (format == "coco")


@pytest.mark.parametrize(
    "data, name", [("shapes", "shapes"), ("yolo:", "my_dataset"), ("custom", "my_dataset")]
)
def test_data_that_come_later_have_a_name(render, data, name):
    project = render(data=data)
    base = (project / "configs/base.yaml").read_text(encoding="utf-8")
    assert f'TRAIN: ("{name}_train",)\n  TEST: ("{name}_val",)\n' in base


def truncated(root):
    write(root / "labels.json", json.dumps(coco(["a.jpg"]))[:-20])


def without_annotations(root):
    images(root, "a.jpg", "b.jpg")


REFUSED = [
    # what is there, the answer, part of the message
    (None, "{here}", "is not there"),
    (truncated, "{here}", "labels.json"),
    (without_annotations, "{here}", "annotations"),
    (None, "voc:{here}", "is not there"),
    (voc_root, "coco:{here}", "is not coco, which needs a JSON file with"),
    (voc_root, "custom:{here}", "custom reads no files; type 'custom' alone"),
    (voc_root, "shapes:{here}", "shapes reads no files; type 'shapes' alone"),
    (voc_root, "builtin:{here}", "'builtin' is none of the formats"),
    (voc_root, "vok:{here}", "type 'voc:{here}'"),
    (None, "yollo:cells", "'yollo' is none of the formats"),
    (None, "yollo:cells", "type 'yolo:cells'"),
    (None, "coco", "type 'coco:path/to/it', or 'coco:' for data that come later"),
    (None, "coco:coco_2017", "type 'coco_2017' alone, or 'coco:./coco_2017'"),
    (None, "coco_2018", "coco_2017"),
    (None, "cityscapes_fine_instance_seg_train", "leftImg8bit"),
]


@pytest.mark.parametrize("make, data, told", REFUSED)
def test_data_that_cannot_be_used_is_refused(refusal, tmp_path, make, data, told):
    here = str(tmp_path / "here")
    if make:
        make(tmp_path / "here")
    data = data.format(here=here)
    (message,) = re.findall("(?m)^data .*", refusal(data=data))
    assert message.startswith(f"data {data!r}: ") and told.format(here=here) in message
    assert message.endswith("; without data of your own, type 'shapes'")


def test_a_refusal_of_data_leaves_an_existing_project_alone(cli):
    assert cli(str(TEMPLATE), "--no-input").returncode == 0
    before = fingerprint(cli.folder)
    run = cli(str(TEMPLATE), "--no-input", "-f", "data=/nowhere/at/all")
    assert run.returncode == 1
    assert fingerprint(cli.folder) == before


def test_overwriting_a_project_with_other_data(render, tmp_path):
    """As with `cookiecutter -f`: nothing of the earlier answer is left."""
    data = str(voc_root(tmp_path / "cells"))
    render(output_dir=tmp_path / "same", data="lvis:")
    project = render(output_dir=tmp_path / "same", data=data)
    assert fingerprint(project) == fingerprint(render(data=data))


def test_lvis_is_needed_by_data_sets_of_that_format_alone(render, tmp_path):
    metadata = [
        (project / "pyproject.toml").read_text(encoding="utf-8")
        for project in (render(), render(data="lvis_v1"), render(data=str(lvis_root(tmp_path))))
    ]
    assert ["lvis" in text for text in metadata] == [False, True, True]


def test_cruft_finds_the_reader_too(render, tmp_path, monkeypatch):
    """It does not say where the template is; the hook's parent works there."""
    voc_root(tmp_path / "cells")
    from cookiecutter.generate import generate_context, generate_files
    from cookiecutter.prompt import prompt_for_config

    context = generate_context(
        str(TEMPLATE / "cookiecutter.json"), extra_context={"data": str(tmp_path / "cells")}
    )
    context["cookiecutter"] = prompt_for_config(context, no_input=True)
    project = generate_files(str(TEMPLATE), context, output_dir=str(tmp_path / "out"))
    assert 'NAME = "cells"' in (Path(project) / "my_detector/data/dataset.py").read_text()
