"""Prepares a run: its directory, its log, its seeds, and the records of what is run."""

import json
import logging
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import torch
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from ..config.experiment import Experiment
from ..data.catalog import get_metadata
from ..data.fingerprint import describe
from ..files.owner import Refused, check_free, owns, release, take
from ..files.run_directory import LAST, STOP_FILE, RunDirectory
from .checkpoint import publish_last
from .opening import METADATA, metadata_json
from .repair import repair
from .resume import END, check_changes, read_earlier

LOGGERS = ("detectron2", "fvcore", "d2_starter")
CHATTY = ("detectron2.data.common", "detectron2.evaluation.fast_eval_api")
SHARED_MEMORY = 1024  # MB; a container has 64, unless it is told otherwise

logger = logging.getLogger(__name__)
_log_files = []


def setup(args, load_experiment: Callable[[str, list[str]], Experiment]) -> Experiment:
    """Reads the config, and prepares the run directory, logging and random seeds of this process.

    What the config gives in epochs is in iterations afterwards. The directory gets `config.yaml`,
    `environment.txt` and `git.diff` beside the log. A new run does not mix with an earlier one in
    the same directory: that is moved aside, unless its training still lives.

    Args:
        args: of the command line, see `launch`.
        load_experiment: reads a config file with overrides.

    Raises:
        Refused: the directory is another training's, cannot be written to, or has a run that cannot
            be resumed by this config.
    """
    experiment = load_experiment(args.config_file, args.opts)
    output = Path(experiment.output_dir)
    resume, said = args.resume and not args.eval_only, []
    _on_main(lambda: said.extend(_prepare_directory(output, resume, args.eval_only)))
    try:
        _prepare(experiment, args, load_experiment, output, resume, said)
    except Exception as error:
        _give_back(output, error)
        raise
    seed_all_rng(None if experiment.seed < 0 else experiment.seed + comm.get_rank())
    torch.backends.cudnn.benchmark = experiment.cudnn_benchmark and not args.eval_only
    if experiment.device == "cpu" and args.num_gpus > 1:  # else each process takes all cores
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.num_gpus))
    return experiment


def _prepare(experiment, args, load_experiment, output, resume, said):
    setup_logging(output, comm.get_rank())
    logger.info("Command: %s", shlex.join(sys.argv))
    logger.info("Output: %s; device: %s x %d", output, experiment.device, comm.get_world_size())
    for sentence in said:
        logger.warning("%s.", sentence)
    has_checkpoint = RunDirectory(output).last_checkpoint() is not None
    if args.resume and not has_checkpoint:
        logger.warning("There is no checkpoint to resume in %s: training starts afresh.", output)
    _check_shared_memory(experiment.num_workers)
    experiment.follow_data()
    if not args.eval_only:  # an evaluation leaves the training's records
        had = read_earlier(output / "config.yaml", load_experiment) if resume else None
        _settle_seeds(experiment, had)
        experiment.set_epoch_length()
        experiment.scale_learning_rate()
        schedule = experiment.schedule
        images, batch = schedule.images_per_epoch, schedule.batch_size
        logger.info(
            "An epoch is %g images, %.4g iterations of %d; training takes %.4g epochs",
            images,
            images / batch,
            batch,
            schedule.max_iter * batch / images,
        )
        if not schedule.eval_in_loop and schedule.eval_period:  # then checkpoints are evaluated
            experiment.checkpoint_period = schedule.eval_period
        if had and has_checkpoint:
            check_changes(experiment, had, load_experiment)
        if comm.is_main_process():
            write_records(experiment, output)
            publish_last(output)
    experiment.warn_of_limits()


def _give_back(output, error):
    # Evaluators that wait for this training see that it comes to nothing. How an earlier one ended
    # stays on record.
    if owns(output):
        directory = RunDirectory(output)
        if directory.end() in (None, "failed"):
            directory.write_end("failed", f"before it began: {error!r}")
        release(output)


def _on_main(prepare):
    # Has the main process do something, and all refuse together.
    problem = None
    if comm.is_main_process():
        try:
            prepare()
        except Refused as refusal:
            problem = str(refusal)
    if problem := comm.all_gather(problem)[0]:
        raise Refused(problem)


def _prepare_directory(output, resume, eval_only) -> list[str]:
    try:
        if eval_only:
            output.mkdir(parents=True, exist_ok=True)
            return []
        check_free(output, print)
        moved = None if resume else _move_aside(output)
        output.mkdir(parents=True, exist_ok=True)
        take(output)
        if moved:
            return [f"An earlier run was in {output}: it is in {moved} now"]
        return repair(output) if resume else []
    except Refused as refusal:
        _give_back(output, refusal)
        raise
    except OSError as error:
        user = f"user {os.getuid()}" if hasattr(os, "getuid") else "this user"
        raise Refused(
            f"{output} cannot be used as the run directory: {error}. It has to be a folder that "
            f"{user} may write to; in a container, make the mounted folder before (mkdir -p), and "
            'run as its owner (--user "$(id -u):$(id -g)").'
        ) from None


def setup_logging(output: Path, rank: int = 0, file: str = "log.txt"):
    """Sends the log to the terminal and to a file of the directory, instead of to an earlier one.

    Args:
        file: its name; those of other ranks end in their number.
    """
    close_log()
    path = output / (f"{file}.rank{rank}" if rank else file)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(
        logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")
    )
    for name in LOGGERS:
        # detectron2's own function opens each file once in a process, also when it has moved.
        setup_logger(distributed_rank=rank, name=name).addHandler(handler)
    _log_files.append(handler)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("detectron2.data.build").addFilter(_warn_of_removed)


def _warn_of_removed(record):
    # detectron2 leaves images out of the training in a line like any other.
    text = str(record.msg)
    is_some = text.startswith("Removed ") and not text.startswith("Removed 0 ")
    if is_some and record.levelno < logging.WARNING:
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg += " FILTER_EMPTY_ANNOTATIONS (filter_empty) False keeps images without objects."
    return True


def close_log():
    """Closes the log file of an earlier run in this process."""
    while _log_files:
        handler = _log_files.pop()
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)
        handler.close()


def _check_shared_memory(num_workers):
    folder = Path("/dev/shm")
    size = shutil.disk_usage(folder).total / 2**20 if folder.is_dir() else SHARED_MEMORY
    if num_workers and size < SHARED_MEMORY:
        logger.warning(
            "/dev/shm has %d MB. Workers of data loaders pass images through it; when it is full, "
            "a bus error kills them. Start the container with --shm-size 8g, or set "
            "the number of workers to 0, which is slow.",
            size,
        )


def _settle_seeds(experiment, had):
    # Draws the seeds that are others in each new run; a resumed run keeps those it had.
    used = {"seed": True, "train_subset_seed": experiment.train_subset_ratio < 1}
    for attribute, is_used in used.items():
        if is_used and getattr(experiment, attribute) < 0:
            seed = getattr(had, attribute) if had else secrets.randbits(31)
            setattr(experiment, attribute, comm.all_gather(seed)[0])


def write_records(experiment: Experiment, output: Path):
    """Writes what was run into the run directory: config, classes, environment, git commit."""
    (output / "ended.json").unlink(missing_ok=True)
    experiment.save(output / ".config.yaml")
    with open(output / ".config.yaml", "a", encoding="utf-8") as file:
        file.write(END)
    os.replace(output / ".config.yaml", output / "config.yaml")  # evaluators may be reading it
    data = {}
    for name, dicts in experiment.datasets().items():
        classes = get_metadata(name.partition("+")[0]).get("thing_classes") or ()
        data[name] = describe(dicts, classes)
    (output / "data.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    for file in map(Path, experiment.fixes):
        (output / file.name).write_bytes(file.read_bytes())
    names = (*experiment.train_names, *experiment.test_names)
    (output / METADATA).write_text(metadata_json(names), encoding="utf-8")
    # An image of the project has no repository; its Dockerfile sets the variable.
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD").strip()
    commit = commit or os.environ.get("GIT_COMMIT") or "none"
    started = datetime.now().astimezone().isoformat(" ", "seconds")
    environment = f"git commit: {commit}\nstarted: {started}\n{collect_env_info()}\n"
    (output / "environment.txt").write_text(environment, encoding="utf-8")
    (output / "git.diff").write_text(_git("diff", "HEAD"), encoding="utf-8")


def _move_aside(output: Path) -> Path | None:
    # Renames a directory with a run in it to the first free of <name>.1, <name>.2, ...
    if not any((output / file).exists() for file in ("metrics.json", LAST, STOP_FILE)):
        return None
    close_log()  # of that run, if it was in this process
    number = 1
    while (aside := output.with_name(f"{output.name}.{number}")).exists():
        number += 1
    return output.rename(aside)


def _git(*command: str) -> str:
    try:
        return subprocess.run(["git", *command], capture_output=True, text=True).stdout
    except OSError:  # git is not installed
        return ""
