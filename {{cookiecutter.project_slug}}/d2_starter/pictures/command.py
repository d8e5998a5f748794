"""Shows a dataset as the model sees it: images as annotated, and augmented as in training.

uv run tools/visualize_data.py --config-file configs/smoke.yaml --number 50

Then open data_pictures/index.html in a browser. Config overrides come last, as in a training.
"""

import argparse
import difflib
import shlex
import shutil
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from ..data.catalog import get_metadata
from .data_page import DataPage, contents, is_free


def check_classes(classes: list[str], metadata):
    """
    Raises:
        ValueError: a class that the dataset does not have; the message lists its own.
    """
    names = [*metadata.get("thing_classes", ()), *metadata.get("stuff_classes", ())]
    for name in classes:
        if name not in names:
            likeness = {n: difflib.SequenceMatcher(None, n, name).ratio() for n in names}
            nearest = ", ".join(sorted(names, key=likeness.get, reverse=True))
            hint = " Overrides go after another option." if {".", "="} & set(name) else ""
            raise ValueError(f"'{metadata.name}' has no class '{name}', but {nearest}.{hint}")


def choose(records: list[dict], metadata, classes: list[str], number: int, seed: int) -> list[int]:
    """Indices of images, in order: a random sample of those that have one of the classes."""

    def has_class(record):
        try:
            return not classes or not contents(record, metadata).keys().isdisjoint(classes)
        except OSError:
            return True  # the page says what is wrong with it

    order = np.random.default_rng(seed).permutation(len(records)).tolist()
    return sorted(islice((i for i in order if has_class(records[i])), number))


def parse_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Returns the parser of the command, and what it was given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="has the augmentations")
    parser.add_argument("--dataset", help="default: the first of DATASETS.TRAIN")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="only images which have one of these, and only these are drawn; default: all",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice and the augmentations")
    parser.add_argument("--number", type=int, default=24, help="of images; default: 24")
    parser.add_argument("--augmented", type=int, default=2, help="how often each; default: 2")
    parser.add_argument(
        "--output", type=Path, default="data_pictures", help="folder; default: data_pictures"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides")
    args = parser.parse_args()
    if min(args.seed, args.augmented, args.number - 1) < 0:
        parser.error("--seed and --augmented are at least 0, --number at least 1")
    if not is_free(args.output):
        parser.error(f"{args.output} has something else in it; give another --output")
    return parser, args


def main(load_experiment):
    """Runs the command."""
    parser, args = parse_arguments()
    try:
        experiment = load_experiment(args.config_file, args.opts)
        dataset = args.dataset or experiment.train_names[0]
        metadata = get_metadata(dataset)
        check_classes(args.classes, metadata)
        records = DatasetCatalog.get(dataset)
    except (KeyError, ValueError, OSError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        parser.error(str(message))
    chosen = choose(records, metadata, args.classes, args.number, args.seed)
    if not chosen:
        parser.error(f"'{dataset}' has no image with {' or '.join(args.classes) or 'anything'}")

    output = args.output.resolve()
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
    try:
        page = DataPage(
            records,
            metadata,
            experiment.build_mapper(is_train=True),
            temporary,
            classes=args.classes or None,
            augmented=args.augmented,
            seed=args.seed,
        )
        for index in tqdm(chosen, unit="image"):
            page.add(index)
        page.write(dataset, args.config_file, shlex.join(["uv", "run", *sys.argv]))
        temporary.chmod(0o755)
        if output.exists():
            shutil.rmtree(output)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    errors = f", {len(page.errors)} of them with an error" if page.errors else ""
    print(f"{len(chosen)} pictures in {args.output / 'index.html'}{errors}")
