"""A predictor finds what the model finds in an evaluation, in whatever it is given."""

import json
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import load_yaml
from detectron2.evaluation import DatasetEvaluator
from PIL import Image
from test_validation_loss import MODELS
from tiny_run import NAMES, load_experiment, make_image, make_run

from d2_starter.predict import Predictor
from d2_starter.predict.command import main
from d2_starter.predict.labels import WRITERS
from d2_starter.predict.sources import find, output_names


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run, load_experiment, threshold=0)


def same(a, b):
    fields = a.get_fields()
    return fields.keys() == b.get_fields().keys() and all(
        torch.equal(*(_tensor(values.get(name)) for values in (a, b)))
        for name in fields.keys() - {"names"}
    )


def _tensor(value):
    value = getattr(value, "tensor", value)
    return value if isinstance(value, torch.Tensor) else torch.stack(list(value))


def test_as_in_an_evaluation(predictor, tmp_path):
    files = [make_image(tmp_path / f"{i}.png", 90 + i % 2, seed=i) for i in range(6)]
    mapper = predictor.run.experiment.build_mapper(is_train=False)
    for file, found in zip(files, predictor.batch(files)):
        with torch.no_grad():
            (expected,) = predictor.model([mapper({"file_name": str(file)})])
        expected = expected["instances"]
        expected.names = found.names
        assert len(found) and same(found, expected)
        assert found.names == [NAMES[i] for i in found.pred_classes]


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"FCOS", "of one's own"}))
def test_every_family_finds_what_an_evaluation_finds(name, load, tmp_path):
    """Of each image of the test set, to the last bit."""
    few = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "5"]
    experiment = load(*MODELS[name], *few)
    torch.manual_seed(0)
    model, evaluated = experiment.build_model(), {}
    experiment.save(tmp_path / "config.yaml")
    torch.save({"model": model.state_dict()}, tmp_path / "model_best.pth")

    class Recorder(DatasetEvaluator):
        def process(self, inputs, outputs):
            evaluated.update({i["file_name"]: o for i, o in zip(inputs, outputs, strict=True)})

    experiment.build_evaluator = lambda name, folder: Recorder()
    experiment.evaluate(model, str(tmp_path))
    predictor, objects = Predictor(tmp_path, load_yaml, threshold=0), 0
    for file, found in predictor.stream(evaluated):
        found, expected = (
            found if isinstance(found, dict) else {"instances": found},
            evaluated[file],
        )
        assert found.keys() == expected.keys()
        if instances := found.pop("instances", None):
            expected["instances"].names = instances.names
            assert same(instances, expected["instances"])
            objects += len(instances)
        if segments := found.pop("panoptic_seg", None):
            assert torch.equal(segments[0], expected["panoptic_seg"][0])
            assert segments[1] == expected["panoptic_seg"][1]
        assert all(torch.equal(value, expected[key]) for key, value in found.items())
    assert len(evaluated) == 8 and (objects or name == "semantic FPN")


def test_paths_pictures_and_arrays(predictor, tmp_path):
    file = make_image(tmp_path / "i.png")
    expected, opened = predictor(file), Image.open(file)
    array = np.asarray(opened)
    assert same(predictor(str(file)), expected) and same(predictor(opened), expected)
    assert same(predictor(array, channels="RGB"), expected)
    assert same(predictor(cv2.imread(str(file)), channels="BGR"), expected)
    with pytest.raises(ValueError, match="channels='RGB'"):
        predictor(array)
    with pytest.raises(ValueError, match="float64"):
        predictor(array / 255, channels="RGB")
    with pytest.raises(OSError, match=r"none\.png"):
        predictor(tmp_path / "none.png")


def test_orientation_is_applied(predictor, tmp_path):
    upright = Image.open(make_image(tmp_path / "i.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert same(predictor(tmp_path / "turned.png"), predictor(upright))
    assert same(predictor(Image.open(tmp_path / "turned.png")), predictor(upright))


def test_thresholds(run, predictor, tmp_path):
    file = make_image(tmp_path / "i.png")
    every = predictor(file)
    middle = every.scores.median().item()
    some = Predictor(run, load_experiment, threshold=middle)(file)
    assert len(some) == (every.scores >= middle).sum() < len(every)
    dogs = Predictor(run, load_experiment, threshold={"cat": 1.0, "dog": 0.0})(file)
    assert set(dogs.names) <= {"dog"} and len(dogs) == every.names.count("dog")
    assert every[every.scores >= middle].names == some.names  # names are indexed, too
    for wrong, said in (({"cow": 0.5}, "cow"), (2, "0 to 1"), ("best", "thresholds.json")):
        with pytest.raises(ValueError, match=said):
            Predictor(run, load_experiment, threshold=wrong)


def test_no_masks_are_computed_for_what_is_left_out(run, predictor, tmp_path):
    file, computed = make_image(tmp_path / "i.png"), []
    middle = predictor(file).scores.median().item()
    some = Predictor(run, load_experiment, threshold={"cat": middle, "dog": 1.0})
    some.model.roi_heads.mask_head.register_forward_hook(lambda _, x, y: computed.append(len(x[0])))
    assert set(some(file).names) == {"cat"}
    assert computed == [(predictor(file).scores >= middle).sum()]


def test_order_and_errors_of_a_stream(predictor, tmp_path):
    files = [make_image(tmp_path / f"{i:02d}.png", 40 + i % 3 * 9, seed=i) for i in range(12)]
    files[5].write_bytes(b"no image")
    got = list(predictor.stream(files))
    assert [file for file, _ in got] == files
    assert [isinstance(found, Exception) for _, found in got] == [i == 5 for i in range(12)]
    before = threading.active_count()
    stream = predictor.stream(files)
    next(stream)
    stream.close()  # its threads end
    assert threading.active_count() == before


def test_an_error_of_the_input_is_passed_on(predictor, tmp_path):
    def images():
        yield make_image(tmp_path / "i.png")
        raise RuntimeError("the camera fell down")

    with pytest.raises(RuntimeError, match="camera"):
        predictor.batch(images())


def test_no_run(tmp_path, run):
    with pytest.raises(FileNotFoundError, match="no run directory and no packed file"):
        Predictor(tmp_path / "none", load_experiment)
    with pytest.raises(FileNotFoundError, match=r"has no config\.yaml"):
        Predictor(tmp_path, load_experiment)
    other = make_run(tmp_path / "other", **{"MODEL.FPN.OUT_CHANNELS": 8})
    with pytest.raises(ValueError, match="are not of this model"):
        Predictor(run, load_experiment, weights=str(other / "model_best.pth"))


def test_tiles_and_augmentation_are_those_of_an_evaluation(run, tmp_path):
    file = str(make_image(tmp_path / "i.png", 200, 150))
    sizes = ["TEST.AUG.MIN_SIZES", "(48,64)", "TEST.AUG.MAX_SIZE", "96"]
    options = {"tiles": 100, "overlap": 0.25, "tta": True, "overrides": sizes}
    found = Predictor(run, load_experiment, threshold=0, **options)(file)
    tiles = "TEST.TILES.ENABLED True TEST.TILES.SIZE (100,100) TEST.TILES.OVERLAP 25"
    overrides = [*sizes, *tiles.split(), "TEST.AUG.ENABLED", "True"]
    same_by_config = Predictor(run, load_experiment, threshold=0, overrides=overrides)
    assert len(found) and same(found, same_by_config(file))
    experiment = same_by_config.run.experiment
    predict = experiment.build_predictor(same_by_config.model)
    with torch.no_grad():
        (evaluated,) = predict([experiment.build_mapper(False)({"file_name": file})])
    evaluated["instances"].names = found.names
    assert same(found, evaluated["instances"])


def test_names_of_results_never_collide(tmp_path):
    names = ["a/1.png", "a/1.jpg", "b/1.png", "a/2.png", "a/1.png.bmp", "A/2.png"]
    got = output_names([tmp_path / name for name in names])
    assert got == ["a/1.png", "a/1.jpg", "b/1", "a/2.png", "a/1.png-2", "A/2.png-2"]
    assert output_names([Path("photo.jpg")]) == ["photo"]


def test_what_is_found_in_folders(tmp_path, monkeypatch):
    for name in ("x/b.png", "x/deep/a.JPG", "x/.hidden/c.png", "x/t.txt", "x/v.mp4", "y/q.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert list(map(str, find(["x"]))) == ["x/b.png", "x/v.mp4", "x/deep/a.JPG"]
    assert list(map(str, find(["**/*.png", "x/b.png"]))) == ["x/b.png", "y/q.png"]
    for nothing in ("none", "*.none", "x/.hidden/deep"):
        with pytest.raises(FileNotFoundError, match="none|deep"):
            find([nothing])


def test_command_on_a_folder_of_mixed_files(run, tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    for i, name in enumerate(("a/1.png", "a/1.bmp", "b/1.png")):
        make_image(folder / name, seed=i)
    (folder / "b/empty.jpg").touch()
    make_image(folder / "b/long.png", 900, 1)
    video = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for i in range(4):
        video.write(np.full((48, 64, 3), 60 * i, np.uint8))
    video.release()
    (folder / "broken.mp4").write_bytes(b"no video")
    arguments = [str(run), str(folder), "--output", str(output), "--threshold", "0"]
    arguments += ["--save", "pictures", "json", "csv", "crops", "--format", "coco"]
    with pytest.raises(SystemExit) as ended:
        main(load_experiment, "", arguments)
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "in 7 images" in said.out and "3 inputs could not be read" in said.out
    for name in ("empty.jpg", "long.png", "broken.mp4"):
        assert name in said.err
    pictures = {str(p.relative_to(output)) for p in output.glob("[ab]/*")} | {"clip.mp4"}
    assert pictures == {"a/1.png.jpg", "a/1.bmp.jpg", "b/1.jpg", "clip.mp4"}
    assert (output / "clip.mp4").stat().st_size
    content = json.loads((output / "predictions.json").read_text())
    assert len(content["images"]) == 7 and len(content["annotations"]) == 70
    assert {c["name"] for c in content["categories"]} == set(NAMES)
    assert len((output / "predictions.csv").read_text().splitlines()) == 71
    with pytest.raises(SystemExit) as ended:
        main(load_experiment, "", [str(run), str(folder / "a"), "--output", str(output)])
    assert ended.value.code == 0


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_annotations_to_correct(tmp_path, format):
    image = make_image(tmp_path / "i.png", 100, 80)
    box = {"category_id": 1, "name": "dog", "bbox": [10, 20, 40, 20], "area": 800, "score": 0.9}
    outline = [10.0, 20.0, 50.0, 20.0, 50.0, 40.0]
    writer = WRITERS[format](tmp_path / "out", NAMES)
    writer.add("sub/i", str(image), 80, 100, [box, {**box, "segmentation": [outline]}])
    writer.close()
    text = "".join(p.read_text() for p in (tmp_path / "out").rglob("*") if p.is_file())
    expected = {
        "yolo": "1 0.300000 0.375000 0.400000 0.250000\n1 0.100000 0.250000 0.500000 0.250000",
        "voc": "<xmin>11</xmin>",
        "coco": '"category_id": 2',
        "labelme": '"imagePath": "' + os.path.join("..", "..", "i.png"),
        "cvat": 'xtl="10.00"',
        "via": '"x": 10, "y": 20, "width": 40, "height": 20',
        "labelstudio": '"x": 10.0, "y": 25.0, "width": 40.0, "height": 25.0',
    }
    assert expected[format] in text and (format == "yolo" or "dog" in text)
