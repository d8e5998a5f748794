"""The command that exports a trained model, and proves that it is as good as before."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import detectron2
import torch
from detectron2.data import DatasetCatalog

from ..run.opening import open_run
from .about import commit, preprocessing, project_facts
from .formats import FORMATS, need, runner, write_metadata
from .graph import FIELDS, Graph, Outside, halve
from .verify import MOST, compare, deciding, worse

FAILED = 1  # exit status


def main(load_experiment: Callable, description: str, arguments: list[str] | None = None):
    """Runs the command; exits with `FAILED` if a file could not be made, or is worse."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", help="run directory, or a file made by tools/pack.py")
    add("--format", nargs="+", choices=FORMATS, default=["onnx"], help="(onnx)")
    add("--output", type=Path, help="folder for the files (RUN/export)")
    add("--weights", help="another checkpoint than the best of the run")
    add("--half", action="store_true", help="backbone and box head with 16 bits")
    add("--images", type=int, default=20, help="on which numbers and time are compared (20)")
    add("--trust", action="store_true", help="open weights that run code when they are opened")
    add("--overrides", nargs=argparse.REMAINDER, default=[], help="keys of the config; comes last")
    args = parser.parse_args(arguments)
    try:
        if "onnx" in args.format:
            need("onnx", "onnxruntime")
        run = open_run(args.run, load_experiment, args.weights, args.overrides, args.trust)
        model = run.build_model("cpu")
        Graph(model)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    folder = args.output or (run.path if run.path.is_dir() else run.path.parent) / "export"
    folder.mkdir(parents=True, exist_ok=True)

    mapper = run.experiment.build_mapper(is_train=False)
    records = DatasetCatalog.get(run.experiment.test_names[0])
    mapped = (mapper(record) for record in records[: max(1, args.images)])
    inputs = [one for image in mapped for one in image.get("tiles", [image])]
    if run.experiment.test_augmentation["enabled"]:
        print("the file is one pass of the model: test-time augmentation is left out")
        run.experiment.test_augmentation = {"enabled": False}
    print("evaluating the model itself ...")
    before = _evaluate(run, model)
    facts = {
        **project_facts(load_experiment),
        "commit": commit(run),
        "weights": Path(run.weights).name,
        "model": type(model).__name__,
        "classes": list(run.metadata.get("thing_classes") or ()),
        "stuff_classes": list(run.metadata.get("stuff_classes") or ()),
        "preprocessing": preprocessing(mapper),
        "test_set": ", ".join(run.experiment.test_names),
        "half": args.half,
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
    }
    failed = [not _export(f, run, model, inputs, before, facts, folder) for f in args.format]
    sys.exit(FAILED if any(failed) else 0)


def _export(format, run, model, inputs, before, facts, folder) -> bool:
    """Writes one file, evaluates it, and says how it went; returns whether it is good."""
    suffix, save = FORMATS[format]
    name = "model-half" if facts["half"] else "model"
    file, partial = folder / f"{name}{suffix}", folder / f".{name}.partial{suffix}"
    source = model
    if facts["half"]:
        source = run.build_model("cpu")
        halve(source)
    graph = Graph(source).eval()
    try:
        example = _with_objects(model, inputs)
        graph(example)  # which finds out what its outputs are
        save(graph, example, partial)
        exported = Outside(model, runner(partial, graph.names)).eval()
        with torch.no_grad():
            exported(inputs[:1])
    except Exception as error:  # of exporters and run times, which raise anything
        partial.unlink(missing_ok=True)
        lines = str(error).strip().splitlines() or [""]
        print(f"{format}: {facts['model']} cannot be exported: {type(error).__name__}: {lines[0]}")
        return False
    compared = compare(model, exported, inputs)
    print(f"{format}: evaluating the file ...")
    after = _evaluate(run, exported)
    problems = worse(before, after)
    if problems:
        partial.unlink()
        print(
            f"{format}: the file was removed, because it is worse than the model: "
            f"{'; '.join(problems)} (more than {MOST} apart)"
        )
        return False
    outputs = {name: FIELDS.get(name, name) for name in graph.names}
    metrics = {"metrics": after, "metrics_before": before, "compared": asdict(compared)}
    write_metadata(partial, {**facts, "outputs": outputs, **metrics})
    partial.replace(file)
    for metric, value in deciding(before).items():
        print(f"{format}: {metric} {value:.2f} before, {after[metric]:.2f} after")
    print(
        f"{format}: largest differences on {compared.images} images: boxes {compared.boxes:.2g} "
        f"pixels, scores {compared.scores:.2g}, {compared.pixels:.2%} of a mask; other objects in "
        f"{compared.other} images; {compared.speed:.2f} times as fast as detectron2 here\n"
        f"{format}: {file} ({file.stat().st_size / 2**20:.1f} MB)"
    )
    return True


def _evaluate(run, model):
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            metrics = run.experiment.evaluate(model, folder)
    finally:
        logging.disable(logging.NOTSET)
    return {k: v for k, v in metrics.items() if "val_loss" not in k}


def _with_objects(model, inputs):
    """Returns the image in which most is found: an empty one would be traced without its heads."""
    if len(inputs) == 1:
        return inputs[0]["image"]
    with torch.no_grad():
        found = [len(model([one])[0].get("instances", ())) for one in inputs[:10]]
    return inputs[found.index(max(found))]["image"]
