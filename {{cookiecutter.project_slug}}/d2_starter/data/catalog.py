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
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.colormap import colormap

# What takes longer to load is read from a cache next time, in $XDG_CACHE_HOME (default ~/.cache).
CACHED_FROM = 1.0  # seconds

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # what images' names end with

logger = logging.getLogger(__name__)

_sources = {}  # name of a data set: its function, its files
_recorded = {}  # name of a data set: its metadata, where its files may not be there


def datasets_root() -> Path:
    """The folder of all data sets: `$DETECTRON2_DATASETS`, or `datasets` in the current folder."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def dataset_folder(name: str, elsewhere: str = "") -> Path:
    """The folder `name` among all data sets; where there is none, `elsewhere`, if it is given."""
    folder = datasets_root() / name
    return Path(elsewhere) if elsewhere and not folder.exists() else folder


def existing(path: Path, name: str) -> Path:
    """
    Raises:
        FileNotFoundError: the path is not there; `name` is the data set that needs it.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"data set '{name}' needs {path.absolute()}, which is not there. Put or link the data "
            f"set's folder at {datasets_root() / name}, or say in data/dataset.py where its files "
            "are."
        )
    return path


@contextlib.contextmanager
def made_whole(folder: Path):
    """A temporary folder to fill, which then becomes `folder`: that appears whole or not at all."""
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
    **metadata,
):
    """Registers a data set; again is harmless, and the last registration counts.

    Args:
        load: returns the dataset dicts. It is not called before someone asks for them.
        files: returns what it reads, files and folders of files. If it is given, and loading takes
            long, the result is cached until one of them, or the code in this folder, changes.
        metadata: what evaluation and drawing need: `evaluator_type`, `thing_classes`, ...
    """
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)
    MetadataCatalog.get(name).set(**metadata)
    _sources[name] = (load, files)
    DatasetCatalog.register(name, partial(_load, name))


def adopt(name: str):
    """Gives a data set that detectron2 has registered clean boxes and the cache.

    Raises:
        KeyError: there is no such data set; the message has the nearest names.
    """
    check_registered(name)
    if name not in _sources:
        metadata = MetadataCatalog.get(name).as_dict()
        files = [Path(metadata[k]) for k in ("json_file", "panoptic_json") if metadata.get(k)]
        load = DatasetCatalog[name]
        del metadata["name"]

        def load_existing():
            for file in files:
                existing(file, name)
            return load()

        register(name, load_existing, partial(list, files) if files else None, **metadata)


def load_uncleaned(name: str) -> list[dict]:
    """The dataset dicts of a registered data set, with the boxes as they are in its files.

    Raises:
        KeyError: there is no such data set; the message has the nearest names.
    """
    check_registered(name)
    return _sources[name][0]() if name in _sources else DatasetCatalog.get(name)


def check_registered(name: str):
    """
    Raises:
        KeyError: there is no such data set; the message has the nearest names.
    """
    if name not in DatasetCatalog.list():
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3, cutoff=0.4)
        raise KeyError(
            f"data set '{name}' is not registered. Nearest names: {', '.join(near) or 'none'}. "
            "Data sets are registered in data/dataset.py and named in DATASETS.TRAIN and TEST."
        )


@contextlib.contextmanager
def recorded_metadata(metadata: dict[str, dict]):
    """Uses metadata, by data set, that a run has recorded: its files need not be there."""
    _recorded.update(metadata)
    try:
        yield
    finally:
        for name in metadata:
            del _recorded[name]


def get_metadata(name: str) -> Metadata:
    """The metadata of a registered data set, with the names and colors of its classes.

    Raises:
        KeyError: there is no such data set; the message has the nearest names.
    """
    check_registered(name)
    metadata = MetadataCatalog.get(name)
    if name in _recorded:
        metadata.set(**_recorded[name])
    if name in _sources and not (metadata.get("thing_classes") or metadata.get("stuff_classes")):
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


def hold_out(dataset_dicts: list[dict], split: str, share: float) -> list[dict]:
    """One of the splits, "train" or "val", of images that no file splits.

    An image stays in its split when others are added: the name of its file decides.
    """
    if not share:
        return dataset_dicts
    return [
        record
        for record in dataset_dicts
        if (split == "val") == (zlib.crc32(Path(record["file_name"]).name.encode()) < share * 2**32)
    ]


def clean_boxes(dataset_dicts: list[dict]) -> tuple[list[dict], list[str]]:
    """Gives boxes as XYXY_ABS, clipped to their image, without those up to a pixel wide or high.

    Such boxes can make the losses NaN, and nothing can be found in them. Rotated boxes, and those
    of images of unknown size, are left as they are.

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
            "tools/check_dataset.py finds all that is wrong with a data set."
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
        examples = [f"{owners[i][0]['file_name']} {boxes[i].round(1).tolist()}" for i in found[:3]]
        if found:
            listed = "; ".join([*examples, *(["..."] if found[3:] else [])])
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
    """The dataset dicts of a data set, and its metadata set, from its files or the cache."""
    load, files = _sources[name]
    metadata = MetadataCatalog.get(name)
    key = files and _fingerprint(files)
    cached = key and _read_cache(_cache_file(name), key, metadata_only)
    if cached:
        found, reports, dataset_dicts = cached
        metadata.set(**found)
    else:
        before, start = metadata.as_dict().keys(), time.perf_counter()
        dataset_dicts, reports = clean_boxes(load())
        if key and time.perf_counter() - start > CACHED_FROM:
            found = {k: v for k, v in metadata.as_dict().items() if k not in before}
            _write_cache(_cache_file(name), key, found, reports, dataset_dicts)
    for report in reports:
        logger.warning("%s: %s", name, report)
    return dataset_dicts


def _read_cache(file, key, metadata_only):
    gc.disable()  # else it looks through the millions of objects again and again
    try:
        with open(file, "rb") as stream:
            if pickle.load(stream) == key:
                found = pickle.load(stream)
                return (found, [], []) if metadata_only else (found, *pickle.load(stream))
    except (OSError, EOFError, pickle.UnpicklingError):
        pass  # it is not there, or not whole
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
        logger.info("Data set not cached: %s", error)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where what can be made again is kept: `$XDG_CACHE_HOME/<package>`, default ~/.cache."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches, __package__.partition(".")[0])


def _cache_file(name):
    project = hashlib.sha256(str(Path(__file__).absolute()).encode()).hexdigest()[:8]
    return cache_folder() / f"{name}-{project}.pickle"


def _fingerprint(files) -> str:
    """Changes when a file does, or the code that reads it."""
    digest = hashlib.sha256()
    for code in sorted(Path(__file__).parent.glob("*.py")):
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
