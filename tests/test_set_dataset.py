"""datasets.json: what tools/set_dataset.py writes into a living project, and what it refuses."""

import json
import sys

import pytest
import yaml
from made_data import (
    coco,
    coco_root,
    images,
    keypoints_root,
    panoptic_root,
    semantic_root,
    voc_root,
    write,
    xml,
)

from d2_starter.formats.project import EXPERIMENTS, Project, image_sizes, main


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of the generated shapes; the working directory."""
    folder = tmp_path / "project"
    write(folder / "configs/base.yaml", "_BASE_: dataset/instances.yaml\n")
    write(folder / "plain_train_net.py")
    Project.without_data(folder, "shapes").write()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["set_dataset.py"])
    return folder


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def config(folder, kind="instances"):
    return yaml.safe_load((folder / f"configs/dataset/{kind}.yaml").read_text())


def test_shapes_have_everything(project):
    assert Project.read(project / "configs").experiments() == list(EXPERIMENTS)
    assert config(project)["DATASETS"]["TRAIN"] == '("shapes_train",)'
    assert config(project, "panoptic")["DATASETS"]["TEST"] == '("shapes_val_panoptic",)'
    assert config(project)["INPUT"]["MIN_SIZE_TRAIN"] == "(640, 672, 704, 736, 768, 800)"


def test_a_dataset_in_place_of_the_shapes(project, tmp_path, capsys):
    before = files(project)
    root = voc_root(tmp_path / "gears")
    main([str(root)])
    assert capsys.readouterr().out == (
        f"Found the dataset gears (voc) in '{root}':\n"
        "  train    2 images, 3 objects\n"
        "  val      1 images, 1 objects\n"
        "  classes  ok 2, worn 1\n"
        "  trains   boxes: faster_rcnn_R_50_FPN, retinanet_R_50_FPN\n"
        "  pixels   48 x 64, resized to 320\n"
        "Next:\n"
        "  uv run tools/check_dataset.py gears_train gears_val\n"
        "  uv run plain_train_net.py --config-file configs/tiny.yaml  # a small model, on a CPU too"
        "\n"
        "  uv run plain_train_net.py --config-file configs/faster_rcnn_R_50_FPN.yaml\n"
    )
    assert Project.read().classes == ["ok", "worn"]
    changed = {name for name, content in files(project).items() if before.get(name) != content}
    assert changed == {"datasets.json", *(f"configs/dataset/{k}.yaml" for k in
                                          ("instances", "panoptic", "semantic"))}  # fmt: skip
    assert config(project)["MODEL"] == {"MASK_ON": False}
    main(["shapes"])
    assert files(project) == before


def test_dry_run_and_refusals_write_nothing(project, tmp_path, capsys):
    before = files(project)
    main([str(coco_root(tmp_path / "pets")), "--dry-run"])
    assert capsys.readouterr().out.endswith("Nothing was written (--dry-run).\n")
    with pytest.raises(SystemExit, match=r"nowhere' is not there.*Nothing was changed"):
        main(["nowhere"])
    with pytest.raises(SystemExit, match=r"--name 'a b' is not letters"):
        main([str(tmp_path / "pets"), "--name", "a b"])
    with pytest.raises(SystemExit, match=r"a dataset of the format shapes cannot have another"):
        main([str(tmp_path / "pets"), "--add"])
    assert files(project) == before


def test_a_third_split_is_a_test_set(project, tmp_path, capsys):
    root = voc_root(tmp_path / "gears")
    write(root / "ImageSets/Main/test.txt", "c\n")
    main([str(root)])
    assert "DATASETS.TEST '(\"gears_test\",)'" in capsys.readouterr().out
    assert Project.read().names("test") == ["gears_test"]


def voc_of(root, *classes):
    for split in ("train", "val"):
        images(root / split, "a.jpg")
        write(root / split / "a.xml", xml(*classes))
    return str(root)


def test_a_second_dataset_beside_the_first(project, tmp_path, capsys):
    main([voc_of(tmp_path / "a/pets", "cat", "dog")])
    main([voc_of(tmp_path / "b/pets", "emu", "cat"), "--add"])
    printed = capsys.readouterr().out
    assert "New classes: 'emu'" in printed and "Classes that pets_2 has not: 'dog'" in printed
    assert "Together: 3 classes, boxes" in printed
    found = Project.read()
    assert found.classes == ["cat", "dog", "emu"]
    assert config(project)["DATASETS"]["TRAIN"] == '("pets_train", "pets_2_train",)'
    assert found.names("val") == ["pets_val", "pets_2_val"]
    with pytest.raises(SystemExit, match=r"is there already"):
        main([str(tmp_path / "b/pets"), "--add"])


def test_what_does_not_go_together_is_refused(project, tmp_path):
    main([voc_of(tmp_path / "pets", "cat")])
    with pytest.raises(SystemExit, match=r"'cat' and 'Cat' differ by upper and lower case alone"):
        main([voc_of(tmp_path / "others", "Cat"), "--add"])
    with pytest.raises(SystemExit, match=r"nothing both|need the same classes"):
        main([str(semantic_root(tmp_path / "maps", classes="sky\nroad\nsea")), "--add"])
    with pytest.raises(SystemExit, match=r"format builtin cannot have another"):
        main(["coco_2017", "--add"])
    main([str(tmp_path / "maps")])
    with pytest.raises(SystemExit, match=r"they need the same classes in the same order"):
        main([str(semantic_root(tmp_path / "maps2", classes="road\nsky\nsea")), "--add"])
    main([str(semantic_root(tmp_path / "maps3", classes="sky\nroad\nsea")), "--add"])
    assert config(project)["DATASETS"]["TEST"] == '("maps_val_semantic", "maps3_val_semantic",)'


def test_tasks_are_those_of_both(project, tmp_path, capsys):
    main([str(keypoints_root(tmp_path / "eyes"))])
    assert Project.read().experiments()[0] == "keypoint_rcnn_R_50_FPN"
    main([str(coco_root(tmp_path / "pets")), "--add"])
    assert Project.read().tasks == ["boxes", "masks"] and Project.read().keypoints == {}


def test_names_of_builtin_datasets(project):
    main(["coco_2017_panoptic_separated"])
    found = Project.read()
    assert found.names("train") == ["coco_2017_train"]
    assert found.names("val", "panoptic") == ["coco_2017_val_panoptic_separated"]
    assert found.experiments()[0] == "panoptic_fpn_R_50"


def test_panoptic_names(project, tmp_path):
    main([str(panoptic_root(tmp_path / "city"))])
    assert config(project, "panoptic")["DATASETS"]["TRAIN"] == '("city_train_panoptic",)'
    assert config(project, "semantic")["DATASETS"]["TRAIN"] == '("city_train_semantic",)'


@pytest.mark.parametrize(
    "size, box, sizes, longest",
    [
        ((640, 480), 100, [384, 416, 448, 480], 800),
        ((640, 480), 24, [512, 544, 576, 608, 640], 1066),  # enlarged for small objects
        ((640, 480), 4, [640, 672, 704, 736, 768, 800], 1333),
        ((4000, 3000), 100, [640, 672, 704, 736, 768, 800], 1333),
        ((64, 64), 32, [256, 288, 320], 533),
    ],
)
def test_image_size_follows_from_the_data(project, tmp_path, size, box, sizes, longest):
    assert image_sizes(min(size), box) == {"train": sizes, "test": sizes[-1], "max": longest}
    content = coco(["a.jpg"])
    content["images"][0] |= {"width": size[0], "height": size[1]}
    content["annotations"][0]["bbox"] = [0, 0, box, box]
    images(tmp_path / "data/images", "a.jpg")
    write(tmp_path / "data/all.json", json.dumps(content))
    main([str(tmp_path / "data")])
    assert config(project)["INPUT"]["MIN_SIZE_TRAIN"] == str(tuple(sizes))


def test_broken_datasets_json_is_named(project):
    (project / "datasets.json").write_text("{")
    with pytest.raises(SystemExit, match=r"datasets.json' cannot be read"):
        main(["shapes"])
    (project / "datasets.json").unlink()
    with pytest.raises(SystemExit, match=r"there is no datasets.json in"):
        main(["shapes"])
