"""Projects for the user's own data, rendered from the data, in every format."""

import json
import re
import shutil
from pathlib import Path

import pytest
from datasets import CLASSES, WRITERS, write_voc, write_yolo
from projects import SMALL

pytestmark = pytest.mark.training

SHORT = ["SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 0, "LOG_PERIOD", 1]
BOXES_ONLY = ["--config-file", "configs/boxes.yaml", *SHORT]
HAVE_BOXES = ("coco", "voc", "yolo", "lvis")

DUMP = """
import json
from detectron2.data import DatasetCatalog
from my_detector.data.catalog import get_metadata
from my_detector.data.dataset import register_datasets
register_datasets()
names = [name for name in DatasetCatalog.list() if name.startswith("data_")]
sets = {name: [get_metadata(name).get("thing_classes"), DatasetCatalog.get(name)] for name in names}
print(json.dumps(sets, default=lambda value: value.decode()))
"""


@pytest.fixture(scope="module")
def data(project, tmp_path_factory):
    """`data("voc")` is the folder of the shapes in that format."""

    def data(format) -> Path:
        folder = root / format / "data"
        if not folder.exists():
            folder.mkdir(parents=True)
            WRITERS[format](project.datasets / "shapes", folder)
        return folder

    root = tmp_path_factory.mktemp("formats")
    return data


@pytest.fixture(scope="module")
def of_format(data, make_project):
    """A project that was rendered from a data set of a format."""

    def of_format(format):
        if format not in made:
            made[format] = make_project(data=str(data(format)))
        return made[format]

    made = {}
    return of_format


def boxes_only(project, name="data"):
    """A config in the project: the smoke run's model, without masks, on the user's data set."""
    text = f'_BASE_: smoke.yaml\nDATASETS:\n  TRAIN: ("{name}_train",)\n  TEST: ("{name}_val",)\n'
    text += "MODEL:\n  MASK_ON: False\n"
    (project.folder / "configs/boxes.yaml").write_text(text, encoding="utf-8")


def dump(project) -> dict:
    (project.folder / "dump.py").write_text(DUMP)
    return json.loads(project.train(script="dump.py").splitlines()[-1])


def comparable(dataset_dicts):
    """Without what a format says beside the objects, and how it names images."""
    keys = ("bbox", "bbox_mode", "category_id")
    return [
        (
            re.sub("^(train|val)_", "", Path(record["file_name"]).name),
            (record["height"], record["width"]),
            [[annotation[key] for key in keys] for annotation in record["annotations"]],
        )
        for record in dataset_dicts
    ]


def test_same_objects_give_the_same_dataset_dicts_and_the_same_loss_in_every_format(of_format):
    dicts, losses = {}, {}
    for format in HAVE_BOXES:
        project = of_format(format)
        boxes_only(project)
        dicts[format] = dump(project)
        project.train(*BOXES_ONLY)
        losses[format] = [line["total_loss"] for line in project.metrics("output/boxes").values()]
        assert {"bbox/AP", "bbox/AP50"} <= project.metrics("output/boxes")[2].keys()
    for name in ("data_train", "data_val"):
        expected = comparable(dicts["coco"][name][1])
        assert sum(len(objects) for _, _, objects in expected) > 8
        for format in HAVE_BOXES:
            classes, dataset_dicts = dicts[format][name]
            assert classes == list(CLASSES)
            assert comparable(dataset_dicts) == expected, format
    assert losses["voc"] == losses["yolo"] == losses["lvis"] == losses["coco"]


def test_polygons_are_alike_in_coco_lvis_and_yolo(project, of_format, make_project, tmp_path):
    write_yolo(project.datasets / "shapes", tmp_path / "data", polygons=True)
    projects = of_format("coco"), of_format("lvis"), make_project(data=str(tmp_path / "data"))
    coco, lvis, yolo = (
        [a["segmentation"] for r in dump(p)["data_train"][1] for a in r["annotations"]]
        for p in projects
    )
    assert coco == lvis
    assert [len(polygons[0]) for polygons in yolo] == [len(polygons[0]) for polygons in coco]
    for one, other in zip(coco, yolo, strict=True):
        assert one[0] == pytest.approx(other[0], abs=0.011)  # which is rounded to 0.01
    assert (projects[2].folder / "configs/mask_rcnn_R_50_FPN.yaml").exists()


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_in_the_project_of_a_format(of_format, format):
    """Its own tests of configs, and ours of the format's reader."""
    project = of_format(format)
    ours = f"tests/test_{format}.py"
    shutil.copy(Path(__file__).parent / f"in_format/test_{format}.py", project.folder / ours)
    assert " passed" in project.run("pytest", "-q", "tests/test_config.py", ours)


@pytest.mark.parametrize(
    "format, config, metrics",
    [
        ("lvis", "mask_rcnn_R_50_FPN", {"bbox/AP", "segm/AP", "segm/APf"}),
        ("coco", "keypoint_rcnn_R_50_FPN", {"bbox/AP", "keypoints/AP"}),
        ("coco_panoptic", "mask_rcnn_R_50_FPN", {"segm/AP", "segm/AP-circle"}),
        ("coco_panoptic", "panoptic_fpn_R_50", {"panoptic_seg/PQ", "segm/AP", "sem_seg/IoU-sky"}),
        ("coco_panoptic", "semantic_R_50_FPN", {"sem_seg/mIoU", "sem_seg/IoU-circle"}),
        ("semantic", "semantic_R_50_FPN", {"sem_seg/mIoU", "sem_seg/IoU-circle"}),
        ("cityscapes", "mask_rcnn_R_50_FPN", {"segm/AP", "segm/AP-car", "segm/AP-person"}),
        ("cityscapes", "semantic_R_50_FPN", {"sem_seg/IoU-sky", "sem_seg/IoU-car"}),
    ],
)
def test_what_a_format_has_can_be_trained_and_evaluated(of_format, format, config, metrics):
    project = of_format(format)
    project.train(
        "--config-file", f"configs/{config}.yaml", *SMALL, "SOLVER.MAX_ITER", 1,
        "SOLVER.CLIP_GRADIENTS.ENABLED", True, "OUTPUT_DIR", f"output/{format}_{config}",
    )  # fmt: skip
    line = project.metrics(f"output/{format}_{config}")[0]
    assert metrics <= line.keys()
    assert line["total_loss"] > 0


def test_the_small_model_is_the_same_in_yaml_and_in_python(data, of_format, make_project):
    losses = []
    lazy = make_project(data=str(data("coco")), trainer="lazyconfig")
    for project in (of_format("coco"), lazy):
        project.train(
            "--config-file", "configs/tiny.yaml", *SHORT, "SOLVER.WARMUP_ITERS", 2,
            "SOLVER.STEPS", "(2,)", "DATALOADER.NUM_WORKERS", 0,
        )  # fmt: skip
        metrics = project.metrics("output/tiny")
        losses.append([metrics[i]["total_loss"] for i in range(3)])
        assert {"bbox/AP", "segm/AP"} <= metrics[2].keys()
    assert losses[0] == losses[1]


def test_a_data_set_of_detectron2_is_trained_and_evaluated_by_its_name(project, make_project):
    classes = ("bicycle", "bird", "boat")
    voc = make_project(data="voc_2007")
    root = voc.folder / "datasets/VOC2007"  # detectron2 looked for $DETECTRON2_DATASETS long ago
    write_voc(project.datasets / "shapes", root, classes, lists=("trainval", "test"))
    text = (voc.folder / "configs/base.yaml").read_text(encoding="utf-8")
    assert 'TRAIN: ("voc_2007_trainval",)\n  TEST: ("voc_2007_test",)\n' in text
    text = "_BASE_: smoke.yaml\nMODEL: {MASK_ON: False}\nDATASETS:\n"
    text += '  TRAIN: ("voc_2007_trainval",)\n  TEST: ("voc_2007_test",)\n'
    (voc.folder / "configs/boxes.yaml").write_text(text, encoding="utf-8")
    voc.train(*BOXES_ONLY)
    assert {"bbox/AP", "bbox/AP50"} <= voc.metrics("output/boxes")[2].keys()
    output = voc.train(
        "--config-file", "configs/boxes.yaml", "--eval-only",
        "MODEL.WEIGHTS", project_of_shapes(project), status=1,
    )  # fmt: skip
    assert (
        "are not of this model: they lack 0 of its parameters, and 4 have another shape" in output
    )


def project_of_shapes(project):
    """A checkpoint of the smoke run's model, which has 3 classes."""
    output = project.folder / "output/three_classes"
    project.train(
        "--config-file", "configs/smoke.yaml", *SHORT, "SOLVER.MAX_ITER", 1,
        "MODEL.MASK_ON", False, "TEST.NUM_PICTURES", 0, "OUTPUT_DIR", output,
    )  # fmt: skip
    return output / "model_final.pth"


def test_boxes_that_cannot_be_used_are_reported(project, make_project, tmp_path):
    write_voc(project.datasets / "shapes", tmp_path / "data")
    file = tmp_path / "data/Annotations/train_000001.xml"
    names = ("xmin", "ymin", "xmax", "ymax")
    for box in ((10, 10, 30, 9), (100, 100, 160, 120)):
        corners = "".join(f"<{n}>{v}</{n}>" for n, v in zip(names, box, strict=True))
        added = f"<object><name>circle</name><bndbox>{corners}</bndbox></object></annotation>"
        file.write_text(file.read_text().replace("</annotation>", added))
    voc = make_project(data=str(tmp_path / "data"))
    boxes_only(voc)
    output = voc.train(*BOXES_ONLY)
    assert "data_train: 1 boxes dropped as empty" in output
    assert "data_train: 1 boxes clipped to their image" in output


def test_voc_project_says_which_folder_is_missing(make_project):
    voc = make_project(data="voc:")
    boxes_only(voc, "my_dataset")
    output = voc.train(*BOXES_ONLY, status=1)
    assert re.search(
        r"data set 'my_dataset' needs \S+/my_dataset/Annotations, which is not there", output
    )


def test_custom_project_trains_at_once(make_project):
    custom = make_project(data="custom")
    boxes_only(custom, "my_dataset")
    custom.train(*BOXES_ONLY)
    metrics = custom.metrics("output/boxes")[2]
    assert {"bbox/AP", "bbox/AP-circle", "bbox/AP-triangle"} <= metrics.keys()
