"""The command that packs a run into one file, unpacks it, and makes a test of its model."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ..run.opening import open_run
from .pack import CARD, pack, packed_card, unpack


def main(load_experiment: Callable, description: str, arguments: list[str] | None = None):
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="run directory, or a packed file")
    add("--output", type=Path, help="packed file (RUN.pth)")
    add("--weights", help="another checkpoint than the best of the run")
    add("--for-resume", action="store_true", help="with what a training needs to go on")
    add("--unpack", type=Path, metavar="FOLDER", help="make a run directory of a packed file")
    add("--card", action="store_true", help="print the model card")
    add("--test", type=Path, metavar="FILE", help="write a test of the model, for CI")
    add("--trust", action="store_true", help="open weights that run code when they are opened")
    args = parser.parse_args(arguments)
    try:
        print(_do(args, load_experiment))
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)


def _do(args, load_experiment):
    if args.unpack:
        names = unpack(args.run, args.unpack)
        return f"{args.unpack}: {', '.join(names)}"
    if args.card and args.run.is_file():
        return packed_card(args.run)
    if args.test:
        from ..predict import Predictor
        from .model_test import make_test

        options = dict(weights=args.weights, threshold=0, trust=args.trust)
        predictor = Predictor(args.run, load_experiment, **options)
        text = make_test(predictor, str(args.run), load_experiment, str(args.test))
        args.test.write_text(text, encoding="utf-8")
        return f"{args.test}: uv run pytest {args.test}"
    run = open_run(args.run, load_experiment, _weights(args), trust=args.trust)
    if args.card:
        from .model_card import model_card

        return model_card(run, load_experiment)
    file = args.output or args.run.with_name(f"{args.run.name}.pth")
    pack(run, load_experiment, file, args.for_resume)
    size = file.stat().st_size / 2**20
    return f"{file} ({size:.1f} MB). Its {CARD} has lines to be filled in: --card prints it."


def _weights(args):
    tag = args.run / "last_checkpoint"
    if args.for_resume and not args.weights and tag.is_file():
        return tag.read_text(encoding="utf-8").strip()
    return args.weights
