"""Exported files find what the model finds; packed files are runs again."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import NAMES, load_experiment, make_image, make_run

from d2_starter.export.formats import FORMATS, read_metadata, runner, write_metadata
from d2_starter.export.graph import Graph, Outside, halve
from d2_starter.export.pack import pack, unpack
from d2_starter.export.verify import Comparison, compare, worse
from d2_starter.files.weights import read_weights
from d2_starter.predict import Predictor
from d2_starter.run.opening import open_run

CONSUMER = Path(__file__).parents[2] / "{{cookiecutter.project_slug}}/docs/onnx_consumer.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(make_run(tmp_path_factory.mktemp("run")), load_experiment)


def exported(run, model, format, folder, images):
    inputs = [run.experiment.build_mapper(False)({"file_name": str(i)}) for i in images]
    graph = Graph(model).eval()
    graph(inputs[0]["image"])
    suffix, save = FORMATS[format]
    file = folder / f"model{suffix}"
    save(graph, inputs[0]["image"], file)
    return file, graph.names, inputs


@pytest.mark.parametrize("format", FORMATS)
def test_same_predictions(run, format, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    model = run.build_model()
    images = [make_image(tmp_path / f"{i}.png", 60 + 30 * i, seed=i) for i in range(3)]
    file, names, inputs = exported(run, model, format, tmp_path, images)
    assert not model.training and names == ["boxes", "scores", "classes", "masks"]
    compared = compare(model, Outside(model, runner(file, names)).eval(), inputs)
    assert compared.other == 0 and compared.boxes < 1e-3 and compared.scores < 1e-4
    preprocessing = {"channels": "BGR", "short_side": 64, "longest_side": 200}
    metadata = {"classes": NAMES, "preprocessing": preprocessing, "licence": "none"}
    write_metadata(file, metadata)
    assert read_metadata(file) == metadata
    if format == "onnx":
        check_consumer(run, file, images[1], tmp_path)


def check_consumer(run, file, image, folder):
    """The program of the docs, where there is neither PyTorch nor detectron2."""
    if shutil.which("uv") is None:
        pytest.skip("uv makes the environment")
    code = f"""
import sys, numpy, onnxruntime
from PIL import Image
from onnx_consumer import predict
found = predict(onnxruntime.InferenceSession({str(file)!r}), Image.open({str(image)!r}), 0)
assert "torch" not in sys.modules and "detectron2" not in sys.modules
numpy.savez({str(folder / "found.npz")!r}, *found[:2], numpy.array(found[2]), numpy.array(found[3]))
"""
    packages = ["--with", "numpy", "--with", "pillow", "--with", "onnxruntime"]
    command = ["uv", "run", "--no-project", "--isolated", *packages, "python", "-c", code]
    done = subprocess.run(command, cwd=CONSUMER.parent, capture_output=True, text=True)
    if "Could not" in done.stderr or "dns error" in done.stderr:
        pytest.skip("no package index")
    assert done.returncode == 0, done.stderr
    boxes, scores, names, masks = np.load(folder / "found.npz").values()
    expected = Predictor(run.path, load_experiment, threshold=0)(image)
    assert names.tolist() == expected.names
    assert np.abs(boxes - expected.pred_boxes.tensor.numpy()).max() < 1e-2
    assert np.abs(scores - expected.scores.numpy()).max() < 1e-4
    assert (masks != expected.pred_masks.numpy()).mean() < 1e-3


def test_half_precision(run, tmp_path):
    model, half = run.build_model(), run.build_model()
    halve(half)
    image = make_image(tmp_path / "i.png")
    sizes = []
    for one in (model, half):
        file, names, inputs = exported(run, one, "torchscript", tmp_path, [image])
        sizes.append(file.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    with torch.no_grad():
        (found,) = Outside(model, runner(file, names)).eval()(inputs)
    assert torch.isfinite(found["instances"].scores).all()


def test_worse_is_said():
    before = {"bbox/AP": 50.0, "bbox/AP50": 70.0, "val_loss/total_loss": 1.0}
    assert worse(before, {**before, "bbox/AP": 50.09}) == []
    assert worse(before, {**before, "bbox/AP": 49.8}) == ["bbox/AP is 49.80 instead of 50.00"]
    assert worse(before, {"bbox/AP": float("nan")}) and worse(before, {})
    assert Comparison(1).other == 0


def test_model_of_another_kind():
    with pytest.raises(ValueError, match="Linear cannot be exported"):
        Graph(torch.nn.Linear(1, 1))


def test_packed_run(run, tmp_path):
    (run.path / "metrics.json").write_text(
        '{"iteration": 9, "bbox/AP": 12.5}\n{"iteration": 19, "bbox/AP": 13.5}\n{"cut'
    )
    (run.path / "intervals.json").write_text('{"bbox/AP": [10.0, 15.0]}')
    file = tmp_path / "packed.pth"
    pack(run, load_experiment, file)
    assert torch.load(file)["model"].keys() == run.build_model().state_dict().keys()
    card = read_weights(file)["packed"]["README.md"]
    assert "| bbox/AP | 12.50 | 10.0 to 15.0 |" in card and "cat, dog" in card
    image = make_image(tmp_path / "i.png")
    expected = Predictor(run.path, load_experiment, threshold=0)(image)
    for again in (file, tmp_path / "unpacked"):
        if again.name == "unpacked":
            assert "config.yaml" in unpack(file, again)
        got = Predictor(again, load_experiment, threshold=0)(image)
        assert torch.equal(got.pred_boxes.tensor, expected.pred_boxes.tensor)
    with pytest.raises(FileExistsError, match="give a new folder"):
        unpack(file, tmp_path / "unpacked")
    with pytest.raises(ValueError, match="not made by tools/pack.py"):
        Predictor(run.path / "model_best.pth", load_experiment)


def test_packed_file_has_no_paths(run, tmp_path):
    file = tmp_path / "packed.pth"
    pack(run, load_experiment, file)
    content = torch.load(file)
    content["packed"]["../outside.txt"] = "x"
    torch.save(content, file)
    unpack(file, tmp_path / "a" / "b")
    assert not (tmp_path / "a" / "outside.txt").exists()
