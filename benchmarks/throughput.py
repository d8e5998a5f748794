#!/usr/bin/env python
"""Compares images per second of the project with detectron2's own plain_train_net.py.

    git clone https://github.com/facebookresearch/detectron2
    uv run python benchmarks/throughput.py --detectron2 detectron2
    uv run python benchmarks/throughput.py --detectron2 detectron2 --device cuda

On a CPU, configs/smoke.yaml is trained on the generated shapes; on a GPU, Mask R-CNN R50-FPN with
16 images an iteration, of a short side of 800 pixels, on synthetic data with as many objects as
COCO has. It is what detectron2's documentation gives 62 images a second for, on eight V100.

`training` runs both scripts by turns, the other first in each run. An iteration is from one step of
the optimizer to the next, with all that lies between. `start` is from the command to the end of the
first iteration, in the same runs. `loading` is the training loader alone, on synthetic JPEGs of
1280 x 960 pixels that are resized to 800; `evaluation` that of the test set, on a GPU in batches.
These two take turns in one process. `ap` is what a whole training of configs/smoke.yaml comes to,
by each of both scripts and with each of several seeds; the project evaluates them all.

--ours has overrides for our side alone, such as "SOLVER.AMP.ENABLED True".
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cookiecutter.main import cookiecutter
from trainer_overhead import TEMPLATE, TIMED, strip_project_keys

IN_PROJECT = Path(__file__).with_name("in_project")
PARTS = ("training", "start", "loading", "evaluation", "ap")


class Setup:
    """A project and the words that both sides are given."""

    def __init__(self, folder: Path, args, name: str, config: str, words: dict, data: str = ""):
        self.args = args
        answers = {"data": data} if data else {}
        self.project = Path(
            cookiecutter(
                str(TEMPLATE), no_input=True, output_dir=str(folder / name), extra_context=answers
            )
        )
        self.config = f"configs/{config}.yaml"
        words |= {"MODEL.DEVICE": args.device, "DATALOADER.NUM_WORKERS": args.workers}
        self.words = [str(word) for pair in words.items() for word in pair]
        self.environ = os.environ | {"DETECTRON2_DATASETS": str(folder / "datasets")}
        timed = TIMED.replace("perf_counter", "process_time") if args.cpu_time else TIMED
        (self.project / "timed.py").write_text(timed)
        if args.cpu_time:
            self.environ["OMP_NUM_THREADS"] = "1"

    def run(self, *command) -> str:
        command = ["uv", "run", "-q", "python", *map(str, command)]
        if self.args.cores:
            command = ["taskset", "-c", self.args.cores, *command]
        process = subprocess.run(
            command, cwd=self.project, env=self.environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if process.returncode:
            sys.exit(process.stdout[-4000:])
        return process.stdout

    def train(self, is_theirs: bool, run: int, ours: list, both: list) -> list[float]:
        """Seconds from the command to the end of each iteration.

        Theirs has the config of our run 0, and both have the words of `both`.
        """
        words = [*self.words, *both, "OUTPUT_DIR", output_folder(is_theirs, run)]
        if is_theirs:
            script = self.args.detectron2.resolve() / "tools/plain_train_net.py"
            config = f"{output_folder(False, 0)}/config.yaml"
            words += ["DATASETS.TEST", "()"]
        else:
            script, config = "plain_train_net.py", self.config
            words += [*ours, "TEST.NUM_PICTURES", 0, "TEST.EVAL_IN_LOOP", False]
            words += ["TEST.EVAL_PERIOD", 0, "SOLVER.CHECKPOINT_PERIOD", 5000]
            words += shlex.split(self.args.ours)
        file = self.project / "times.json"
        # All processes of a Linux share this clock; that of CPU time starts with its process.
        start = 0 if self.args.cpu_time else time.perf_counter()
        self.run("timed.py", file, script, "--config-file", config, *words)
        return [moment - start for moment in json.loads(file.read_text())]

    def ap(self, is_theirs: bool, run: int) -> float:
        """The mask AP of the model that a run ended with."""
        weights = f"{output_folder(is_theirs, run)}/model_final.pth"
        words = [*self.words, "MODEL.WEIGHTS", weights, "OUTPUT_DIR", "output/evaluated"]
        output = self.run("plain_train_net.py", "--config-file", self.config, "--eval-only", *words)
        return float(re.search(r"segm/AP +([\d.]+)\n", output)[1])

    def by_turns(self, part: str, iterations: int, words=()) -> tuple[str, list[list[float]]]:
        words = [*self.words, *words, *shlex.split(self.args.ours)]
        output = self.run(
            IN_PROJECT / "against_detectron2.py", part, self.config, self.args.runs, iterations,
            *words,
        )  # fmt: skip
        answer = json.loads(output.splitlines()[-1])
        return answer["device"], answer["rates"]


def output_folder(is_theirs: bool, run: int) -> str:
    return f"output/{'theirs' if is_theirs else 'ours'}_{run}"


def report(what: str, pairs, unit: str):
    """Medians of both sides, and of their ratios, with the range."""
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = [ours / theirs for ours, theirs in pairs]
    print(
        f"{what}: {ours:.2f} / {theirs:.2f} {unit} = {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} runs)",
        flush=True,
    )


def train(setup: Setup, args, batch: int):
    ours = ["SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", 10]
    # Installs, makes the data set, writes the config.
    setup.train(False, 0, ours, ["SOLVER.MAX_ITER", 2])
    strip_project_keys(setup.project)
    speeds, starts = [], []
    for run in range(1, args.runs + 1):
        measured = {}
        for is_theirs in (run % 2 == 0, run % 2 == 1):
            times = setup.train(is_theirs, run, ours, ["SOLVER.MAX_ITER", args.iterations])
            speed = batch * (len(times) - 1 - args.warm_up) / (times[-1] - times[args.warm_up])
            measured[is_theirs] = (speed, times[0])
        speeds.append((measured[False][0], measured[True][0]))
        starts.append((measured[False][1], measured[True][1]))
        for what, pair in (("training", speeds[-1]), ("start", starts[-1])):
            print(f"  {what} {pair[0]:.2f} / {pair[1]:.2f}", flush=True)
    if "training" in args.parts:
        report("training", speeds, "images/s")
    if "start" in args.parts:
        report("start to first iteration", starts, "s")


def compare_ap(setup: Setup, args):
    aps = {False: [], True: []}
    for run in range(args.seeds):
        for is_theirs in (False, True):
            setup.train(is_theirs, run, [], ["SEED", run + 1])
            if not run and not is_theirs:
                strip_project_keys(setup.project)
            aps[is_theirs].append(setup.ap(is_theirs, run))
        print(f"  segm/AP {aps[False][-1]:.2f} / {aps[True][-1]:.2f}", flush=True)
    words = [
        f"{statistics.mean(side):.2f} (standard deviation {statistics.stdev(side):.2f})"
        for side in aps.values()
    ]
    print(f"segm/AP at the end: {' / '.join(words)}, {args.seeds} seeds each", flush=True)


def synthetic(folder: Path, helper: Setup, width: int, height: int, number: int) -> Path:
    data = folder / f"synthetic_{width}"
    if not data.exists():
        counts = (number, max(16, number // 4))
        helper.run(IN_PROJECT / "synthetic_coco.py", data, width, height, *counts)
    return data


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detectron2", type=Path, required=True, help="a checkout")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="of `ap`, at least 2")
    parser.add_argument("--iterations", type=int, default=110)
    parser.add_argument("--warm-up", type=int, default=10, help="iterations that do not count")
    parser.add_argument("--workers", type=int, help="default: 2, with a GPU 8")
    parser.add_argument("--batch", type=int, help="default: 8, with a GPU 16")
    parser.add_argument("--images", type=int, default=200, help="of synthetic data")
    parser.add_argument("--weights", default="", help="for the GPU's model; default: random")
    parser.add_argument("--ours", default="", help="overrides for our side alone")
    parser.add_argument("--cores", help="CPUs for both, by turns, as taskset -c takes them")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="for training and start, on a machine that does other things too: seconds of CPU, "
        "with one thread and no workers",
    )
    args = parser.parse_args()
    if not (args.detectron2 / "tools/plain_train_net.py").is_file():
        parser.error(f"{args.detectron2} is not a checkout of detectron2: it has no tools/")
    is_gpu = args.device == "cuda"
    if args.seeds < 2:
        parser.error(f"--seeds {args.seeds}: noise takes at least 2 to be seen")
    if args.cpu_time and is_gpu:
        parser.error("--cpu-time counts no work of a GPU")
    if args.cpu_time:
        args.workers = 0
    args.workers = args.workers if args.workers is not None else 8 if is_gpu else 2
    batch = args.batch or (16 if is_gpu else 8)
    folder = Path(tempfile.mkdtemp())

    shapes = Setup(folder, args, "shapes", "smoke", {"SOLVER.IMS_PER_BATCH": batch})
    if is_gpu:
        found = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 'There is no GPU')"
        shapes.run("-c", found)

    def detector(name, width, height):
        words = {"SOLVER.IMS_PER_BATCH": batch, "MODEL.WEIGHTS": args.weights}
        words |= {"INPUT.MIN_SIZE_TRAIN": "(800,)", "INPUT.MIN_SIZE_TEST": 800}
        words |= {"INPUT.MAX_SIZE_TRAIN": 1333, "INPUT.MAX_SIZE_TEST": 1333}
        words |= {"SOLVER.BASE_LR": 1e-8}  # random weights, in front of frozen statistics, stay so
        data = synthetic(folder, shapes, width, height, args.images)
        return Setup(folder, args, name, "mask_rcnn_R_50_FPN", words, f"coco:{data}")

    trained = detector("detector", 640, 480) if is_gpu else shapes
    if {"training", "start"} & set(args.parts):
        train(trained, args, batch)
    if "loading" in args.parts:
        large = detector("loading", 1280, 960)
        report("loading, 1280 x 960 to 800", large.by_turns("loading", 8)[1], "images/s")
    if "evaluation" in args.parts:
        words = ["TEST.IMS_PER_BATCH", 8 if is_gpu else 1]
        device, rates = trained.by_turns("evaluation", 4, words)
        report(f"evaluation on {device}", rates, "images/s")
    if "ap" in args.parts:
        compare_ap(Setup(folder, args, "ap", "smoke", {"SOLVER.IMS_PER_BATCH": batch}), args)


if __name__ == "__main__":
    main()
