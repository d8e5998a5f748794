"""Evaluates a run's checkpoints asynchronously, by any number of processes."""

import errno
import logging
import shutil
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.early_stopping import EarlyStopping, best_of
from ..files.atomic import read_json, write_atomically, write_json
from ..files.heartbeat import Heartbeat, Watch
from ..files.owner import Refused
from ..files.run_directory import BEST, CONVERGED, STOP_FILE, Attempt, RunDirectory
from ..run.checkpoint import (
    CheckpointCleaner,
    Checkpointer,
    read_best,
    read_checkpoint,
    save_checkpoint,
)
from ..run.run import hold_signals
from .curves import Curves

FULL = (errno.ENOSPC, errno.EDQUOT)

logger = logging.getLogger(__name__)


@dataclass
class Backlog:
    """Sorts the published checkpoints of a run, by iteration, by what is to be done with them."""

    open: dict[int, int]  # and the number of the next attempt
    claimed: dict[int, Attempt]  # by a process that is alive
    done: list[int]
    failed: dict[int, list[Attempt]]  # as often as is tried

    @classmethod
    def look(cls, folder: RunDirectory, attempts: int, is_alive) -> "Backlog":
        """Reads the backlog from the run directory.

        Args:
            attempts: to evaluate a checkpoint, before it is given up.
            is_alive: tells whether the process of an `Attempt` is alive.
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


class CheckpointEvaluator:
    """Evaluates checkpoints, one after the other, as one of any number of processes.

    Args:
        experiment: of the run, with the run directory as `output_dir`.
        attempts: see `Backlog`.
        claim_timeout: seconds of silence of this process after which others take its work over.
        keep_predictions: in `evaluation/predictions/<iteration>/`.

    Raises:
        ValueError: the test set cannot be evaluated, or does not have the metric of early stopping.
    """

    def __init__(
        self, experiment, attempts: int = 3, claim_timeout: float = 120.0, keep_predictions=False
    ):
        self.experiment = experiment
        self.folder = RunDirectory(experiment.output_dir)
        self.attempts = attempts
        self.claim_timeout = claim_timeout
        self.keep_predictions = keep_predictions
        self.watch = Watch()
        self.model = experiment.build_model().eval()
        self.metric = EarlyStopping(**experiment.early_stopping).metric
        with tempfile.TemporaryDirectory() as temporary:
            names = experiment.evaluate(self.model, temporary, quick=True)
        self.metric.find(dict.fromkeys(names, 0.0))
        self._curves = Curves(self.folder)
        self._clean = CheckpointCleaner(
            experiment.output_dir, experiment.max_to_keep, self.metric, eval_in_loop=False
        )

    def look(self) -> Backlog:
        """Returns what there is to do."""
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
            with hold_signals():  # a claim that is on disk is one that is closed
                claim = self.folder.claim(iteration, number, self.claim_timeout)
            if not claim:
                return None
            checkpoint = self.folder.published()[iteration]["checkpoint"]
            logger.info("Evaluating %s, attempt %d", checkpoint, number)
            start = time.perf_counter()
            checkpointer = Checkpointer(self.model, complete=True)
            checkpointer.load(str(self.folder.path / checkpoint), checkpointables=[])
            with tempfile.TemporaryDirectory() as temporary:
                metrics = self.experiment.evaluate(self.model, temporary)
                if still_wanted() and self._publish(claim, iteration, metrics, temporary):
                    status = {"status": "done"}
                    took = time.perf_counter() - start
                    file = self.folder.result_file(iteration).name
                    logger.info("Published %s after %.1f s", file, took)
        except Exception as error:
            is_fault = not isinstance(error, Refused)
            status = {"status": "failed", "error": traceback.format_exc()}
            logger.error("Could not evaluate iteration %d: %s", iteration, error, exc_info=is_fault)
        finally:
            if claim:
                claim.close(**status)
        return status["status"]

    def _publish(self, claim: Heartbeat, iteration, metrics, predictions):
        done = self.experiment.schedule.progress(iteration)
        result = {"iteration": iteration, **done, **metrics}
        while True:
            if not claim.is_in_place():
                logger.warning("The run's folder is another now: the result is left")
                return False
            try:
                if self.keep_predictions:
                    self._keep(iteration, predictions)
                file = self.folder.result_file(iteration)
                if write_json(file, result, exclusive=True):
                    return True
                if read_json(file) is None:  # damaged: nobody's result
                    self.folder.set_aside(file)
                    continue
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

    def publish_conclusions(self):
        """Draws what follows from the results: curves, the best checkpoint, whether training has
        converged, and which checkpoints can go. Several processes may do it at once.
        """
        self._curves.update()
        self._keep_best()
        rule = EarlyStopping(**self.experiment.early_stopping)
        results = self.folder.results()
        iterations = self.folder.published().keys() | results.keys()
        rule.update_from_results({i: results.get(i) for i in iterations})
        if rule.should_stop and not self.folder.end():
            text = f"{CONVERGED}{rule.reason}\n".encode()
            file = self.folder.path / STOP_FILE
            if write_atomically(file, lambda file: file.write(text), exclusive=True):
                logger.info("Training has converged: %s", rule.reason)
        self._clean()

    def _keep_best(self):
        # Again, if it wrote something: a process that knew more may have written before.
        while True:
            results = self.folder.results()
            iteration = best_of(self.metric, results)
            if iteration is None:
                return
            value, has = self.metric.find(results[iteration]), read_best(self.folder.path)
            than = has["value"] if has and has["metric"] == self.metric.name else None
            if not self.metric.is_better(value, than):
                return
            checkpoint = self.folder.path / self.folder.published()[iteration]["checkpoint"]
            if not checkpoint.exists():
                logger.warning("The best checkpoint, %s, is not there any more", checkpoint)
                return
            saved = read_checkpoint(checkpoint)
            data = {
                key: saved[key] for key in ("model", "loss_normalizer", "anchors") if key in saved
            }
            about = {"metric": self.metric.name, "value": value, "iteration": iteration}
            save_checkpoint(str(self.folder.path / BEST), data | about)
