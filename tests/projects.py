"""Rendered projects with real detectron2: how tests make them, run them, and read their results."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import yaml
from lazy import translate

TRAINERS = ("plain", "train_net", "lazyconfig", "lightning")

SMOKE = ["--config-file", "configs/smoke.yaml"]
# For the configs of real models: no download, small images, batch normalization that can learn.
SHORT = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "SOLVER.BASE_LR", 0.0001]
SHORT += ["SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "LOG_PERIOD", 1]
SHORT += ["DATALOADER.NUM_WORKERS", 0, "TEST.NUM_PICTURES", 2, "TEST.REPORT", False]
RESNET = ["MODEL.RESNETS.NORM", "BN"]
RESIZED = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", 64]
SMALL = [*SHORT, *RESNET, *RESIZED]
FEW = ["TEST.DETECTIONS_PER_IMAGE", 5]
# Of boxes for the heads, which take most of the time on a CPU: in YAML, and in Python.
PROPOSALS = ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 32, "MODEL.RPN.POST_NMS_TOPK_TEST", 16]
PROPOSALS_LAZY = ["model.proposal_generator.post_nms_topk=[32,16]"]


def squares(scale: int, *crops: int) -> list[str]:
    """Makes augmentations of a Python config, given their places, give squares of 64 pixels."""
    place = "dataloader.train.mapper.augmentations"
    words = [f"{place}.{scale}.target_{side}=64" for side in ("height", "width")]
    return words + [f"{place}.{crop}.crop_size=[64,64]" for crop in crops]


TINY_VIT = ["img_size=64", "depth=2", "embed_dim=48", "num_heads=2"]
# What configs get, in YAML and in Python, whose model or augmentations have other keys.
OTHERS = {
    "cascade_mask_rcnn_R_50_FPN": (
        [*RESNET, *RESIZED, *FEW],
        [*RESNET, *RESIZED, "model.roi_heads.box_predictors.2.test_topk_per_image=5"],
    ),
    "mask_rcnn_R_50_FPN_lsj": (
        [*RESNET, *RESIZED, *FEW],
        [*RESNET, *RESIZED[2:], *FEW, *squares(0, 1)],
    ),
    "deeplab_v3plus_R_103": (RESIZED, [*RESIZED[2:], *squares(0, 1, 2)]),
    "mask_rcnn_convnext_tiny_FPN": ([*RESIZED, *FEW], [*RESIZED, *FEW]),
    "mask_rcnn_vitdet_b": (
        None,
        [*RESIZED[2:], *FEW, *squares(1, 2), "model.backbone.square_pad=64"]
        + [f"model.backbone.net.{word}" for word in TINY_VIT],
    ),
}
# Forty iterations with checkpoints.
LONG = ["SOLVER.MAX_ITER", 40, "SOLVER.STEPS", "(35,)", "SOLVER.CHECKPOINT_PERIOD", 10]
LONG += ["SOLVER.WARMUP_ITERS", 5, "LOG_PERIOD", 1, "TEST.EVAL_PERIOD", 0]
LONG += ["SOLVER.IMS_PER_BATCH", 4, "TEST.NUM_PICTURES", 0, "DATALOADER.NUM_WORKERS", 0]
LONG += ["TEST.REPORT", False]
STOP = [*LONG, "TEST.EVAL_PERIOD", 5, "SOLVER.CHECKPOINT_PERIOD", 5]
STOP += ["EARLY_STOPPING.PATIENCE", 3, "EARLY_STOPPING.MIN_DELTA", 1000.0]

FEWER_SHAPES = """
from detectron2.data import DatasetCatalog
from d2_starter.data import shapes
shapes.SPLITS = {"train": 24, "val": 8}
shapes.register_shapes()
DatasetCatalog.get("shapes_train")
"""


ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # tests run beside each other
# Without compiled modules on disk, each process compiles those of torch: 20 seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


class ForkServer:
    """Runs scripts in forks of a process that has imported torch and detectron2."""

    def __init__(self, python: Path, *modules: str):
        modules = ("torch", "detectron2.engine", "detectron2.model_zoo", *modules)
        self.process = subprocess.Popen(
            [python, Path(__file__).with_name("forkserver.py"), *modules],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD,
        )  # fmt: skip
        self.folder = tempfile.TemporaryDirectory()
        self.started = 0

    def start(self, project: "Project", command: list[str]) -> "Forked":
        self.started += 1
        file = Path(self.folder.name, str(self.started))
        request = json.dumps([str(project.folder), project.environ, str(file), command])
        print(request, file=self.process.stdin, flush=True)
        return Forked(int(self.process.stdout.readline()), file)


class Forked:
    """A process that a ForkServer has started."""

    def __init__(self, id: int, file: Path):
        self.id = id
        self.file = file

    def output(self) -> str:
        return self.file.read_text(encoding="utf-8") if self.file.exists() else ""

    def has_ended(self) -> bool:
        return self.file.with_name(f"{self.file.name}.status").exists()

    def wait(self, timeout: float = 300) -> int:
        """Its exit status, minus the signal that killed it."""
        deadline = time.monotonic() + timeout
        while not self.has_ended():
            assert time.monotonic() < deadline, f"did not end: {self.output()[-8000:]}"
            time.sleep(0.02)
        return int(self.file.with_name(f"{self.file.name}.status").read_text())

    def wait_for(self, condition):
        """Until the condition is true, which must be before it ends."""
        deadline = time.monotonic() + 300
        while not condition():
            assert not self.has_ended() and time.monotonic() < deadline, self.output()[-8000:]
            time.sleep(0.01)


def _shrink(augmentation: str | dict) -> str | dict:
    if isinstance(augmentation, str):
        return augmentation
    sizes = {"target_height": 64, "target_width": 64, "crop_size": [64, 64]}
    ((name, arguments),) = augmentation.items()
    return {name: {key: sizes.get(key, value) for key, value in arguments.items()}}


class Project:
    """A rendered project, its commands run by `uv` in an environment that many share.

    Given a server, its training script is run by that, which spares most of the time.
    """

    def __init__(
        self,
        folder: Path,
        environment: Path,
        datasets: Path | None = None,
        server: "ForkServer | None" = None,
    ):
        self.folder = folder
        self.server = server
        (self.script,) = (path.name for path in folder.glob("*train_net.py"))
        self.trainer = self.script.removesuffix(".py").removesuffix("_train_net")
        self.environment = environment
        self.datasets = datasets or folder / "datasets"
        self.environ = os.environ | ONE_THREAD | {"UV_PROJECT_ENVIRONMENT": str(environment)}
        self.environ.pop("VIRTUAL_ENV", None)
        self.environ["PYTHONPATH"] = str(folder)  # the environment has another's package, too
        if datasets:
            self.environ["DETECTRON2_DATASETS"] = str(datasets)

    def run(self, *command, status=0) -> str:
        process = subprocess.run(
            ["uv", "run", *map(str, command)], cwd=self.folder, env=self.environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.returncode == status, process.stdout[-8000:]
        return process.stdout

    def train(self, *arguments, script=None, status=0) -> str:
        """Runs the training script, given the words of YAML configs."""
        command = self.command(*arguments)
        if script:
            command[0] = script
        if not self.server:
            return self.run(*command, status=status)
        process = self.server.start(self, command)
        assert process.wait() == status, process.output()[-8000:]
        return process.output()

    def execute(self, code: str, *arguments) -> str:
        """Runs Python code in the project's environment, and returns what it prints."""
        file = Path(self.server.folder.name, "code.py")
        file.write_text(code, encoding="utf-8")
        process = self.server.start(self, [str(file), *map(str, arguments)])
        assert process.wait() == 0, process.output()[-8000:]
        return process.output()

    def command(self, *arguments) -> list[str]:
        is_lazy = self.trainer == "lazyconfig"
        return [self.script, *(translate(arguments) if is_lazy else map(str, arguments))]

    def small(self, config: str) -> list:
        """Makes a training with a config of a real model short, small, and from scratch."""
        is_lazy = self.trainer == "lazyconfig"
        boxes = PROPOSALS_LAZY if is_lazy else PROPOSALS
        boxes = boxes if re.search("rcnn|panoptic|pointrend", config) else []
        if config not in OTHERS:
            few = FEW if re.search("mask|keypoint|panoptic|pointrend", config) else []
            return [*SMALL, *few, *boxes]
        if is_lazy:
            return [*SHORT, *OTHERS[config][1], *boxes]
        file = self.folder / f"configs/{config}.yaml"
        given = yaml.safe_load(file.read_text(encoding="utf-8")).get("INPUT", {})
        augmentations = [_shrink(a) for a in given.get("AUGMENTATIONS", [])]
        return [*SHORT, *OTHERS[config][0], *boxes, "INPUT.AUGMENTATIONS", augmentations]

    def start(self, *arguments) -> "Forked":
        """A training in the background."""
        return self.server.start(self, self.command(*arguments))

    def metrics(self, run: str | Path) -> dict[int, dict]:
        """The scalars of a run by iteration; there must be one line for each."""
        text = (self.folder / run / "metrics.json").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        by_iteration = {line["iteration"]: line for line in lines}
        assert len(by_iteration) == len(lines)
        return by_iteration


def train_and_kill(project, after, run, *arguments) -> int:
    """Kills a training after a number of iterations, and returns how many it has logged."""
    log = project.folder / run / "metrics.json"
    process = project.start(*arguments, "OUTPUT_DIR", run)
    process.wait_for(lambda: log.exists() and log.read_text(encoding="utf-8").count("\n") >= after)
    os.killpg(process.id, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not log.with_name("ended.json").exists()
    return log.read_text(encoding="utf-8").count("\n")


def ended(project, run) -> dict:
    return json.loads((project.folder / run / "ended.json").read_text(encoding="utf-8"))
