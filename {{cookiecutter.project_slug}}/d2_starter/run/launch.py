"""Starts a training script: command line, processes, signals."""

import contextlib
import inspect
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as launch_processes
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm

from ..config.experiment import Experiment
from ..data.loader import SIGNALS
from ..files.owner import Refused, check_free
from ..files.run_directory import RunDirectory

# What torchrun, or a batch file in its place, tells the processes that it starts.
TORCHRUN = {"MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"}


def launch(main: Callable, load_experiment: Callable[[str, list[str]], Experiment]):
    """Calls `main(args)` in each of the processes that the command line, or torchrun, asks for.

    Args:
        load_experiment: reads a config file with overrides; called once before, so that a mistake
            in the config ends the script with one line.
    """
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
        _check(args, load_experiment)
    except ValueError as error:
        _record_failure(args, error)
        sys.exit(f"{parser.prog}: error: {error}")
    if is_started:
        _join_processes(args.num_gpus)
        _call(main, args, parser.prog)
        return
    if args.num_gpus * args.num_machines > 1:  # else there is only this one
        _pass_signals_on()
    try:
        launch_processes(
            _call,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args, parser.prog),
        )
    except torch.multiprocessing.ProcessExitedException as error:  # else its status would get lost
        sys.exit(error.exit_code if error.exit_code > 0 else 128 - error.exit_code)


def _record_failure(args, error):
    # Evaluators that wait in the run directory see that this training comes to nothing. Where the
    # config cannot be read, only the command line may say which directory that is.
    words = args.opts
    given = dict(zip(words[::2], words[1::2])) | dict(w.split("=", 1) for w in words if "=" in w)
    folder = given.get("OUTPUT_DIR") or given.get("train.output_dir")
    if args.eval_only or not folder:
        return
    directory = RunDirectory(folder.strip("'\""))
    is_earlier = not args.resume and (directory.path / "config.yaml").exists()
    if is_earlier or directory.end() not in (None, "failed"):
        return
    with contextlib.suppress(OSError, Refused):
        check_free(directory.path, print)
        directory.path.mkdir(parents=True, exist_ok=True)
        directory.write_end("failed", f"before it began: {error}")


def _call(main, args, program):
    if multiprocessing.parent_process():  # launched processes would spawn workers, which is slow
        multiprocessing.set_start_method(None, force=True)
    # A refusal is one line, of one process, without a traceback.
    try:
        main(args)
    except Refused as refusal:
        sys.exit(f"{program}: error: {refusal}" if comm.is_main_process() else 1)


def _join_processes(number_here: int):
    # What detectron2's launcher does in each of the processes that it starts.
    has_gpus = torch.cuda.is_available()
    backend = "nccl" if has_gpus else "gloo"
    torch.distributed.init_process_group(backend, timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(number_here)
    if has_gpus:
        torch.cuda.set_device(comm.get_local_rank())
    comm.synchronize()


def _pass_signals_on():
    # The processes that this one starts get the signals that ask a training to stop.
    def receive(number, frame):
        for child in (children := multiprocessing.active_children()):
            os.kill(child.pid, number)
        if not children:
            sys.exit(128 + number)

    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup does
            signal.signal(number, receive)


def _check(args, load_experiment):
    # What would otherwise fail late, or in every process, or silently.
    if not args.config_file:
        raise ValueError("--config-file is missing. Type e.g. --config-file configs/smoke.yaml.")
    experiment = load_experiment(args.config_file, args.opts)
    experiment.check_processes(args.num_gpus * args.num_machines)
    output, weights = Path(experiment.output_dir), experiment.weights
    gpus = torch.cuda.device_count()
    if gpus and args.num_gpus > gpus:
        raise ValueError(f"--num-gpus is {args.num_gpus}, but this machine has {gpus}.")
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError("several machines need --dist-url tcp://<address of machine 0>:<port>.")
    is_new = not (args.resume or args.eval_only)
    file = Path(weights)  # "" and addresses are no files
    if is_new and file.is_file() and output.resolve() in file.resolve().parents:
        raise ValueError(
            f"{experiment.name_of('weights')} {weights} lies in {output}, which a new run moves "
            f"aside. Give another {experiment.name_of('output_dir')}, or --resume to continue."
        )
    if args.eval_only and args.resume and not RunDirectory(output).last_checkpoint():
        raise ValueError(f"there is no checkpoint to evaluate in {output}.")
    if args.eval_only and not args.resume and not weights:
        name = experiment.name_of("weights")
        raise ValueError(
            f"there is nothing to evaluate: {name} is empty. Add --resume for the last checkpoint "
            f"in {output}, or {name} and a file."
        )
