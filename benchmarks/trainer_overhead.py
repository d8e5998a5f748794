#!/usr/bin/env python
"""Compares seconds per iteration of each trainer with those of detectron2's own script.

    git clone https://github.com/facebookresearch/detectron2
    uv run python benchmarks/trainer_overhead.py --detectron2 detectron2

Both train the same Mask R-CNN on the generated shapes, with all of the project's features but
evaluation. They run at the same time, each on a core of its own, and change cores with each run:
what slows the machine down slows both. Lightning is compared with detectron2's plain loop, because
detectron2's own Lightning script does not start with Lightning 2. On a GPU, give `--device cuda`,
and `--amp` for mixed precision: then they run by turns.

An iteration is from one step of the optimizer to the next, so that loading, logging and writing are
a part of it.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).parents[1]
SCRIPTS = {  # ours: detectron2's
    "plain_train_net.py": "plain_train_net.py",
    "train_net.py": "train_net.py",
    "lazyconfig_train_net.py": "lazyconfig_train_net.py",
    "lightning_train_net.py": "plain_train_net.py",
}

TIMED = '''
import atexit, importlib.util, json, os, runpy, sys, time

_, output, script, *arguments = sys.argv
times = []

class TimedSGD:
    """Has SGD write the time of each step, once the script imports it: how it does is its own."""

    def find_spec(self, name, path, target=None):
        if name != "torch.optim.sgd":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_timed(module):
            load(module)
            step = module.SGD.step

            def timed(self, *args, **kwargs):
                result = step(self, *args, **kwargs)
                times.append(time.perf_counter())
                return result

            module.SGD.step = timed

        spec.loader.exec_module = load_timed
        return spec

sys.meta_path.insert(0, TimedSGD())
atexit.register(lambda: json.dump(times, open(output, "w")))
if os.path.isabs(script):  # detectron2's
    from detectron2.data.datasets import register_coco_instances
    import my_detector.modelling  # so that it can build the project's models
    if importlib.util.find_spec("my_detector.config"):  # the keys that those models read
        from detectron2.config.defaults import _C
        from my_detector.config import add_project_config
        add_project_config(_C)
    shapes = os.environ["DETECTRON2_DATASETS"] + "/shapes"
    annotations = shapes + "/annotations/instances_train.json"
    if os.path.exists(annotations):
        register_coco_instances("shapes_train", {}, annotations, shapes + "/images_train")
    else:
        from my_detector.data.dataset import register_datasets
        register_datasets()
sys.argv = [script, *arguments]
sys.path[0] = os.path.dirname(os.path.abspath(script))
runpy.run_path(script, run_name="__main__")
'''

YAML = """
_BASE_: {base}
MODEL:
  BACKBONE: {{NAME: build_resnet_fpn_backbone, FREEZE_AT: 0}}
  RESNETS: {{DEPTH: 18, RES2_OUT_CHANNELS: 64, NORM: BN}}
INPUT: {{MIN_SIZE_TRAIN: "(96,)"}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 4, BASE_LR: 0.01, CHECKPOINT_PERIOD: 5000}}
TEST: {{EVAL_PERIOD: 0}}
"""

PYTHON = """
from detectron2 import model_zoo

from .smoke import dataloader, lr_multiplier, model, optimizer, train

pyramid = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py").model.backbone
pyramid.bottom_up.stem.norm = "BN"
pyramid.bottom_up.stages.update(depth=18, norm="BN")
pyramid.bottom_up.stages.pop("stride_in_1x1")
pyramid.bottom_up.freeze_at = 0
pyramid.update(out_channels=64, norm="GN")
model.backbone = pyramid
del pyramid
model.roi_heads.num_classes = 3
dataloader.train.mapper.augmentations[0].short_edge_length = [96]
dataloader.train.update(total_batch_size=4, num_workers=0)
optimizer.lr = 0.01
train.update(max_epochs=None, eval_period=0, eval_period_epochs=None, init_checkpoint="")
train.checkpointer.update(period=5000, period_epochs=None)
"""

# What detectron2's script expects: a data loader that is described as a call, and no test set.
THEIRS = """
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_train_loader

from .timed import dataloader, lr_multiplier, model, optimizer, train

for key in ("period_epochs", "max_to_keep"):  # 0 is not known there
    train.checkpointer.pop(key)
del key
mapper = dict(dataloader.train.mapper)
dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=dataloader.train.dataset,
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=mapper["augmentations"],
            image_format=mapper["image_format"],
            use_instance_mask=True,
        ),
        total_batch_size=4,
        num_workers=0,
    )
)
del mapper
"""


def make_project(script: str, folder: Path) -> Path:
    project = Path(
        cookiecutter(
            str(TEMPLATE), no_input=True, output_dir=str(folder / script),
            extra_context={"trainer": script.removesuffix(".py").removesuffix("_train_net")},
        )
    )  # fmt: skip
    (project / "configs/timed.yaml").write_text(YAML.format(base="smoke.yaml"))
    (project / "configs/timed.py").write_text(PYTHON)
    (project / "configs/theirs.py").write_text(THEIRS)
    (project / "timed.py").write_text(TIMED)
    return project


def overrides(script: str, args, is_theirs: bool, run: int) -> list[str]:
    name = f"output/{'theirs' if is_theirs else 'ours'}_{run}"
    values = {
        "OUTPUT_DIR": name,
        "SOLVER.MAX_ITER": args.iterations,
        "MODEL.DEVICE": args.device,
        "SOLVER.AMP.ENABLED": args.amp,
    }
    if "lazyconfig" in script:
        names = ["train.output_dir", "train.max_iter", "train.device", "train.amp.enabled"]
        config = f"configs/{'theirs' if is_theirs else 'timed'}.py"
        words = [f"{key}={value}" for key, value in zip(names, values.values(), strict=True)]
    else:
        config = "output/ours_0/config.yaml" if is_theirs else "configs/timed.yaml"
        if is_theirs:
            values["DATASETS.TEST"] = "()"
        else:
            values |= {"SOLVER.STEPS": "()", "SOLVER.WARMUP_ITERS": 10, "TEST.NUM_PICTURES": 0}
        words = [str(word) for pair in values.items() for word in pair]
    return ["--config-file", config, *words]


def strip_project_keys(project: Path):
    """The config of our run without the keys that detectron2 does not know."""
    code = (
        "import sys, yaml; from detectron2.config import get_cfg\n"
        "def keep(node, known):\n"
        "    return {k: keep(v, known[k]) if isinstance(v, dict) else v"
        " for k, v in node.items() if k in known}\n"
        "file = 'output/ours_0/config.yaml'\n"
        "node = keep(yaml.safe_load(open(file)), get_cfg())\n"
        "yaml.safe_dump(node, open(file, 'w'))\n"
    )
    subprocess.run(["uv", "run", "-q", "python", "-c", code], cwd=project, check=True)


def start(project, script, arguments, core, environ, output):
    command = ["uv", "run", "-q", "python", "timed.py", str(output), script, *arguments]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    return subprocess.Popen(
        command,
        cwd=project,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def seconds(process, output: Path, warm_up: int) -> float:
    text, _ = process.communicate()
    if process.returncode:
        sys.exit(text[-4000:])
    times = json.loads(output.read_text())[warm_up:]
    return (times[-1] - times[0]) / (len(times) - 1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detectron2", type=Path, required=True, help="a checkout")
    parser.add_argument("--trainers", nargs="+", default=list(SCRIPTS), choices=SCRIPTS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=110)
    parser.add_argument("--warm-up", type=int, default=10, help="iterations that do not count")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    environ = os.environ | {"DETECTRON2_DATASETS": str(folder / "datasets")}
    by_turns = args.device != "cpu"
    if not by_turns:
        environ["OMP_NUM_THREADS"] = "1"
    for script in args.trainers:
        project = make_project(script, folder)
        theirs = args.detectron2.resolve() / "tools" / SCRIPTS[script]
        first = start(
            project, script, overrides(script, args, False, 0), None, environ, folder / "0"
        )
        seconds(
            first, folder / "0", args.warm_up
        )  # installs, makes the data set, writes the config
        if "lazyconfig" not in script:
            strip_project_keys(project)
        ratios = []
        for run, cores in zip(range(1, args.runs + 1), itertools.cycle([(0, 1), (1, 0)])):
            measured = []
            files = [folder / f"{script}_{run}_{who}" for who in ("ours", "theirs")]
            commands = [
                (script, overrides(script, args, False, run)),
                (str(theirs), overrides(script, args, True, run)),
            ]
            processes = []
            for (what, arguments), core, file in zip(commands, cores, files, strict=True):
                core = None if by_turns else core
                processes.append(start(project, what, arguments, core, environ, file))
                if by_turns:
                    processes[-1].wait()
            for process, file in zip(processes, files, strict=True):
                measured.append(seconds(process, file, args.warm_up))
            ratios.append(measured[0] / measured[1])
            print(f"{script} {measured[0]:.4f} / {measured[1]:.4f} = {ratios[-1]:.3f}", flush=True)
        print(
            f"{script} / detectron2's {SCRIPTS[script]}: {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
