"""detectron2's catalogs, with errors in words: registration, class names, a cache, clean boxes."""

import contextlib
import difflib
import gc
import hashlib
import itertools
import logging
import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.colormap import colormap

from ..formats.problems import Problems
from .label_fixes import apply_fixes, read_fixes
from .records import complete

# What takes longer to load is read from a cache next time, in $XDG_CACHE_HOME (default ~/.cache).
CACHED_FROM = 1.0  # seconds

# evaluator_type of metadata: the classes that it needs the names of, if not those of things alone.
NAMED = {
    "sem_seg": ["stuff_classes"],
    "coco_panoptic_seg": ["thing_classes", "stuff_classes"],
}

logger = logging.getLogger(__name__)

_sources = {}  # name of a dataset: its function, its files, whether its records are complete
_recorded = {}  # name of a dataset: the metadata that a run has recorded
_fixes = {}  # name of a dataset: the content of its fixes file
# name of a dataset: the problems that its format's reader has found in its files
readable_problems: dict[str, Problems] = {}


def datasets_root() -> Path:
    """Returns the folder of all datasets: `$DETECTRON2_DATASETS`, or `datasets` where one is."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


@contextlib.contextmanager
def atomic_folder(folder: Path):
    """Gives a temporary folder to fill, which then becomes `folder`, atomically."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was first, with the same files
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def register(
    name: str,
    load: Callable[[], list[dict]],
    files: Callable[[], Iterable[Path]] | None = None,
    is_complete: bool = False,
    **metadata,
):
    """Registers a dataset; again is harmless, and the last registration counts.

    Args:
        load: returns the dataset dicts. It is not called before someone asks for them.
        files: returns what it reads, files and folders of files. If it is given, and loading takes
            long, the result is cached until one of them, or the code in this folder, changes.
        is_complete: whether the dataset dicts have all fields that they need; else what follows
            from others is filled in, see records.py.
        metadata: what evaluation and drawing need: `evaluator_type`, `thing_classes`, ...
    """
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    MetadataCatalog.get(name).set(**metadata)
    _sources[name] = (load, files, is_complete)
    DatasetCatalog.register(name, partial(_load, name))


def adopt(name: str):
    """Gives a dataset that detectron2 has registered clean boxes and the cache.

    Raises:
        KeyError: there is no such dataset; the message has the nearest names.
    """
    check_registered(name)
    if name not in _sources:
        metadata = MetadataCatalog.get(name).as_dict()
        files = [Path(metadata[k]) for k in ("json_file", "panoptic_json") if metadata.get(k)]
        load = DatasetCatalog[name]
        del metadata["name"]

        def load_existing():
            for file in files:
                if not file.exists():
                    raise FileNotFoundError(
                        f"dataset '{name}' needs {file.absolute()}, which is not there. Its place "
                        "is in the folder that DETECTRON2_DATASETS names, or in datasets/."
                    )
            return load()

        register(name, load_existing, partial(list, files) if files else None, True, **metadata)


def load_uncleaned(name: str) -> list[dict]:
    """Returns the dataset dicts of a registered dataset, with the boxes as they are in its files.

    Raises:
        KeyError: there is no such dataset; the message has the nearest names.
    """
    check_registered(name)
    return _sources[name][0]() if name in _sources else DatasetCatalog.get(name)


def use_fixes(paths: Iterable[str]):
    """Has datasets loaded with the corrections of these fixes files, and of no others.

    Raises:
        FileNotFoundError, KeyError, ValueError: a file is not there or is no fixes file, or its
            dataset is not registered, or is LVIS's, whose evaluation reads the file itself.
    """
    new = {fixes["dataset"]: fixes for fixes in map(read_fixes, paths)}
    for name in {*new, *_fixes}:
        check_registered(name)
        if MetadataCatalog.get(name).get("evaluator_type") == "lvis":
            raise ValueError(f"fixes cannot be applied to '{name}', which is in LVIS's format.")
        # Then evaluators take their ground truth from the dataset dicts.
        vars(MetadataCatalog.get(name)).pop("json_file", None)
    _fixes.clear()
    _fixes.update(new)


def has_fixes(name: str) -> bool:
    """Returns whether a dataset is loaded with corrections."""
    return name in _fixes


def check_registered(name: str):
    """
    Raises:
        KeyError: there is no such dataset; the message has the nearest names.
    """
    if name not in DatasetCatalog.list():
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3, cutoff=0.4)
        base, _, kind = name.rpartition("_")
        lacks = f"'{base}' has no {kind} ground truth, so that this config cannot be trained. "
        raise KeyError(
            f"dataset '{name}' is not registered. {lacks if base in DatasetCatalog.list() else ''}"
            f"Nearest names: {', '.join(near) or 'none'}. Datasets come from datasets.json (see "
            "tools/set_dataset.py) or data/dataset.py, and are named in DATASETS.TRAIN and TEST."
        )


@contextlib.contextmanager
def recorded_metadata(metadata: dict[str, dict]):
    """Uses metadata, by dataset, that a run has recorded: its files need not be there."""
    _recorded.update(metadata)
    try:
        yield
    finally:
        for name in metadata:
            del _recorded[name]


def get_metadata(name: str) -> Metadata:
    """Returns the metadata of a registered dataset, with the names and colors of its classes.

    Raises:
        KeyError: there is no such dataset; the message has the nearest names.
    """
    check_registered(name)
    metadata = MetadataCatalog.get(name)
    if name in _recorded:
        vars(metadata).update(_recorded[name])  # `set` refuses classes that have changed since
    needed = NAMED.get(metadata.get("evaluator_type"), ["thing_classes"])
    if name in _sources and not all(metadata.get(kind) for kind in needed):
        logging.disable(logging.WARNING)  # the loading that follows reports what it finds
        try:
            _load(name, metadata_only=True)  # functions that read class names from a file set them
        finally:
            logging.disable(logging.NOTSET)
    for kind in ("thing", "stuff"):
        names = metadata.get(f"{kind}_classes")
        if names and not metadata.get(f"{kind}_colors"):
            palette = itertools.cycle(colormap(rgb=True).astype(int).tolist())
            colors = list(itertools.islice(palette, len(names)))
            metadata.set(**{f"{kind}_colors": colors})
    return metadata


def clean_boxes(dataset_dicts: list[dict], examples: int = 3) -> tuple[list[dict], list[str]]:
    """Gives boxes as XYXY_ABS, clipped to their image, without those up to a pixel wide or high.

    Such boxes can make the losses NaN, and nothing can be found in them. Rotated boxes, and those
    of images of unknown size, are left as they are.

    Args:
        examples: how many of each kind are named.

    Returns:
        the dataset dicts, which are changed; and sentences on how many boxes were, and which.
    """
    owners = [
        (record, annotation)
        for record in dataset_dicts
        if "width" in record
        for annotation in record.get("annotations", ())
        if annotation["bbox_mode"] != BoxMode.XYWHA_ABS
    ]
    if not owners:
        return dataset_dicts, []
    # In single precision, as detectron2 converts them.
    try:
        boxes = np.array([annotation["bbox"] for _, annotation in owners], dtype=np.float32)
        boxes = boxes.reshape(len(owners), 4)
    except (TypeError, ValueError):
        record, annotation = next(o for o in owners if not _is_box(o[1]["bbox"]))
        raise ValueError(
            f"a box of {record['file_name']} is {annotation['bbox']!r}, which is not four numbers. "
            "tools/check_dataset.py finds all that is wrong with a dataset."
        ) from None
    is_xywh = [annotation["bbox_mode"] == BoxMode.XYWH_ABS for _, annotation in owners]
    boxes[is_xywh, 2:] += boxes[is_xywh, :2]
    limits = np.array([(r["width"], r["height"]) * 2 for r, _ in owners], dtype=np.float32)
    inside = boxes.clip(0, limits)
    is_empty = ~((inside[:, 2:] - inside[:, :2]).min(axis=1) > 1)  # or not a number
    is_clipped = (np.abs(inside - boxes).max(axis=1) >= 1) & ~is_empty  # less is rounding
    kept = np.where(is_clipped[:, None], inside, boxes).tolist()
    for (_, annotation), box in zip(owners, kept):
        annotation["bbox"], annotation["bbox_mode"] = box, BoxMode.XYXY_ABS
    reports = []
    for what, concerned in (("clipped to their image", is_clipped), ("dropped as empty", is_empty)):
        found = np.flatnonzero(concerned).tolist()
        texts = [
            f"{owners[i][0]['file_name']} {boxes[i].round(1).tolist()}" for i in found[:examples]
        ]
        if found:
            listed = "; ".join([*texts, *(["..."] if found[examples:] else [])])
            reports.append(f"{len(found)} boxes {what}: {listed}")
    dropped = {id(owners[i][1]) for i in np.flatnonzero(is_empty).tolist()}
    for record in {id(owners[i][0]): owners[i][0] for i in np.flatnonzero(is_empty)}.values():
        record["annotations"] = [a for a in record["annotations"] if id(a) not in dropped]
    return dataset_dicts, reports


def _is_box(value):
    try:
        return np.array(value, dtype=np.float32).shape == (4,)
    except (TypeError, ValueError):
        return False


def _load(name, metadata_only=False) -> list[dict]:
    """Returns the dataset dicts of a dataset and sets its metadata, from its files or the cache."""
    load, files, is_complete = _sources[name]
    metadata = MetadataCatalog.get(name)
    key = files and _fingerprint(files)
    cached = key and _read_cache(_cache_file(name), key, metadata_only)
    fixes = _fixes.get(name)
    if cached:
        found, reports, dataset_dicts = cached
        metadata.set(**{k: v for k, v in found.items() if not (fixes and k == "json_file")})
    else:
        before, start = metadata.as_dict().keys(), time.perf_counter()
        dataset_dicts = load()
        if not is_complete:
            complete(name, dataset_dicts, len(metadata.get("thing_classes") or ()))
        dataset_dicts, reports = clean_boxes(dataset_dicts)
        if key and not fixes and time.perf_counter() - start > CACHED_FROM:
            found = {k: v for k, v in metadata.as_dict().items() if k not in before}
            _write_cache(_cache_file(name), key, found, reports, dataset_dicts)
    for report in reports:
        logger.warning("%s: %s", name, report)
    return apply_fixes(dataset_dicts, fixes) if fixes and not metadata_only else dataset_dicts


class _Unpickler(pickle.Unpickler):
    """Reads data and nothing else: the cache may be a folder that others can write to."""

    def find_class(self, module, name):
        if (module, name) == ("detectron2.structures.boxes", "BoxMode"):
            return BoxMode
        raise pickle.UnpicklingError(f"{module}.{name} is no data")


def _read_cache(file, key, metadata_only):
    gc.disable()  # else it looks through the millions of objects again and again
    try:
        with open(file, "rb") as stream:
            if _Unpickler(stream).load() == key:
                found = _Unpickler(stream).load()
                return (found, [], []) if metadata_only else (found, *_Unpickler(stream).load())
    except (OSError, EOFError, pickle.UnpicklingError):
        pass  # it is not there, not whole, or not ours
    finally:
        gc.enable()
    return None


def _write_cache(file, key, found, reports, dataset_dicts):
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            for part in (key, found, (reports, dataset_dicts)):
                pickle.dump(part, stream, protocol=pickle.HIGHEST_PROTOCOL)
        temporary.replace(file)
    except OSError as error:  # it cannot be written here: it is loaded from its own files again
        logger.info("Dataset not cached: %s", error)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Returns the folder for files that can be made again: `$XDG_CACHE_HOME/<package>`.

    Without that variable it is in ~/.cache.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches, __package__.partition(".")[0])


def _cache_file(name):
    project = hashlib.sha256(str(Path(__file__).absolute()).encode()).hexdigest()[:8]
    return cache_folder() / f"{name}-{project}.pickle"


def _fingerprint(files) -> str:
    """Changes when a file does, or the code that reads it."""
    digest = hashlib.sha256()
    library = Path(__file__).parents[1]
    for code in sorted([*library.glob("data/*.py"), *library.glob("formats/*.py")]):
        digest.update(code.read_bytes())
    for path in files():
        if path.is_dir():
            entries = sorted((entry.path, entry.stat()) for entry in os.scandir(path))
        else:
            entries = [(str(path), path.stat())] if path.exists() else []
        for entry, stat in entries:
            line = f"{os.path.abspath(entry)} {stat.st_size} {stat.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
