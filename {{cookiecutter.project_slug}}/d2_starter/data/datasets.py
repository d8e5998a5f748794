"""Registers the datasets of datasets.json; the readers of formats make their dataset dicts."""

import contextlib
import zlib
from functools import partial
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.utils.colormap import colormap

from ..formats import read_split
from ..formats.base import Split
from ..formats.files import Tree
from ..formats.project import KINDS, Project, registered_name
from . import cityscapes, panoptic
from .catalog import adopt, datasets_root, has_fixes, readable_problems, register

SPLITS = ("train", "val", "test")


def register_project(near: Path | str = "."):
    """Registers the datasets of a project. Nothing is read before it is asked for.

    Those of a split, such as train, are `<name>_train`, its instances, and, where there are label
    maps, `<name>_train_semantic`, the classes of all pixels, and `<name>_train_panoptic`.

    Args:
        near: the project's folder, or one in it.

    Raises:
        Unusable: its datasets.json cannot be read.
    """
    project = Project.read(near)
    for entry in project.datasets:
        splits = [split for split in SPLITS if split in entry.get("splits", ())]
        splits += ["val"] * bool(entry.get("val_share"))
        for split in splits:
            if entry["format"] == "builtin":
                adopt(entry["splits"][split]["name"])
            elif entry["format"] not in ("shapes", "custom"):
                for kind in KINDS:
                    _register(project, entry, split, kind)


def _register(project, entry, split, kind):
    tasks = entry["tasks"]
    if ("boxes" if kind == "instances" else kind) not in tasks:
        return
    name = registered_name(entry, split, kind)
    metadata = {}
    if kind != "semantic":
        metadata["thing_classes"] = project.classes
    if kind == "instances" and project.keypoints:
        metadata |= _keypoint_metadata(project.keypoints)
    if entry["format"] == "semantic":
        metadata["stuff_classes"] = project.classes
    if kind != "instances":
        metadata["ignore_label"] = entry.get("ignore_label", 255)
    if entry["format"] == "cityscapes":
        metadata |= cityscapes.metadata(kind)
    evaluator = {"panoptic": "coco_panoptic_seg", "semantic": "sem_seg", "instances": "coco"}[kind]
    if kind == "instances" and entry["format"] == "lvis":
        evaluator = "lvis"
    register(
        name,
        partial(_load, project, entry, split, kind, name),
        partial(_files, entry, split),
        is_complete=True,
        evaluator_type=evaluator,
        **metadata,
    )


def _keypoint_metadata(keypoints):
    colors = colormap(rgb=True).astype(int).tolist()
    return {
        "keypoint_names": keypoints["names"],
        "keypoint_flip_map": [tuple(pair) for pair in keypoints["flips"]],
        "keypoint_connection_rules": [
            (*pair, tuple(colors[i % len(colors)])) for i, pair in enumerate(keypoints["skeleton"])
        ],
    }


def _root(entry):
    """Returns where a dataset is: `$DETECTRON2_DATASETS/<name>`, or where it was found."""
    elsewhere = datasets_root() / entry["name"]
    root = elsewhere if elsewhere.exists() else Path(entry["root"])
    if not root.exists():
        raise FileNotFoundError(
            f"dataset '{entry['name']}' is neither in {root} nor in {elsewhere.absolute()}. Put or "
            f"link its folder there, or run tools/set_dataset.py PATH."
        )
    return root


def _source_of(entry, split):
    """Returns the split that is read, and the share of its images that is for validation."""
    share = entry.get("val_share", 0) if split != "test" else 0
    return (split if split in entry["splits"] else "train"), share


def _files(entry, split):
    """Returns the files and folders that a split is read from."""
    source = entry["splits"][_source_of(entry, split)[0]]
    tree, found = Tree(_root(entry)), []
    is_one_file = "annotations" in source and entry["format"] in ("coco", "lvis", "cvat", "csv")
    for key, value in source.items():
        if key == "subset" or (is_one_file and key == "images"):
            continue
        for place in value if isinstance(value, list) else [value] if value else []:
            path = Path(tree.path(place))
            found += [Path(tree.path(f)) for f in tree.folders(place)] if path.is_dir() else [path]
    if entry["format"] == "yolo":
        folders = [Path(f"/labels{'/'}".join(f"{f}/".rsplit("/images/", 1))) for f in found]
        found += [folder for folder in folders if folder.is_dir()]
    return found


def _load(project, entry, split, kind, name) -> list[dict]:
    source, share = _source_of(entry, split)
    entry = entry | {"root": str(_root(entry))}
    found = read_split(entry, source, project.classes, project.keypoints.get("names", []))
    readable_problems[name] = found.problems
    records = found.records
    metadata = MetadataCatalog.get(name)
    if entry["format"] == "coco_panoptic":
        records = panoptic.load(name, kind, found)
    elif entry["format"] == "cityscapes":
        records = cityscapes.load(name, kind, records)
    elif kind == "instances":
        _compress(records)
        if not has_fixes(name):
            metadata.set(**_evaluation_files(found, project, entry))
    if not share:
        return records
    return [record for record in records if is_held_out(record, share) == (split == "val")]


def is_held_out(record: dict, share: float) -> bool:
    """Returns whether an image is for validation, where no file says so.

    An image stays in its split when others are added: the name of its file decides.
    """
    return zlib.crc32(Path(record["file_name"]).name.encode()) < share * 2**32


def _evaluation_files(found: Split, project, entry) -> dict:
    """Returns the metadata with which COCO's and LVIS's evaluations read the file themselves.

    Without them they get what was read here: where a file lacks something that they need, or has
    other classes than the model.
    """
    names = found.metadata.get("categories")
    if names is None:
        return {}
    is_usable = found.metadata["is_complete"] or entry["format"] == "lvis"
    if not is_usable or list(names.values()) != project.classes:
        return {}
    return {
        "json_file": found.metadata["json_file"],
        "image_root": found.metadata["image_root"],
        "thing_dataset_id_to_contiguous_id": {number: i for i, number in enumerate(names)},
    }


def _compress(records):
    """Compresses masks whose run lengths are lists of numbers, which the mapper does not take."""
    for record in records:
        for annotation in record.get("annotations", ()):
            mask = annotation.get("segmentation")
            if isinstance(mask, dict) and isinstance(mask.get("counts"), list):
                import pycocotools.mask as mask_util

                with contextlib.suppress(KeyError, OverflowError, TypeError, ValueError):
                    annotation["segmentation"] = mask_util.frPyObjects(mask, *mask["size"])
