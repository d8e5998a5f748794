"""The datasets of a project: datasets.json, and the parts of configs that follow from it.

Only data files are written. Python code and configs read them: `Project.read`.
"""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from . import Scan, builtin, scan
from .base import TASKS
from .problems import Unusable

FILE = "datasets.json"
# Experiments, each with what the data must have to train it; the first that it can is advised.
EXPERIMENTS = {
    "panoptic_fpn_R_50": "panoptic",
    "keypoint_rcnn_R_50_FPN": "keypoints",
    "mask_rcnn_R_50_FPN": "masks",
    "pointrend_R_50_FPN": "masks",
    "faster_rcnn_R_50_FPN": "boxes",
    "retinanet_R_50_FPN": "boxes",
    "semantic_R_50_FPN": "semantic",
}
KINDS = ("instances", "panoptic", "semantic")
CONFIG = """\
# Written by tools/set_dataset.py from datasets.json.
DATASETS:
  TRAIN: {train}
  TEST: {test}
"""
SIZES = """\
MODEL:
  MASK_ON: {masks}
INPUT:
  # Short side of the image, in pixels; one of these at random in training.
  MIN_SIZE_TRAIN: {train}
  MIN_SIZE_TEST: {test}
  # Long side: more than this is reduced to it.
  MAX_SIZE_TRAIN: {max}
  MAX_SIZE_TEST: {max}
"""


class Project:
    """Holds what datasets.json says.

    Attributes:
        folder: of the project.
        datasets: entries; see `formats.Scan`. With the formats "shapes" (generated) and "custom"
            (data/dataset.py knows) nothing is read.
        classes: names of classes, in the order in which models number them.
        keypoints: names, pairs that mirroring swaps, pairs that are joined; empty if none.
        sizes: of images, in pixels: `train`, several short sides, `test`, and `max`, the long side.
    """

    def __init__(self, folder: Path | str, datasets: list[dict], classes=(), sizes=None):
        self.folder = Path(folder)
        self.datasets = datasets
        self.classes = list(classes)
        self.sizes = sizes or image_sizes()

    @classmethod
    def read(cls, near: Path | str = ".") -> "Project":
        """Reads the datasets.json of the nearest folder, upwards, that has one.

        Raises:
            Unusable: there is none, or it is not as this module writes it.
        """
        start = Path(near).absolute()
        for folder in [start, *start.parents]:
            file = folder / FILE
            if file.is_file():
                try:
                    content = json.loads(file.read_text(encoding="utf-8"))
                    return cls(folder, content["datasets"], content["classes"], content["sizes"])
                except (KeyError, TypeError, ValueError) as error:
                    raise Unusable(f"{str(file)!a} cannot be read: {error!r}") from None
        raise Unusable(f"there is no {FILE} in {str(start)!a} or above it")

    @classmethod
    def of(cls, folder: Path | str, found: Scan) -> "Project":
        sizes = image_sizes(found.short, found.small)
        return cls(folder, [found.entry], found.entry["classes"], sizes)

    @classmethod
    def without_data(cls, folder: Path | str, format: str) -> "Project":
        """Returns that of the generated shapes, or of a loader of one's own (`custom`)."""
        name = "shapes" if format == "shapes" else "my_dataset"
        tasks = list(TASKS) if format == "shapes" else ["boxes", "masks", "keypoints"]
        splits = {"train": {}, "val": {}}
        return cls(folder, [{"name": name, "format": format, "tasks": tasks, "splits": splits}])

    @property
    def tasks(self) -> list[str]:
        """The tasks that all of the datasets can train."""
        return [task for task in TASKS if all(task in e["tasks"] for e in self.datasets)]

    @property
    def keypoints(self) -> dict:
        return self.datasets[0].get("keypoints", {}) if "keypoints" in self.tasks else {}

    def experiments(self) -> list[str]:
        """Returns the configs that the data can train, the advised one first."""
        return [name for name, task in EXPERIMENTS.items() if task in self.tasks]

    def names(self, split: str, kind: str = "instances") -> list[str]:
        """Returns the registered names of a split, train, val or test, of all datasets.

        Args:
            kind: "instances"; "panoptic"; or "semantic", the classes of all pixels.
        """
        return [
            registered_name(entry, split, kind)
            for entry in self.datasets
            if split in entry["splits"] or (split == "val" and entry.get("val_share"))
        ]

    def add(self, found: Scan) -> list[str]:
        """Adds a dataset beside those that are there; classes of the same name are the same.

        Returns:
            sentences on what follows from it.

        Raises:
            Unusable: they do not go together.
        """
        entry, notes = found.entry, []
        formats = {one["format"] for one in [*self.datasets, entry]}
        for format in sorted(formats & {"builtin", "custom", "shapes"}):
            raise Unusable(
                f"a dataset of the format {format} cannot have another one beside it; leave out"
                " --add to replace it"
            )
        if any(one["root"] == entry["root"] and one["splits"] == entry["splits"]
               for one in self.datasets):  # fmt: skip
            raise Unusable(f"the dataset in {entry['root']!a} is there already")
        taken = {one["name"] for one in self.datasets}
        base, number = entry["name"], 1
        while entry["name"] in taken:
            number += 1
            entry["name"] = f"{base}_{number}"
        lower = {name.lower().strip(): name for name in self.classes}
        for name in entry["classes"]:
            if lower.get(name.lower().strip(), name) != name:
                raise Unusable(
                    f"the classes {lower[name.lower().strip()]!a} and {name!a} differ by upper and"
                    " lower case alone; rename one of them in its files"
                )
        new = [name for name in entry["classes"] if name not in self.classes]
        lacks = [name for name in self.classes if name not in entry["classes"]]
        if (new or lacks or entry["classes"] != self.classes) and self._has_maps(entry):
            if self.tasks == ["semantic"] or entry["tasks"] == ["semantic"]:
                raise Unusable(
                    f"label maps number {entry['classes']!a} in one dataset and {self.classes!a} in"
                    " the other: they need the same classes in the same order"
                )
            for one in [*self.datasets, entry]:
                one["tasks"] = [t for t in one["tasks"] if t not in ("panoptic", "semantic")]
            notes.append("The classes differ, so boxes and masks alone can be trained on both.")
        if "keypoints" in self.tasks and entry.get("keypoints", self.keypoints) != self.keypoints:
            entry["tasks"].remove("keypoints")
            notes.append("The names of the keypoints differ: keypoints cannot be trained on both.")
        if not set(self.tasks) & set(entry["tasks"]):
            raise Unusable(
                f"one dataset has {self.tasks}, the other {entry['tasks']}: nothing both"
            )
        if new:
            notes.append(
                f"New classes: {', '.join(map(ascii, new))}. Older models do not know them."
            )
        if lacks:
            notes.append(f"Classes that {entry['name']} has not: {', '.join(map(ascii, lacks))}.")
        if new and lacks:
            notes.append("Objects that only one dataset names are background in the other.")
        self.classes += new
        self.datasets.append(entry)
        sizes = image_sizes(found.short, found.small)
        self.sizes = max(self.sizes, sizes, key=lambda those: those["test"])
        return notes

    def _has_maps(self, entry):
        return any({"panoptic", "semantic"} & set(one["tasks"]) for one in [*self.datasets, entry])

    def write(self):
        """Writes datasets.json and, for configs in YAML, configs/dataset/*.yaml."""
        content = {"classes": self.classes, "sizes": self.sizes, "datasets": self.datasets}
        _write(self.folder / FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        if not (self.folder / "configs/base.yaml").exists():
            return
        folder = self.folder / "configs/dataset"
        folder.mkdir(exist_ok=True)
        for kind in KINDS:
            names = {key: _tuple(self.names(split, kind))
                     for key, split in (("train", "train"), ("test", "val"))}  # fmt: skip
            text = CONFIG.format(**names)
            if kind == "instances":
                sizes = self.sizes | {"train": tuple(self.sizes["train"])}
                text += SIZES.format(masks="masks" in self.tasks, **sizes)
            _write(folder / f"{kind}.yaml", text)

    def commands(self, script: str) -> list[str]:
        """Returns what to run next."""
        suffix = "yaml" if (self.folder / "configs/base.yaml").exists() else "py"
        train = f"uv run {script} --config-file configs"
        if self.datasets[0]["format"] in ("shapes", "custom"):
            return [f"{train}/smoke.{suffix}"]
        kind = "semantic" if self.tasks == ["semantic"] else "instances"
        names = [*self.names("train", kind), *self.names("val", kind)]
        commands = [f"uv run tools/check_dataset.py {' '.join(names)}"]
        if "boxes" in self.tasks:
            commands.append(f"{train}/tiny.{suffix}  # a small model, on a CPU too")
        return [*commands, *(f"{train}/{name}.{suffix}" for name in self.experiments()[:1])]


def registered_name(entry: dict, split: str, kind: str = "instances") -> str:
    """Returns the name under which a split of a dataset is registered, see `Project.names`."""
    if entry["format"] == "builtin":
        name = entry["splits"][split]["name"]
        return name.removesuffix("_panoptic_separated") if kind == "instances" else name
    if kind == "instances" and entry["tasks"] == ["semantic"]:
        kind = "semantic"
    return f"{entry['name']}_{split}" + {"instances": ""}.get(kind, f"_{kind}")


def image_sizes(short: int = 0, small: float = 0.0) -> dict:
    """Returns the sizes, in pixels, to which images are resized: theirs, unless that is too small.

    Objects get up to twice as large, where many (a tenth) are smaller than the smallest anchors.

    Args:
        short: the images' short side. small: the side of a small object. 0 if unknown.
    """
    largest = 800
    if short:
        enlarged = short * min(2, max(1, 32 / (small or 32)))
        largest = min(800, max(320, round(enlarged / 32) * 32))
    sizes = list(range(round(largest / 40) * 32, largest + 1, 32))
    return {"train": sizes, "test": largest, "max": round(largest * 1333 / 800)}


def describe(found: Scan, project: Project) -> list[str]:
    """Returns what was found, in lines of ASCII for the user."""
    entry = found.entry
    where = f" in {entry['root']!a}" if entry["root"] else ""
    lines = [f"Found the dataset {entry['name']} ({entry['format']}){where}:"]
    for split, number in found.images.items():
        lines.append(f"  {split:9}{number} images, {found.objects[split]} objects")
    if entry["classes"]:
        shown = [f"{name} {found.counts.get(name, '')}".strip() for name in entry["classes"]]
        more = [f"{len(shown) - 8} more"] if len(shown) > 8 else []
        lines.append(ascii(f"  classes  {', '.join(shown[:8] + more)}")[1:-1])
    lines.append(f"  trains   {', '.join(entry['tasks'])}: {', '.join(project.experiments())}")
    if found.short:
        to = f"resized to {project.sizes['test']}"
        lines.append(f"  pixels   {found.short} x {found.long}, {to}")
    return [*lines, *(f"  Note: {note}" for note in found.notes)]


def main(arguments: list[str] | None = None):
    """Runs tools/set_dataset.py in the current folder: sets a project up for a dataset."""
    parser = argparse.ArgumentParser(
        description="Sets the project up for a dataset: finds out what is there, says it, and"
        f" writes {FILE} and configs/dataset/. Python code and your configs stay as they are.",
        epilog=f"Beside paths: the names of detectron2's own datasets ({', '.join(builtin.TASKS)}),"
        " and shapes, which are generated.",
    )
    parser.add_argument("data", help="a folder, an annotation file, or FORMAT:path")
    parser.add_argument("--add", action="store_true", help="beside the datasets that are there")
    parser.add_argument("--name", help="what to call it; else it is called like its folder")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    args = parser.parse_args(arguments)
    try:
        project = Project.read()
        found, notes = None, []
        if args.data == "shapes":
            project = Project.without_data(project.folder, "shapes")
        else:
            found = scan(args.data)
            if args.name:
                if not args.name.isidentifier():
                    raise Unusable(f"--name {args.name!a} is not letters, digits and _")
                found.entry["name"] = args.name
            if args.add:
                notes = project.add(found)
            else:
                project = Project.of(project.folder, found)
    except Unusable as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {str(error).removesuffix('.')}. Nothing was changed.")
    if found:
        print("\n".join([*describe(found, project), *(f"  Note: {note}" for note in notes)]))
    if args.add:
        print(f"Together: {len(project.classes)} classes, {', '.join(project.tasks)}")
    if test := project.names("test"):
        print(f"The test set is registered too: DATASETS.TEST {shlex.quote(_tuple(test))}")
    if args.dry_run:
        return print("Nothing was written (--dry-run).")
    project.write()
    script = next((p.name for p in project.folder.glob("*train_net.py")), "SCRIPT")
    print("\n".join(["Next:", *(f"  {line}" for line in project.commands(script))]))


def _tuple(names):
    return "(" + " ".join(f'"{name}",' for name in names) + ")"


def _write(path, text):
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)
