"""The answer `data`: a project is set up from the user's files, or nothing is written."""

import json
import re
from pathlib import Path

import pytest
from conftest import TEMPLATE
from made_data import (
    city_root,
    coco,
    coco_root,
    images,
    json_alone,
    keypoints_root,
    lvis_root,
    panoptic_root,
    semantic_root,
    voc_flat,
    voc_root,
    write,
    yolo_root,
)
from test_hooks import fingerprint
from test_render import ruff

ROOTS = {  # a dataset, the config that is advised
    "coco": (coco_root, "mask_rcnn"),
    "keypoints": (keypoints_root, "keypoint_rcnn"),
    "held out": (json_alone, "mask_rcnn"),
    "lvis": (lvis_root, "mask_rcnn"),
    "panoptic": (panoptic_root, "panoptic_fpn"),
    "semantic": (lambda root: semantic_root(root, classes="sky\nroad\ncar"), "semantic"),
    "voc": (voc_root, "faster_rcnn"),
    "voc flat": (voc_flat, "faster_rcnn"),
    "yolo": (
        lambda root: yolo_root(root, "train: train\nval: valid/images\nnames: ['6\" nail', it's]"),
        "mask_rcnn",
    ),
    "cityscapes": (city_root, "mask_rcnn"),
}


def datasets(project: Path) -> dict:
    return json.loads((project / "datasets.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("trainer", ["plain", "lazyconfig"])
@pytest.mark.parametrize("kind", ROOTS)
def test_project_is_set_up_from_the_data(render, tmp_path, capfd, kind, trainer):
    make, config = ROOTS[kind]
    root = make(tmp_path / "a folder with a long name" / "zebras")
    project = render(data=str(root), trainer=trainer)
    ruff(project, "check")
    ruff(project, "format", "--diff")
    (entry,) = datasets(project)["datasets"]
    assert entry["root"] == str(root) and entry["name"] == "zebras"
    suffix = "py" if trainer == "lazyconfig" else "yaml"
    printed = capfd.readouterr().out
    advised = re.search(rf"--config-file (configs/{config}\w+\.{suffix})\n$", printed)[1]
    assert (project / advised).exists()
    train = "zebras_train_semantic" if kind == "semantic" else "zebras_train"
    assert f"uv run tools/check_dataset.py {train} {train.replace('train', 'val')}\n" in printed
    assert (f"--config-file configs/tiny.{suffix}  # " in printed) == (kind != "semantic")
    generated = project / "configs/dataset/instances.yaml"
    assert generated.exists() == (trainer == "plain")
    assert trainer == "lazyconfig" or f'"{train}"' in generated.read_text(encoding="utf-8")


def test_every_config_is_there_whatever_the_data(render, tmp_path):
    """Configs build on one another: smoke.py on mask_rcnn_R_50_FPN.py, without masks too."""
    for trainer in ("plain", "lazyconfig"):
        folders = [
            render(data=data, trainer=trainer) / "configs"
            for data in ("shapes", str(voc_root(tmp_path / trainer)))
        ]
        assert len({tuple(sorted(f.name for f in folder.iterdir())) for folder in folders}) == 1


def test_no_python_file_depends_on_the_data(render, tmp_path):
    def code(project):
        return {name: it for name, it in fingerprint(project).items() if name.endswith(".py")}

    data = [voc_root(tmp_path / "gears"), coco_root(tmp_path / "pets")]
    one, other, shapes = (code(render(data=str(d))) for d in [*data, "shapes"])
    assert one == other == shapes


def test_what_was_found_is_said(render, tmp_path, capfd):
    render(data=str(voc_root(tmp_path / "gears")))
    assert capfd.readouterr().out.startswith(
        f"Found the dataset gears (voc) in '{tmp_path / 'gears'}':\n"
        "  train    2 images, 3 objects\n"
    )


@pytest.mark.parametrize("data", ["cells", "./cells", "cells/Annotations/../", "voc:cells"])
def test_paths_are_relative_to_where_it_is_run(cli, data, monkeypatch):
    voc_root(cli.folder / "cells")
    monkeypatch.setenv("PWD", str(cli.folder))
    run = cli(str(TEMPLATE), "--no-input", f"data={data}", "-o", "elsewhere")
    assert run.returncode == 0, run.stderr
    (entry,) = datasets(cli.folder / "elsewhere/my-detector")["datasets"]
    assert entry["root"] == str(cli.folder / "cells")


@pytest.mark.parametrize("prefix, format", [("", "coco"), ("voc:", "voc")])
def test_the_format_can_be_named(render, tmp_path, prefix, format):
    """It is needed where the files are of several formats."""
    root = voc_root(json_alone(tmp_path / "cells"))
    (entry,) = datasets(render(data=f"{prefix}{root}"))["datasets"]
    assert entry["format"] == format


def test_data_that_come_later(render, capfd):
    project = render(data="yolo:")
    assert datasets(project)["datasets"][0]["name"] == "shapes"
    assert "uv run tools/set_dataset.py yolo:PATH  # when your data are there" in (
        capfd.readouterr().out
    )
    custom = render(data="custom")
    base = (custom / "configs/dataset/instances.yaml").read_text(encoding="utf-8")
    assert 'TRAIN: ("my_dataset_train",)\n  TEST: ("my_dataset_val",)\n' in base
    assert "def load(" in (custom / "my_detector/data/dataset.py").read_text(encoding="utf-8")


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
    (voc_root, "builtin:{here}", "'builtin' is none of the formats"),
    (voc_root, "vok:{here}", "type 'voc:{here}'"),
    (None, "yollo:cells", "type 'yolo:cells'"),
    (None, "coco", "type 'coco:path/to/it', or 'coco:' for data that come later"),
    (None, "coco:coco_2017", "type 'coco_2017' alone, or 'coco:./coco_2017'"),
    (None, "coco_2018", "coco_2017"),
    (None, "cityscapes_fine_instance_seg_train", "leftImg8bit"),
    (lambda root: write(root.with_suffix(".zip")), "{here}.zip", "is an archive; unpack it"),
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


@pytest.mark.parametrize("trainer", ["plain", "lazyconfig"])
def test_overwriting_a_project_with_other_data(render, tmp_path, trainer):
    """As with `cookiecutter -f`: nothing of the earlier answer is left."""
    data = str(voc_root(tmp_path / "cells"))
    render(output_dir=tmp_path / "same", data="custom")
    project = render(output_dir=tmp_path / "same", data=data, trainer=trainer)
    assert fingerprint(project) == fingerprint(render(data=data, trainer=trainer))


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
    assert datasets(Path(project))["datasets"][0]["name"] == "cells"
