"""What surrounds a run: command line, processes, the output folder and its records."""

import atexit
import contextlib
import gc
import inspect
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path

import torch
from detectron2.engine import default_argument_parser, launch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from ..config import epochs_to_iterations, get_key, scale_learning_rate, set_key, spell
from ..data.loader import SIGNALS, training_images
from ..experiment import NAMES, get_config, read_config, write_config
from .checkpoint import BEST, best, make_final, publish_last
from .evaluation import record_subset, summary
from .run_folder import BEAT, Heartbeat, RunFolder, write_json
from .stop_request import NAME as STOP_FILE
from .stop_request import read_stop_file

LOGGERS = ("detectron2", "fvcore", __name__.partition(".")[0])
# What torchrun, or a batch file in its place, tells the processes that it starts.
TORCHRUN = {"MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"}
SHARED_MEMORY = 1024  # MB; a container has 64, unless it is told otherwise
CHATTY = ("detectron2.data.common", "detectron2.evaluation.fast_eval_api")

logger = logging.getLogger(__name__)


def after_imports():
    """Has Python look for garbage again, which a script turned off for its imports.

    But never in what they left: to go through all that once costs much of the time they saved.
    """
    gc.enable()
    gc.freeze()
    atexit.register(gc.unfreeze)  # some libraries complain about what is not freed at the end


def run(main):
    """Calls `main(args)` in each of the processes that the command line, or torchrun, asks for."""
    parser = default_argument_parser(epilog=inspect.getmodule(main).__doc__)
    parser.set_defaults(dist_url="auto")  # a free port, so that two runs can share a machine
    args = parser.parse_args()
    is_started = TORCHRUN <= os.environ.keys()
    if is_started:
        args.num_gpus = int(os.environ["LOCAL_WORLD_SIZE"])
        args.num_machines = int(os.environ["WORLD_SIZE"]) // args.num_gpus
        args.machine_rank = int(os.environ["RANK"]) // args.num_gpus
        args.dist_url = "env://"
    try:
        _check(args)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {spell(str(error), NAMES)}")
    if is_started:
        _join_processes(args.num_gpus)
        _run(main, args)
        return
    if args.num_gpus * args.num_machines > 1:  # else there is only this one
        _pass_signals_on()
    try:
        launch(
            _run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args),
        )
    except torch.multiprocessing.ProcessExitedException as error:  # else its status would get lost
        sys.exit(error.exit_code if error.exit_code > 0 else 128 - error.exit_code)


def _join_processes(number_here: int):
    """What detectron2's launcher does in each of the processes that it starts."""
    has_gpus = torch.cuda.is_available()
    backend = "nccl" if has_gpus else "gloo"
    torch.distributed.init_process_group(backend, timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(number_here)
    if has_gpus:
        torch.cuda.set_device(comm.get_local_rank())
    comm.synchronize()


def _pass_signals_on():
    """The processes that this one starts get the signals that ask a training to stop."""

    def receive(number, frame):
        for child in (children := active_children()):
            os.kill(child.pid, number)
        if not children:
            sys.exit(128 + number)

    for number in SIGNALS:
        signal.signal(number, receive)


def _run(main, args):
    try:
        main(args)
    except Exception as error:
        error.args = tuple(spell(a, NAMES) if isinstance(a, str) else a for a in error.args)
        raise


def _check(args):
    """Raises ValueError for what would otherwise fail late, or in every process, or silently."""
    if not args.config_file:
        raise ValueError("--config-file is missing. Type e.g. --config-file configs/smoke.{{ cookiecutter.__suffix }}.")
    cfg = read_config(args.config_file, args.opts)
    processes = args.num_gpus * args.num_machines
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be split evenly over "
            f"{processes} processes. Change it, or --num-gpus."
        )
    if cfg.SOLVER.IMS_PER_BATCH // processes % cfg.SOLVER.ACCUMULATE:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be split evenly over "
            f"{processes} processes and SOLVER.ACCUMULATE {cfg.SOLVER.ACCUMULATE} parts in each."
        )
    gpus = torch.cuda.device_count()
    if gpus and args.num_gpus > gpus:
        raise ValueError(f"--num-gpus is {args.num_gpus}, but this machine has {gpus}.")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("several machines need --dist-url tcp://<address of machine 0>:<port>.")
    is_new = not (args.resume or args.eval_only)
    weights = Path(cfg.MODEL.WEIGHTS)  # "" and addresses are no files
    if is_new and weights.is_file() and Path(cfg.OUTPUT_DIR).resolve() in weights.resolve().parents:
        raise ValueError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} lies in OUTPUT_DIR, which a new run moves aside. "
            "Give another OUTPUT_DIR, or --resume to continue that run."
        )
    if args.eval_only and args.resume and not Path(cfg.OUTPUT_DIR, "last_checkpoint").exists():
        raise ValueError(f"there is no checkpoint to evaluate in {cfg.OUTPUT_DIR}.")
    if args.eval_only and not args.resume and not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "there is nothing to evaluate: MODEL.WEIGHTS is empty. Add --resume for the last "
            f"checkpoint in {cfg.OUTPUT_DIR}, or MODEL.WEIGHTS and a file."
        )


def setup(args):
    """Reads the config, and prepares the output folder, logging and random seeds of this process.

    What the config gives in epochs is in iterations afterwards. The folder gets `config.yaml`,
    `environment.txt` and `git.diff` beside the log. A new run does not mix with an earlier one in
    the same folder: that is moved aside.
    """
    cfg = get_config(args.config_file, args.opts)
    output = Path(cfg.OUTPUT_DIR)
    moved = None
    if comm.is_main_process():
        if not (args.resume or args.eval_only):
            moved = _move_aside(output)
        output.mkdir(parents=True, exist_ok=True)
    comm.synchronize()
    for name in LOGGERS:
        setup_logger(str(output), distributed_rank=comm.get_rank(), name=name)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logger.info("Command: %s", " ".join(sys.argv))
    logger.info("Output: %s; device: %s x %d", output, cfg.MODEL.DEVICE, comm.get_world_size())
    if args.resume and not (output / "last_checkpoint").exists():
        logger.warning("There is no checkpoint to resume in %s: training starts afresh.", output)
    _check_shared_memory(cfg)
    if moved:
        logger.warning("An earlier run was in %s: it is in %s now.", output, moved)
    if not args.eval_only:  # an evaluation leaves the training's records
        _settle_seeds(cfg, output / "config.yaml" if args.resume else None)
        images, subset = training_images(cfg)
        if subset:
            record_subset(cfg, "+".join(cfg.DATASETS.TRAIN), subset)
        epochs_to_iterations(cfg, images)
        scale_learning_rate(cfg)
        logger.info(
            "An epoch is %g images, %.4g iterations of %d; training takes %.4g epochs",
            images,
            images / cfg.SOLVER.IMS_PER_BATCH,
            cfg.SOLVER.IMS_PER_BATCH,
            cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / images,
        )
        if not cfg.TEST.EVAL_IN_LOOP and cfg.TEST.EVAL_PERIOD:  # then checkpoints are evaluated
            cfg.SOLVER.CHECKPOINT_PERIOD = cfg.TEST.EVAL_PERIOD
        if comm.is_main_process():
            _write_records(cfg, output)
            publish_last(output)
    cfg.freeze()
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only
    if cfg.MODEL.DEVICE == "cpu" and args.num_gpus > 1:  # else each process takes all cores
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.num_gpus))
    return cfg


def _check_shared_memory(cfg):
    folder = Path("/dev/shm")
    size = shutil.disk_usage(folder).total / 2**20 if folder.is_dir() else SHARED_MEMORY
    if cfg.DATALOADER.NUM_WORKERS and size < SHARED_MEMORY:
        logger.warning(
            "/dev/shm has %d MB. Workers of data loaders pass images through it; when it is full, "
            "a bus error kills them. Start the container with --shm-size 8g, or set "
            "DATALOADER.NUM_WORKERS to 0, which is slow.",
            size,
        )


def _settle_seeds(cfg, earlier: Path | None):
    """Draws the seeds that are others in each new run; a resumed run keeps those it had."""
    had = earlier and earlier.exists() and read_config(str(earlier))
    used = {"SEED": True, "DATALOADER.RANDOM_SUBSET_SEED": cfg.DATALOADER.RANDOM_SUBSET_RATIO < 1}
    for key, is_used in used.items():
        if is_used and get_key(cfg, key) < 0:
            seed = get_key(had, key) if had else secrets.randbits(31)
            set_key(cfg, key, comm.all_gather(seed)[0])


def _write_records(cfg, output):
    (output / "ended.json").unlink(missing_ok=True)
    write_config(cfg, output / ".config.yaml")
    os.replace(output / ".config.yaml", output / "config.yaml")  # evaluators may be reading it
    # An image of the project has no repository; its Dockerfile sets the variable.
    commit = _git("rev-parse", "HEAD").strip() or os.environ.get("GIT_COMMIT")
    commit = commit or "not in a git repository"
    environment = f"git commit: {commit}\n{collect_env_info()}\n"
    (output / "environment.txt").write_text(environment, encoding="utf-8")
    (output / "git.diff").write_text(_git("diff", "HEAD"), encoding="utf-8")


@contextlib.contextmanager
def end_marker(cfg):
    """Writes `ended.json` into OUTPUT_DIR when the training in this context ends, however it does;
    until then, evaluators elsewhere see that it is alive.

    Its `status` is "finished"; "converged", which the training says in the dict that it is given;
    "stopped", by the user or the stop file; "interrupted", by a signal; or "failed". But for the
    first there is a `reason`.

    Raises:
        SystemExit: the training was interrupted; with the status that shells give for the signal.
    """
    end = {"status": "finished"}
    file = Path(cfg.OUTPUT_DIR, "ended.json")
    heartbeat = None
    try:
        if comm.is_main_process():
            folder = RunFolder(cfg.OUTPUT_DIR)
            folder.shared.mkdir(exist_ok=True)
            heartbeat = Heartbeat(folder.trainer_file(), timeout=6 * BEAT)
        yield end
    except BaseException as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning exits when interrupted
            error = error.__context__
        stopped = isinstance(error, KeyboardInterrupt)
        end.update(status="stopped" if stopped else "failed", reason=spell(repr(error), NAMES))
        raise
    finally:
        number = end.pop("signal", None)
        is_interrupted = end["status"] == "interrupted"
        if end["status"] in ("converged", "stopped", "interrupted"):
            verb = "was" if is_interrupted else "has"
            logger.info("The training %s %s: %s", verb, end["status"], end["reason"])
        # A rank that fails may be the only one that can still write.
        if comm.is_main_process() or (end["status"] == "failed" and not file.exists()):
            with contextlib.suppress(OSError):  # of a full disk, after which there is an error
                write_json(file, end)
        if heartbeat:
            heartbeat.close()
    if is_interrupted:
        comm.synchronize()  # a rank that is gone would have the others killed
        sys.exit(128 + number)


def diverged(iteration: int, what) -> FloatingPointError:
    """The error to raise when losses or predictions are not finite any more."""
    return FloatingPointError(
        f"training diverged at iteration {iteration}: {what}. Lower SOLVER.BASE_LR (in proportion "
        "to SOLVER.IMS_PER_BATCH), warm up for longer (SOLVER.WARMUP_ITERS), or clip the gradients "
        "(SOLVER.CLIP_GRADIENTS.ENABLED). The last checkpoint is as it was. A resumed run keeps "
        "the learning rate of its checkpoint: start a new one to change that."
    )


def nothing_to_train(cfg, start_iter: int, end: dict) -> bool:
    """Whether all iterations are done, or the run has ended otherwise, which `end` says then:
    before this call by early stopping, after it also by the stop file. All ranks must ask.
    """
    stop_file = comm.all_gather(read_stop_file(cfg.OUTPUT_DIR))[0]
    if stop_file and end["status"] == "finished":
        end.update(stop_file)
    if start_iter < cfg.SOLVER.MAX_ITER and end["status"] == "finished":
        return False
    if comm.is_main_process():
        make_final(Path(cfg.OUTPUT_DIR))
    done = f"{start_iter} of {cfg.SOLVER.MAX_ITER} iterations are done"
    logger.info("Nothing to train: %s. %s", done, end.get("reason", ""))
    return True


def report(cfg, model, metrics: dict[str, float]):
    """Draws pictures of predictions, and says what the run came to and where it all is."""
    if not comm.is_main_process():
        return
    output = Path(cfg.OUTPUT_DIR)
    lines = [
        f"{key:20} {value:.{4 if 'loss' in key else 2}f}" for key, value in summary(metrics).items()
    ]
    for what, path in (
        ("checkpoint", (output / "last_checkpoint").exists() and _last_checkpoint(output)),
        ("metrics", output / "metrics.json"),
        ("log", output / "log.txt"),
    ):
        if path and path.exists():
            lines.append(f"{what:20} {path}")
    if about := best(output):
        what = f"{about['metric']} {about['value']:.2f} at iteration {about['iteration']}"
        lines.append(f"{'best checkpoint':20} {output / BEST} ({what})")
    if not cfg.TEST.EVAL_IN_LOOP:
        lines.append(f"{'evaluation':20} uv run tools/evaluate_checkpoints.py {output}")
    if cfg.TEST.NUM_PICTURES and cfg.DATASETS.TEST:
        from .visualize import save_pictures  # imports matplotlib, for which no start should wait

        save_pictures(cfg, model, str(output / "predictions"))
        lines.append(f"{'pictures':20} {output / 'predictions'}")
    lines.append(f"{'curves':20} uv run tensorboard --logdir {output}")
    logger.info("Done.\n  %s", "\n  ".join(lines))


def _last_checkpoint(output: Path) -> Path:
    return output / (output / "last_checkpoint").read_text(encoding="utf-8").strip()


def _move_aside(output: Path) -> Path | None:
    """Renames a folder with a run in it to the first free of `<name>.1`, `<name>.2`, ..."""
    files = ("metrics.json", "last_checkpoint", STOP_FILE)
    if not any((output / file).exists() for file in files):
        return None
    number = 1
    while (aside := output.with_name(f"{output.name}.{number}")).exists():
        number += 1
    return output.rename(aside)


def _git(*command: str) -> str:
    try:
        return subprocess.run(["git", *command], capture_output=True, text=True).stdout
    except OSError:  # git is not installed
        return ""
