"""Reads a run directory: all that a report or a comparison says comes from these files."""

import json
import math
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from detectron2.data import DatasetCatalog

from ..evaluation.ground_truth import write_ground_truth
from . import statistics
from .matching import AREAS, Matches, match

TASKS = {"bbox": "Box AP", "segm": "Mask AP", "keypoints": "Keypoint AP"}
RESULTS = ("coco_instances_results.json", "lvis_instances_results.json")
MANY = 1000  # images from which on fewer draws are enough, because intervals are narrow
DRAWS, DRAWS_OF_MANY = 1000, 300


class _Loader(yaml.SafeLoader):
    """Reads the Python tags of lazy configs as plain values."""


_Loader.add_multi_constructor(
    "",
    lambda loader, suffix, node: (
        loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.MappingNode)
        else loader.construct_sequence(node, deep=True)
        if isinstance(node, yaml.SequenceNode)
        else loader.construct_scalar(node)
    ),
)


def flatten(node, prefix: str = "") -> dict:
    """{"SOLVER": {"MAX_ITER": 1}} as {"SOLVER.MAX_ITER": 1}."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    items = ((f"{prefix}.{k}" if prefix else str(k), v) for k, v in node.items())
    return {key: value for name, child in items for key, value in flatten(child, name).items()}


@dataclass
class TestSet:
    """Holds what was evaluated on one test set."""

    folder: Path
    truth: dict  # the content of ground_truth.json
    metrics: dict[str, float]  # of the last evaluation that is in metrics.json, this set's

    @property
    def name(self) -> str:
        return self.truth["dataset"]

    @property
    def fingerprint(self) -> str:
        return self.truth["fingerprint"]

    @cached_property
    def results(self) -> list[dict]:
        for name in RESULTS:
            if (self.folder / name).exists():
                return json.loads((self.folder / name).read_text(encoding="utf-8"))
        return []

    @property
    def tasks(self) -> list[str]:
        """Those of TASKS that were evaluated."""
        found = [task for task in TASKS if f"{task}/AP" in self.metrics]
        keys = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
        return found or [t for t in TASKS if self.results and keys[t] in self.results[0]]

    @cached_property
    def matches(self) -> dict[str, Matches]:
        return {task: match(self.truth, self.results, task) for task in self.tasks}

    @cached_property
    def weights(self) -> np.ndarray:
        images = len(self.truth["images"])
        return statistics.resample(images, DRAWS if images <= MANY else DRAWS_OF_MANY)

    @cached_property
    def draws(self) -> dict[str, tuple[float, np.ndarray]]:
        """By metric, such as bbox/AP or bbox/AP-cat: its value, and that of each draw."""
        found = {}
        for task, matches in self.matches.items():
            exact = statistics.average_precision(matches)
            drawn = statistics.average_precision(matches, self.weights)
            for name, part in (("AP", slice(None)), ("AP50", slice(0, 1)), ("AP75", slice(5, 6))):
                values = exact[:, part].mean(axis=1), drawn[:, part].mean(axis=1)
                total, draws = map(statistics.mean_over_classes, values)
                found[f"{task}/{name}"] = (float(total[0]), draws)
                if name == "AP":
                    for k, class_name in enumerate(matches.classes):
                        found[f"{task}/AP-{class_name}"] = (float(values[0][0, k]), values[1][:, k])
        for file, prefix, total, measure in (
            ("sem_seg_per_image.json", "sem_seg/IoU-", "sem_seg/mIoU", self._semantic),
            ("panoptic_per_image.json", "panoptic_seg/PQ-", "panoptic_seg/PQ", self._panoptic),
        ):
            if (self.folder / file).exists():
                content = json.loads((self.folder / file).read_text(encoding="utf-8"))
                names, function, per_image = measure(content)
                value = function(per_image, np.ones((1, len(per_image)), np.float32))
                drawn = function(per_image, self.weights)
                mean = statistics.mean_over_classes
                found[total] = float(mean(value)[0]), mean(drawn)
                for k, name in enumerate(names):
                    found[prefix + name] = float(value[0, k]), drawn[:, k]
        return {name: pair for name, pair in found.items() if math.isfinite(pair[0])}

    def _semantic(self, content):
        names = self.truth["stuff_classes"]
        pixels = np.zeros((len(self.truth["images"]), 3, len(names)))
        for i, image in enumerate(self.truth["images"]):
            for true, predicted, number in content.get(image["file_name"], ()):
                pixels[i, 0, true] += number * (true == predicted)
                pixels[i, 1, true] += number
                if predicted < len(names):
                    pixels[i, 2, predicted] += number
        return names, statistics.intersection_over_union, pixels

    def _panoptic(self, content):
        names = {str(c["id"]): c["name"] for c in content["categories"]}
        index = {category: k for k, category in enumerate(names)}
        counts = np.zeros((len(self.truth["images"]), 4, len(names)))
        for i, image in enumerate(self.truth["images"]):
            for category, numbers in content["images"].get(str(image["id"]), {}).items():
                counts[i, :, index[category]] = numbers
        return list(names.values()), statistics.panoptic_quality, counts


@dataclass
class Run:
    """A run directory's files."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def _text(self, name):
        file = self.path / name
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def _json(self, name):
        return json.loads(self._text(name) or "{}")

    @cached_property
    def config(self) -> dict:
        """The config, by keys with dots."""
        content = yaml.load(self._text("config.yaml"), _Loader)
        return flatten(content) if content else {}  # an evaluation of its own writes none

    @cached_property
    def lines(self) -> list[dict]:
        """Those of metrics.json, by iteration; a resumed run's later lines win."""
        by_iteration = {}
        for line in self._text("metrics.json").splitlines():
            try:
                content = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed
            by_iteration.setdefault(content["iteration"], {}).update(content)
        for file in self.path.glob("metrics_*.json"):  # of asynchronous evaluations
            content = json.loads(file.read_text(encoding="utf-8"))
            if "iteration" in content:
                by_iteration.setdefault(content["iteration"], {}).update(content)
        return [by_iteration[iteration] for iteration in sorted(by_iteration)]

    def curve(self, key: str) -> list[tuple[float, float]]:
        """Points (epoch, value); the iteration, where no epoch is known."""
        points, per_epoch = [], None
        for line in self.lines:
            if line.get("epoch"):
                per_epoch = (line["iteration"] + 1) / line["epoch"]
            if isinstance(line.get(key), (int, float)) and math.isfinite(line[key]):
                x = line.get("epoch") or (line["iteration"] + 1) / (per_epoch or 1)
                points.append((x, line[key]))
        return points

    @property
    def facts(self) -> dict[str, str]:
        """The run in words, by the question that each answers."""
        log, environment = self._text("log.txt"), self._text("environment.txt")
        ended = self._json("ended.json")
        times = [
            datetime.strptime(f"{datetime.now().year}/{stamp}", "%Y/%m/%d %H:%M:%S")
            for stamp in re.findall(r"^\[(\d\d/\d\d \d\d:\d\d:\d\d)\]", log, re.M)
        ]
        commands = re.findall(r"Command: (.*)", log)
        speed = [
            (line["samples_seen"] / (line["iteration"] + 1)) / line["time"]
            for line in self.lines
            if line.get("time") and line.get("samples_seen")
        ]
        version = dict(
            re.findall(r"^(PyTorch|detectron2|Python|GPU 0[^ ]*)  +(\S.*)$", environment, re.M)
        )
        facts = {
            "Command": commands[-1] if commands else "",
            "Ended": " ".join(filter(None, (ended.get("status"), ended.get("reason"))))
            or "not yet",
            "Iterations": f"{self.lines[-1]['iteration'] + 1:,}" if self.lines else "",
            "Epochs": f"{self.lines[-1].get('epoch', 0):.4g}" if self.lines else "",
            "Time": str(times[-1] - times[0]) if times and times[-1] >= times[0] else "",
            "Training images per second": f"{np.median(speed):.1f}" if speed else "",
            "Started": next(iter(re.findall(r"^started: *(.*)", environment, re.M)), ""),
            "Commit": next(iter(re.findall(r"^git commit: *(.*)", environment, re.M)), ""),
            **{name: value.split(" @")[0] for name, value in version.items()},
        }
        for name, content in self._json("data.json").items():
            objects = ", ".join(f"{k} {n}" for k, n in content["objects"].items())
            facts[f"Dataset {name}"] = (
                f"{content['images']} images, {content['without_objects']} without objects; "
                f"{objects or 'no objects'}; fingerprint {content['fingerprint']}"
            )
        fixes = self.config.get("DATASETS.FIXES") or self.config.get("dataloader.fixes")
        return {k: v for k, v in facts.items() if v} | ({"Fixes": str(fixes)} if fixes else {})

    @property
    def diff(self) -> str:
        return self._text("git.diff")

    @property
    def environment(self) -> str:
        return self._text("environment.txt")

    @cached_property
    def test_sets(self) -> list[TestSet]:
        """Those whose ground truth is beside the results."""
        found = []
        files = sorted((self.path / "inference").glob("*/ground_truth.json"))
        for file in files:
            truth = json.loads(file.read_text(encoding="utf-8"))
            found.append(TestSet(file.parent, truth, self._metrics(truth["dataset"], len(files))))
        return found

    def _metrics(self, name, number):
        """The last value of each metric of a test set; several have their names in front."""
        latest = {}
        for line in self.lines:
            latest.update({k: v for k, v in line.items() if "/" in k})
        prefix = f"{name}/"
        own = {k.removeprefix(prefix): v for k, v in latest.items() if k.startswith(prefix)}
        return own or (latest if number == 1 else {})


def open_run(path: str | Path, load_experiment=None) -> Run:
    """Opens a run directory; ground truth that an older run did not write is written now.

    Args:
        load_experiment: the project's, which registers the datasets.

    Raises:
        FileNotFoundError: it is no run directory, or nothing in it was evaluated.
    """
    run = Run(Path(path))
    has_config = (run.path / "config.yaml").exists()
    if not has_config and not (run.path / "inference").exists():
        raise FileNotFoundError(
            f"{path} is no run directory: it has no config.yaml and no inference folder. Give the "
            "folder that a training or an evaluation wrote, such as output/smoke."
        )
    missing = [
        folder
        for folder in sorted((run.path / "inference").glob("*"))
        if folder.is_dir() and not (folder / "ground_truth.json").exists()
    ]
    if missing and has_config and load_experiment:
        load_experiment(str(run.path / "config.yaml"))
        for folder in missing:
            dataset_dicts = DatasetCatalog.get(folder.name)
            subset = run._json(f"subset_{folder.name}.json")
            chosen = set(map(str, subset)) if subset else None
            write_ground_truth(
                folder,
                folder.name,
                [r for r in dataset_dicts if not chosen or str(r.get("image_id")) in chosen],
                sigmas=run.config.get("TEST.KEYPOINT_OKS_SIGMAS") or (),
            )
    if not run.test_sets:
        raise FileNotFoundError(
            f"nothing in {path} was evaluated: {run.path / 'inference'} has no results. Evaluate "
            "the run's model first, with --eval-only."
        )
    return run


def size_of(area: float) -> str:
    """Returns small, medium or large, for an area in pixels."""
    return next(name for name, (low, high) in AREAS.items() if area < high)
