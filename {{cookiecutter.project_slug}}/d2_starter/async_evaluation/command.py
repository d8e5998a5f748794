"""Evaluates the checkpoints of a run, beside its training or after it, here or elsewhere.

uv run tools/evaluate_checkpoints.py output/smoke              # those there are
uv run tools/evaluate_checkpoints.py output/smoke --watch      # until the training has ended
uv run tools/evaluate_checkpoints.py output/smoke --status     # where it all is

Any number may run at once, on all machines that see the folder; each works on one device. Overrides
of the config come after all other options. A training leaves its evaluation to this by
TEST.EVAL_IN_LOOP False (train.eval_in_loop=False).

Results are metrics_<iteration>.json, curves in TensorBoard, model_best.pth and, when training does
not improve any more, training_completed.txt, which stops it. The exit status is 0 if all are there;
1 if some checkpoints could not be evaluated, or the training has failed, or is gone; 75 if it does
not run yet, or not any more, and is to be waited for without a GPU (--yield-after).
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

from ..data.loader import SIGNALS
from ..files.atomic import read_json
from ..files.heartbeat import BEAT, Watch
from ..files.run_directory import RunDirectory
from ..run.setup import setup_logging
from .evaluator import CheckpointEvaluator
from .status import modified, status, time_of_disk

YIELD = 75  # as programs say that one should try again later

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
    parser.add_argument(
        "--yield-after",
        type=float,
        metavar="MINUTES",
        help="with nothing to evaluate and a training that does not run, exit with status 75: the "
        "training may be waiting for this GPU (default: wait for it)",
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
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup does
                signal.signal(number, lambda number, frame: sys.exit(128 + number))
        code = None
        while code is None:
            code = serve(args, load_experiment)
        sys.exit(code)
    except ValueError as error:
        parser.error(str(error))


def serve(args, load_experiment) -> int | None:
    """Evaluates the run in the directory.

    Returns:
        the exit status; None if the directory becomes that of another run.
    """
    folder, config = RunDirectory(args.run), args.run / "config.yaml"
    patience = 60 * args.give_up_after
    idle = Idle(folder, args)
    while not config.is_file():
        if has_failed(folder, args):
            print(f"The training in {args.run} has failed: {folder.reason()}")
            return 1
        code = idle.wait("the training to begin", is_running=False)
        if code is not None:
            return code
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
            if end == "failed" and not has_failed(folder, args):
                end = None
            evaluator.publish_conclusions()
            backlog = evaluator.look()
            sign = 1 if args.order == "oldest" else -1
            for iteration in sorted(backlog.open, key=lambda i: (backlog.open[i], sign * i)):
                became = evaluator.evaluate(iteration, backlog.open[iteration], is_same_run)
                if became == "failed" and is_same_run():
                    start_afresh()  # the error may have left this process, or its GPU, in any state
                if became:
                    problems, idle = 0, Idle(folder, args)
                    break
            else:
                problems = 0
                if not args.watch or (end and not backlog.claimed):
                    return finish(backlog, folder)
                what, is_running = idle.state(bool(backlog.claimed))
                code = idle.wait(what, is_running)
                if code is not None and not backlog.claimed:
                    finish(backlog, folder)
                    return code
        except OSError as error:  # a full disk, or a network disk that is away for a while
            problems += 1
            if problems * args.poll > patience:
                raise
            logger.warning("%s; trying again", error)
            time.sleep(args.poll)
    logger.info("There is another training in %s now", args.run)
    return None


class Idle:
    """Waits while there is nothing to evaluate, and says for what and how long."""

    def __init__(self, folder: RunDirectory, args):
        self.folder = folder
        self.args = args
        self._start = self._stopped = self._said = None
        self._watch = Watch()

    def state(self, is_claimed: bool) -> tuple[str, bool]:
        """Returns what is waited for, and whether it is on its way."""
        if is_claimed:
            return "other evaluators to finish", True
        trainer = read_json(self.folder.trainer_file()) or {}
        if (read_json(self.folder.path / "ended.json") or {}).get("status") == "interrupted":
            return "the training, which was interrupted, to go on", False
        if self.folder.end() == "failed":
            return "the training, which has failed, to be started again", False
        timeout = min(trainer.get("timeout", 6 * BEAT), 60 * self.args.give_up_after)
        is_silent = self._watch.is_silent(self.folder.trainer_file(), timeout)
        if is_silent or trainer.get("status") == "ended":
            return "a sign of life of the training", False
        return "the next checkpoint", True

    def wait(self, what: str, is_running: bool) -> int | None:
        """Sleeps for a while.

        Returns:
            the exit status, when that was long enough; or else None.
        """
        args, now = self.args, time.monotonic()
        self._start = self._start or now
        self._stopped = None if is_running else self._stopped or now
        waited = 0 if self._stopped is None else now - self._stopped
        limit = 60 * args.give_up_after
        if self._said is None or self._said[0] != what or now - self._said[1] > 600:
            until = "" if is_running else f"; giving up {args.give_up_after:g} min after it stopped"
            say = logger.info if logger.isEnabledFor(logging.INFO) else print
            say(f"Waiting for {what}, for {(now - self._start) / 60:.0f} min so far{until}")
            self._said = what, now
        if waited and max(waited, silence(self.folder)) >= limit:
            is_begun = (self.folder.path / "config.yaml").is_file()
            how = "The training shows no sign of life" if is_begun else "There is no training"
            minutes = f"{args.give_up_after:g} min"
            print(f"{how} in {args.run}: given up after {minutes} of waiting for {what}.")
            return 1
        if args.yield_after is not None and waited >= 60 * args.yield_after:
            print(f"Nothing to evaluate in {args.run}: making room, start this again later.")
            return YIELD
        time.sleep(args.poll)
        return None


def silence(folder: RunDirectory) -> float:
    """Returns for how many seconds, by the disk's clock, nothing was heard of a training."""
    files = (folder.trainer_file(), folder.path / "ended.json", folder.path / "config.yaml")
    last = max(map(modified, files))
    return time_of_disk(folder) - last if last else 0.0


def has_failed(folder: RunDirectory, args) -> bool:
    """Returns whether a training has failed, and nobody has started it again for a while."""
    age = time_of_disk(folder) - modified(folder.path / "ended.json")
    return folder.end() == "failed" and age >= 60 * args.restart_within


def start_afresh():
    """Replaces this process by a new one."""
    for worker in multiprocessing.active_children():
        worker.kill()
    os.execv(sys.executable, [sys.executable, *sys.argv])


def finish(backlog, folder) -> int:
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
    has_failed = folder.end() == "failed"
    if has_failed:
        logger.error("The training has failed: %s", folder.reason())
    return 1 if backlog.failed or (has_failed and not backlog.done) else 0
