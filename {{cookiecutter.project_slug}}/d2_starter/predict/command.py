"""The command that uses a trained model on images, folders, videos and cameras."""

import argparse
import contextlib
import itertools
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from . import outputs
from .labels import WRITERS
from .predictor import Predictor
from .sources import Video, find, is_video, output_names

KINDS = ("pictures", "json", "csv", "crops")
BAD_INPUT = 1  # exit status: some inputs could not be read; 2 is argparse's


def main(load_experiment: Callable, description: str, arguments: list[str] | None = None):
    """Runs the command, and exits with `BAD_INPUT` if some of its inputs could not be read."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", help="run directory, or a file made by tools/pack.py")
    add("inputs", nargs="+", help='images, videos, folders, "patterns/**/*.jpg", camera:0')
    add("--output", type=Path, default=Path("found"), help="folder for the results (found)")
    add("--save", nargs="+", choices=KINDS, default=["pictures"], help="what is written (pictures)")
    add("--format", choices=sorted(WRITERS), help="also annotations, for a tool to correct them in")
    add("--threshold", default="0.5", help='lowest score; "best": of each class, by the report')
    add("--classes", nargs="+", help="only objects of these")
    add("--weights", help="another checkpoint than the best of the run")
    add("--batch-size", type=int, default=1, help="images of one size at once (1)")
    add("--workers", type=int, default=2, help="threads that read images (2)")
    add("--device", help="such as cpu, cuda:1")
    add("--half", action="store_true", help="compute with 16 bits")
    add("--tta", action="store_true", help="test-time augmentation, see TEST.AUG")
    add("--tiles", type=int, metavar="PIXELS", help="cut large images into tiles of this side")
    add("--overlap", type=float, default=0.2, help="share of a tile that the next has too (0.2)")
    add("--every", type=int, default=1, metavar="N", help="of videos, one frame out of N")
    add("--trust", action="store_true", help="open weights that run code when they are opened")
    args = parser.parse_args(arguments)
    try:
        threshold = args.threshold if args.threshold == "best" else float(args.threshold)
        predictor = Predictor(
            args.run,
            load_experiment,
            weights=args.weights,
            threshold=threshold,
            device=args.device,
            half=args.half,
            tta=args.tta,
            tiles=args.tiles,
            overlap=args.overlap,
            batch_size=args.batch_size,
            workers=args.workers,
            trust=args.trust,
        )
        _check(args, predictor)
        sources = find(args.inputs)
    except (OSError, ValueError, KeyError) as error:
        parser.error(error.args[0] if isinstance(error, KeyError) else str(error))
    sys.exit(BAD_INPUT if _predict(predictor, sources, args) else 0)


def _check(args, predictor):
    unknown = sorted(set(args.classes or ()) - set(predictor.names))
    if unknown:
        known = ", ".join(predictor.names) or "none: it classifies pixels"
        raise ValueError(f"the model has no class {', '.join(unknown)}; it has {known}.")
    if args.every < 1:
        raise ValueError(f"--every is {args.every}. Give 1 or more frames.")
    if not predictor.names and (set(args.save) != {"pictures"} or args.format):
        raise ValueError(
            "this model classifies pixels and finds no objects: --save pictures alone."
        )


def _predict(predictor, sources, args) -> list[str]:
    """Writes the results of all sources, and returns what could not be read, with the reason."""
    metadata, failed = predictor.metadata, []
    together = []
    if "json" in args.save:
        together.append(outputs.CocoJson(args.output / "predictions.json", metadata))
    if "csv" in args.save:
        together.append(outputs.Table(args.output / "predictions.csv"))
    if "crops" in args.save:
        together.append(outputs.Crops(args.output / "crops"))
    if args.format:
        together.append(outputs.Labels(args.output / args.format, args.format, metadata))
    pictures = outputs.Pictures(args.output, metadata) if "pictures" in args.save else None
    numbers, names = itertools.count(1), dict(zip(sources, output_names(sources)))
    images, objects, start = 0, 0, time.perf_counter()
    with contextlib.ExitStack() as stack, tqdm(unit="image", disable=None) as bar:
        for output in [*together, *([pictures] if pictures else [])]:
            stack.callback(output.close)
        bar.total = len(sources)

        def take(result, output):
            nonlocal images, objects
            result.output = _only(result.output, args.classes)
            images += 1
            objects += len(result.instances) if predictor.names else 0
            for one in [*together, *([output] if output else [])]:
                one.add(result)
            bar.update()

        for video, group in itertools.groupby(sources, key=is_video):
            if not video:
                for file, found in predictor.stream(group):
                    if isinstance(found, Exception):
                        failed.append(_say(bar, file, found))
                    else:
                        name, number = names[file], next(numbers)
                        take(outputs.Result(number, name, str(file), file, found), pictures)
                continue
            for source in group:
                try:
                    opened = Video(source)
                except OSError as error:
                    failed.append(_say(bar, source, error))
                    continue
                bar.total += opened.count // args.every
                drawn = None
                if pictures:
                    file = args.output / f"{names[source]}.mp4"
                    drawn = outputs.Movie(file, opened.rate / args.every, metadata)
                    stack.callback(drawn.close)
                frames = opened.frames(args.every)
                with _until_interrupted() as interrupted:
                    for index, (frame, found) in enumerate(predictor.stream(frames, "BGR")):
                        if isinstance(found, Exception):
                            raise found
                        same = dict(name=names[source], file=str(source), frame=index * args.every)
                        take(
                            outputs.Result(next(numbers), source=frame, output=found, **same), drawn
                        )
                        if interrupted:
                            break
                if not interrupted and not opened.is_whole:
                    cut = OSError(f"only {opened.read} of {opened.count} frames can be read")
                    failed.append(_say(bar, source, cut))
    seconds = time.perf_counter() - start
    where = f" in {args.output}" if images else ""
    print(
        f"{objects} objects in {images} images{where}; {images / seconds:.1f} images/s"
        + (f"; {len(failed)} inputs could not be read, see above" if failed else "")
    )
    return failed


def _say(bar, source, error):
    text = str(error)
    text = text if str(source) in text else f"{source}: {text}"
    bar.write(f"skipped: {text.splitlines()[0]}", file=sys.stderr)
    return text


def _only(output, classes):
    if not classes:
        return output
    found = output if not isinstance(output, dict) else output["instances"]
    kept = torch.tensor([name in classes for name in found.names], dtype=torch.bool)
    found = found[kept]
    return found if not isinstance(output, dict) else {**output, "instances": found}


@contextlib.contextmanager
def _until_interrupted():
    """Ctrl-C ends a video or a camera in order: what was found until then is written."""
    interrupted = []
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
