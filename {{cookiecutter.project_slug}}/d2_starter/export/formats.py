"""The formats that a graph is exported to, and how files of them are run."""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from .graph import Graph

OPSET = 18


def need(*modules: str):
    """
    Raises:
        ImportError: one of the modules is not installed; with the commands that do it.
    """
    import importlib.util

    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise ImportError(f"ONNX needs {names}: uv add --dev {names} (or pip install {names}).")


def save_torchscript(graph: Graph, image: torch.Tensor, file: Path):
    """Writes a traced graph, which takes images of any size."""
    with _quietly():
        traced = torch.jit.trace(graph, (image,), check_trace=False)
    torch.jit.save(traced, str(file))


def save_onnx(graph: Graph, image: torch.Tensor, file: Path):
    """Writes an ONNX file, which takes images of any size.

    By PyTorch's exporter that traces: its newer one stops at detectron2's selection of boxes.
    """
    need("onnx", "onnxruntime")
    names = {"image": {1: "height", 2: "width"}}
    for name in graph.names:
        names[name] = {0: "objects"} if name != "sem_seg" else {1: "height", 2: "width"}
    with _quietly():
        torch.onnx.export(
            graph,
            (image,),
            str(file),
            input_names=["image"],
            output_names=graph.names,
            dynamic_axes=names,
            opset_version=OPSET,
            dynamo=False,
        )


def write_metadata(file: Path, metadata: dict):
    """Writes texts and numbers into an exported file: as metadata of ONNX, or extra files."""
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    if file.suffix == ".onnx":
        import onnx

        model = onnx.load(str(file))
        onnx.helper.set_model_props(model, texts)
        onnx.save(model, str(file))
    else:
        model = torch.jit.load(str(file))
        torch.jit.save(model, str(file), _extra_files={"metadata.json": json.dumps(metadata)})


def read_metadata(file: Path) -> dict:
    """Returns what `write_metadata` wrote."""
    if file.suffix == ".onnx":
        import onnx

        texts = {p.key: p.value for p in onnx.load(str(file)).metadata_props}
        return {k: _value(v) for k, v in texts.items()}
    extra = {"metadata.json": ""}
    torch.jit.load(str(file), _extra_files=extra)
    return json.loads(extra["metadata.json"])


def runner(file: Path, names: list[str]) -> Callable[[torch.Tensor], dict]:
    """Returns a function that calls an exported file with an image, (3, H, W)."""
    if file.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        return lambda image: dict(zip(names, session.run(names, {"image": image.numpy()})))
    loaded = torch.jit.load(str(file), map_location="cpu")

    def run(image):
        with torch.no_grad():
            return dict(zip(names, loaded(image)))

    return run


FORMATS = {"torchscript": (".ts", save_torchscript), "onnx": (".onnx", save_onnx)}


def _value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextlib.contextmanager
def _quietly():
    """Without the warnings of tracing: the evaluation of the file says whether it is right."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
