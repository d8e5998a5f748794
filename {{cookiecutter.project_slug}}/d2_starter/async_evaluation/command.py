"""Evaluates the checkpoints of a run, beside its training or after it, here or elsewhere.

uv run tools/evaluate_checkpoints.py output/smoke              # those there are
uv run tools/evaluate_checkpoints.py output/smoke --watch      # until the training has ended
uv run tools/evaluate_checkpoints.py output/smoke --status     # where it all is

Any number may run at once, on all machines that see the folder; each works on one device. Overrides
of the config come after all other options. A training leaves its evaluation to this by
TEST.EVAL_IN_LOOP False (train.eval_in_loop=False).

Results are metrics_<iteration>.json, curves in TensorBoard, model_best.pth and, when training does
not improve any more, training_completed.txt, which stops it. The exit status is 0 if all are there;
1 if some checkpoints could not be evaluated, or the training is gone without having ended.
"""

import argparse
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path

from ..files.heartbeat import Watch
from ..files.run_directory import RunDirectory
from ..run.setup import setup_logging
from .evaluator import CheckpointEvaluator
from .status import status

logger = logging.getLogger(__name__)


def main(load_experiment):
    """Runs the command.

    Args:
        load_experiment: reads a config file with overrides.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="output folder of a training")
    parser.add_argument("--watch", action="store_true", help="stay until the training has ended")
    parser.add_argument("--status", action="store_true", help="say where it all is, and exit")
    parser.add_argument("--order", choices=("oldest", "newest"), default="oldest")
    parser.add_argument("--attempts", type=int, default=3, help="to evaluate a checkpoint")
    parser.add_argument(
        "--claim-timeout",
        type=float,
        default=120,
        help="seconds of silence after which others take over what this one evaluates",
    )
    parser.add_argument(
        "--give-up-after", type=float, default=30, help="minutes to wait for a silent training"
    )
    parser.add_argument(
        "--restart-within",
        type=float,
        default=2,
        help="minutes in which a failed training may be started again, as clusters do",
    )
    parser.add_argument("--poll", type=float, default=10, help="seconds between two looks")
    parser.add_argument("--predictions", action="store_true", help="keep what is found in images")
    parser.add_argument("opts", nargs="*", help="overrides of the config")
    args = parser.parse_intermixed_args()
    if args.attempts < 1 or min(args.claim_timeout, args.give_up_after, args.poll) <= 0:
        parser.error("--attempts, --claim-timeout, --give-up-after and --poll are positive numbers")
    if not (args.run / "config.yaml").is_file() and not args.watch:
        parser.error(f"{args.run} is not the output folder of a training: it has no config.yaml")
    try:
        if args.status:
            print(status(args.run, args.attempts, load_experiment))
            return
        # Whatever ends this process has it release what it works on.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        watch = Watch()
        code = None
        while code is None:
            code = serve(args, watch, load_experiment)
        sys.exit(code)
    except ValueError as error:
        parser.error(str(error))


def serve(args, watch, load_experiment) -> int | None:
    """Evaluates the run in the directory.

    Returns:
        the exit status; None if the directory becomes that of another run.
    """
    folder, config = RunDirectory(args.run), args.run / "config.yaml"
    patience = 60 * args.give_up_after
    restart = 60 * args.restart_within
    while not config.is_file():
        if watch.is_silent(config, patience):
            print(f"There is no training in {args.run}: {config.name} is still missing.")
            return 1
        time.sleep(args.poll)
    contents = config.read_bytes()
    folder.shared.mkdir(exist_ok=True)
    setup_logging(folder.shared, file=f"log_{socket.gethostname()}_{os.getpid()}.txt")
    experiment = load_experiment(str(config), args.opts)
    experiment.output_dir = str(args.run)
    evaluator = CheckpointEvaluator(experiment, args.attempts, args.claim_timeout, args.predictions)

    def is_same_run():
        return config.is_file() and config.read_bytes() == contents

    problems = 0
    while is_same_run():
        try:
            end = folder.end()  # before looking: what was published before the end is there then
            if end == "failed" and not watch.is_silent(folder.path / "ended.json", restart):
                end = None
            evaluator.publish_conclusions()
            backlog = evaluator.look()
            sign = 1 if args.order == "oldest" else -1
            for iteration in sorted(backlog.open, key=lambda i: (backlog.open[i], sign * i)):
                became = evaluator.evaluate(iteration, backlog.open[iteration], is_same_run)
                if became == "failed":  # it may have left this process, or its GPU, in any state
                    start_afresh()
                if became:
                    problems = 0
                    break
            else:
                problems = 0
                is_gone = not end and watch.is_silent(folder.trainer_file(), patience)
                if not args.watch or ((end or is_gone) and not backlog.claimed):
                    return finish(backlog, is_gone and args.watch)
                time.sleep(args.poll)
        except OSError as error:  # a full disk, or a network disk that is away for a while
            problems += 1
            if problems * args.poll > patience:
                raise
            logger.warning("%s; trying again", error)
            time.sleep(args.poll)
    logger.info("There is another training in %s now", args.run)
    return None


def start_afresh():
    """Replaces this process by a new one."""
    for worker in multiprocessing.active_children():
        worker.kill()
    os.execv(sys.executable, [sys.executable, *sys.argv])


def finish(backlog, is_gone) -> int:
    """Logs what became of the checkpoints; returns the exit status."""
    logger.info("%d checkpoints are evaluated", len(backlog.done))
    for iteration, attempts in backlog.failed.items():
        logger.error(
            "Iteration %d could not be evaluated in %d attempts: see %s. With a larger --attempts "
            "it is tried again.",
            iteration,
            len(attempts),
            attempts[-1].path,
        )
    if is_gone:
        logger.error("The training shows no sign of life, and has not said that it has ended")
    return 1 if is_gone or backlog.failed else 0
