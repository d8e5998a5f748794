"""Evaluation of a run's checkpoints off its training loop, by any number of processes."""

import errno
import logging
import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from ..experiment import build_model
from .checkpoint import BEST, Checkpointer, Pruner, best, save_checkpoint
from .curves import Curves
from .early_stopping import EarlyStopping, best_of
from .evaluation import evaluate, metric_names
from .run_folder import Attempt, Heartbeat, RunFolder, Watch, write_json, write_whole
from .stop_request import CONVERGED, held_back
from .stop_request import NAME as STOP_FILE
from .writers import progress

FULL = (errno.ENOSPC, errno.EDQUOT)

logger = logging.getLogger(__name__)


@dataclass
class Backlog:
    """The published checkpoints of a run by what is to be done with them: iterations, in order."""

    open: dict[int, int]  # and the number of the next attempt
    claimed: dict[int, Attempt]  # by a process that is alive
    done: list[int]
    failed: dict[int, list[Attempt]]  # as often as is tried

    @classmethod
    def look(cls, folder: RunFolder, attempts: int, is_alive) -> "Backlog":
        """
        Args:
            attempts: to evaluate a checkpoint, before it is left.
            is_alive: whether the process of an `Attempt` is.
        """
        backlog = cls({}, {}, [], {})
        begun = folder.attempts()  # first: what is done then has a result
        results = folder.results()
        for iteration in folder.published():
            tried = begun.get(iteration, [])
            last = tried[-1] if tried else None
            # With those of processes that died.
            lost = [attempt for attempt in tried if attempt.status in ("failed", "running")]
            if iteration in results:
                backlog.done.append(iteration)
            # Done without a result: a network disk does not show that yet, or it was deleted.
            elif last and last.status in ("running", "done") and is_alive(last):
                backlog.claimed[iteration] = last
            elif len(lost) >= attempts:
                backlog.failed[iteration] = lost
            else:
                backlog.open[iteration] = last.number + 1 if last else 1
        return backlog


class Evaluator:
    """Evaluates checkpoints, one after the other, as one of any number of processes.

    Args:
        cfg: of the run, with its folder as OUTPUT_DIR.
        attempts: see `Backlog`.
        claim_timeout: seconds of silence of this process after which others take its work over.
        keep_predictions: in `evaluation/predictions/<iteration>/`.

    Raises:
        ValueError: the test set cannot be evaluated, or does not have the metric of early stopping.
    """

    def __init__(
        self, cfg, attempts: int = 3, claim_timeout: float = 120.0, keep_predictions: bool = False
    ):
        self.cfg = cfg
        self.folder = RunFolder(cfg.OUTPUT_DIR)
        self.attempts = attempts
        self.claim_timeout = claim_timeout
        self.keep_predictions = keep_predictions
        self.watch = Watch()
        self.model = build_model(cfg).eval()
        self.metric = EarlyStopping.from_config(cfg).metric
        with tempfile.TemporaryDirectory() as temporary:
            names = metric_names(cfg, self.model, temporary)
        self.metric.find(dict.fromkeys(names, 0.0))
        self._curves = Curves(self.folder)
        self._prune = Pruner(cfg)

    def look(self) -> Backlog:
        return Backlog.look(
            self.folder,
            self.attempts,
            lambda attempt: not self.watch.is_silent(attempt.path, attempt.timeout),
        )

    def evaluate(self, iteration: int, number: int, still_wanted=lambda: True) -> str | None:
        """Evaluates a checkpoint, unless another process does.

        An error is written into the claim, and left to the next attempt. Whatever ends this process
        in order releases the checkpoint.

        Args:
            number: of the attempt.
            still_wanted: asked when the result is there, whether it is published.

        Returns:
            what has become of the attempt, see `Attempt.status`; None if it was another process's.
        """
        claim, status = None, {"status": "released"}
        try:
            with held_back():  # a claim that is on disk is one that is closed
                claim = self.folder.claim(iteration, number, self.claim_timeout)
            if not claim:
                return None
            checkpoint = self.folder.published()[iteration]["checkpoint"]
            logger.info("Evaluating %s, attempt %d", checkpoint, number)
            start = time.perf_counter()
            checkpointer = Checkpointer(self.model, complete=True)
            checkpointer.load(str(self.folder.path / checkpoint), checkpointables=[])
            with tempfile.TemporaryDirectory() as temporary:
                metrics = evaluate(self.cfg, self.model, temporary)
                if still_wanted() and self._publish(claim, iteration, metrics, temporary):
                    status = {"status": "done"}
                    took = time.perf_counter() - start
                    file = self.folder.result_file(iteration).name
                    logger.info("Published %s after %.1f s", file, took)
        except Exception as error:
            status = {"status": "failed", "error": traceback.format_exc()}
            logger.exception("Could not evaluate iteration %d: %s", iteration, error)
        finally:
            if claim:
                claim.close(**status)
        return status["status"]

    def _publish(self, claim: Heartbeat, iteration, metrics, predictions):
        result = {"iteration": iteration, **progress(self.cfg, iteration), **metrics}
        while True:
            if not claim.is_in_place():
                logger.warning("The run's folder is another now: the result is left")
                return False
            try:
                if self.keep_predictions:
                    self._keep(iteration, predictions)
                file = self.folder.result_file(iteration)
                if write_json(file, result, exclusively=True):
                    return True
                logger.info("Another process was faster: the result is left")
                return False
            except OSError as error:
                if error.errno not in FULL:
                    raise
                logger.warning("%s: the result of iteration %d waits for space", error, iteration)
                time.sleep(10)

    def _keep(self, iteration, predictions):
        folder = self.folder.shared / "predictions" / f"{iteration:07d}"
        if not folder.exists():
            partial = folder.with_name(f".{folder.name}.{Path(predictions).name}")
            try:
                shutil.copytree(predictions, partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def judge(self):
        """What follows from the results there are: curves, the best checkpoint, whether training
        has converged, and which checkpoints can go. Several processes may do it at once.
        """
        self._curves.update()
        self._keep_best()
        rule = EarlyStopping.from_config(self.cfg)
        results = self.folder.results()
        rule.judge({i: results.get(i) for i in self.folder.published().keys() | results.keys()})
        if rule.should_stop and not self.folder.end():
            text = f"{CONVERGED}{rule.reason}\n".encode()
            file = self.folder.path / STOP_FILE
            if write_whole(file, lambda file: file.write(text), exclusively=True):
                logger.info("Training has converged: %s", rule.reason)
        self._prune()

    def _keep_best(self):
        # Again, if it wrote something: a process that knew more may have written before.
        while True:
            results = self.folder.results()
            iteration = best_of(self.metric, results)
            if iteration is None:
                return
            value, has = self.metric.find(results[iteration]), best(self.folder.path)
            than = has["value"] if has and has["metric"] == self.metric.name else None
            if not self.metric.is_better(value, than):
                return
            checkpoint = self.folder.path / self.folder.published()[iteration]["checkpoint"]
            if not checkpoint.exists():
                logger.warning("The best checkpoint, %s, is not there any more", checkpoint)
                return
            saved = torch.load(checkpoint, map_location="cpu", mmap=True)
            data = {key: saved[key] for key in ("model", "loss_normalizer") if key in saved}
            about = {"metric": self.metric.name, "value": value, "iteration": iteration}
            save_checkpoint(str(self.folder.path / BEST), data | about)
