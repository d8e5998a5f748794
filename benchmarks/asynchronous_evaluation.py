#!/usr/bin/env python
"""Measures what evaluation costs a training: in the loop, asynchronous, and none; on two CPU cores.

    uv run python benchmarks/asynchronous_evaluation.py

The `plain` trainer learns the generated shapes, with an evaluation after each epoch. It has one
core, one evaluator the other. The three ways are run one after the other, in another order in each
round, so that what slows the machine down for a while slows all. The time is that of the training,
from making the model to the end, as evaluation/trainer.json says. All metrics of both kinds of
evaluation are compared at every checkpoint. At the end: what it costs per iteration to look for the
stop file, for one process and for two.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).parents[1]
WAYS = {
    "none": ["TEST.EVAL_PERIOD_EPOCHS", "999"],
    "asynchronous": ["TEST.EVAL_PERIOD_EPOCHS", "1"],
    "in": ["TEST.EVAL_PERIOD_EPOCHS", "1", "SOLVER.CHECKPOINT_PERIOD_EPOCHS", "1"],
}

LOOK = """
import os, sys, tempfile, time
import torch
from detectron2.engine import launch
from detectron2.utils import comm
from d2_starter import Run

def measure(folder):
    run = Run(folder)
    seconds = {}
    for what, work in (("polling", run.poll), ("nothing", lambda: None)) * 5:
        start = time.perf_counter()
        for _ in range(200):
            torch.mm(square, square)  # for the other ranks' answers to come in the meantime
            work()
        seconds.setdefault(what, []).append((time.perf_counter() - start) / 200)
    cost = min(seconds["polling"]) - min(seconds["nothing"])
    if comm.is_main_process():
        print(f"COST {comm.get_world_size()} {1e6 * cost:.0f}")

square = torch.ones(700, 700)
if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            launch(measure, processes, dist_url="auto", args=(folder,))
"""


def run(project, command, core, environ, wait=True):
    process = subprocess.Popen(
        ["taskset", "-c", str(core), "uv", "run", "-q", *map(str, command)],
        cwd=project, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return finish(process) if wait else process


def finish(process):
    text, _ = process.communicate()
    if process.returncode:
        sys.exit(text[-4000:])
    return text


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    project = Path(cookiecutter(str(TEMPLATE), no_input=True, output_dir=str(folder)))
    environ = os.environ | {"OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(folder / "data")}
    train = ["plain_train_net.py", "--config-file", "configs/smoke.yaml", "TEST.NUM_PICTURES", 0]
    train += ["DATALOADER.NUM_WORKERS", 0, "LOG_PERIOD", 10]
    # Installs, and makes the data set.
    run(project, [*train, "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()"], 0, environ)
    train += ["SOLVER.MAX_EPOCHS", args.epochs]

    ratios = {"in": [], "asynchronous": []}
    for number in range(args.rounds):
        seconds = {}
        ways = list(WAYS)[number % 3 :] + list(WAYS)[: number % 3]
        for way in ways:
            output = f"output/{way}_{number}"
            more = [*WAYS[way], "TEST.EVAL_IN_LOOP", way == "in", "OUTPUT_DIR", output]
            if way == "asynchronous":
                tool = ["tools/evaluate_checkpoints.py", output, "--watch", "--poll", 1]
                evaluator = run(project, tool, 1, environ, wait=False)
            run(project, [*train, *more], 0, environ)
            if way == "asynchronous":
                finish(evaluator)
            trainer = json.loads((project / output / "evaluation/trainer.json").read_text())
            seconds[way] = trainer["seconds"]
        for way in ratios:
            ratios[way].append(seconds[way] / seconds["none"])
        print(f"round {number}: seconds {seconds}", flush=True)
        lines = (project / f"output/in_{number}/metrics.json").read_text().splitlines()
        in_loop = [line for line in map(json.loads, lines) if "bbox/AP" in line]
        for line in in_loop:
            file = project / f"output/asynchronous_{number}/metrics_{line['iteration']:07d}.json"
            result = json.loads(file.read_text())
            same = all(line[name] == value for name, value in result.items())
            print(f"  iteration {line['iteration']}: segm/AP {result['segm/AP']:.4f}, "
                  f"all {len(result)} values {'equal' if same else 'DIFFER'}")  # fmt: skip
    for way, values in ratios.items():
        print(f"{'in the loop' if way == 'in' else way} / none: {statistics.median(values):.3f} "
              f"({min(values):.3f} to {max(values):.3f})")  # fmt: skip
    (project / "look.py").write_text(LOOK)
    text = run(project, ["python", "look.py"], "0,1", environ)
    for line in text.splitlines():
        if line.startswith("COST"):
            _, processes, cost = line.split()
            print(f"looking for the stop file, {processes} processes: {cost} us an iteration")


if __name__ == "__main__":
    main()
