"""detectron2's DefaultTrainer, with the library's loop: import it in place of detectron2's."""

import contextlib
import logging
import os
import weakref
from pathlib import Path

from detectron2.engine import DefaultTrainer as _DefaultTrainer
from detectron2.engine import TrainerBase, create_ddp_model
from detectron2.engine.hooks import IterationTimer, LRScheduler, PreciseBN
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules

from ..config.yaml import YamlExperiment
from ..data.loader import TrainingBatches
from ..evaluation.early_stopping import EarlyStopping
from ..evaluation.evaluate import evaluate, nest
from ..run.checkpoint import CheckpointCleaner, Checkpointer, finish_interrupted
from ..run.ema import EMA
from ..run.run import Run
from ..run.setup import write_records
from ..run.training_step import MixedPrecision
from ..run.writers import build_writers
from .hooks import build_hooks
from .train_loop import SimpleTrainer, StoppableTrainer

logger = logging.getLogger(__name__)


class DefaultTrainer(StoppableTrainer, _DefaultTrainer):
    """Trains as detectron2's DefaultTrainer does, in safe runs that can stop early.

    Every `build_...` and `test` can be overridden as there. It also runs on a CPU, in several
    processes too, and with mixed precision.

    Args:
        cfg: detectron2's config; keys of the library that it lacks get their defaults.
        run: that the caller has entered; None: training enters one.
    """

    mapper = None  # called as mapper(cfg, is_train=..., ground_truth=...); None: detectron2's

    def __init__(self, cfg, run: Run | None = None):
        TrainerBase.__init__(self)  # DefaultTrainer's own needs GPUs for several processes
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.experiment = experiment = self.experiment_of(cfg)
        cfg = self.cfg = experiment.config
        if not experiment.images_per_epoch:
            experiment.set_epoch_length()
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.ema = EMA(model, cfg.SOLVER.EMA_DECAY)
        if comm.get_world_size() > 1:
            device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
            model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        precision = MixedPrecision(cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED)
        self._trainer = SimpleTrainer(
            model, data_loader, optimizer, precision, cfg.SOLVER.ACCUMULATE, cfg.SEED
        )
        self._trainer.after_backward = self.after_backward  # of the hooks, which detectron2 forgets
        self._enters_run = run is None
        self.run = run or Run(cfg.OUTPUT_DIR)
        self.early_stopping = EarlyStopping(**experiment.early_stopping)
        clean = CheckpointCleaner(
            cfg.OUTPUT_DIR,
            cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP,
            self.early_stopping.metric,
            cfg.TEST.EVAL_IN_LOOP,
        )
        self.checkpointer = Checkpointer(
            model, cfg.OUTPUT_DIR, ema=self.ema, clean=clean, trainer=weakref.proxy(self)
        )
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    @classmethod
    def experiment_of(cls, cfg) -> YamlExperiment:
        """Returns the experiment that a config belongs to."""
        return YamlExperiment.of(cfg, cls.mapper)

    @classmethod
    def build_model(cls, cfg):
        """Builds the model."""
        return cls.experiment_of(cfg).build_model()

    @classmethod
    def build_optimizer(cls, cfg, model):
        """Builds what `SOLVER.OPTIMIZER` says."""
        return cls.experiment_of(cfg).build_optimizer(model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        """Builds the schedule of the learning rate."""
        return cls.experiment_of(cfg).build_lr_scheduler(optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        """Builds the training loader; a resumed run skips what the library's has delivered."""
        return cls.experiment_of(cfg).build_train_loader()

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        """Builds the loader of a test set, with ground truth for the validation loss."""
        return cls.experiment_of(cfg).build_test_loader(dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None) -> DatasetEvaluator:
        """Builds the evaluator of a test set."""
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return cls.experiment_of(cfg).build_evaluator(dataset_name, folder)

    @classmethod
    def test(cls, cfg, model, evaluators=None) -> dict:
        """Evaluates on every test set: {"bbox": {"AP": ...}, ...}, or this by test set.

        Args:
            evaluators: one for each test set; None: from `build_evaluator`.
        """
        return nest(cls._evaluate(cfg, model, evaluators), cfg.DATASETS.TEST)

    @classmethod
    def _evaluate(cls, cfg, model, evaluators=None, quick=False):
        experiment = cls.experiment_of(cfg)
        cfg, names = experiment.config, list(cfg.DATASETS.TEST)
        evaluators = [evaluators] if isinstance(evaluators, DatasetEvaluator) else evaluators
        return evaluate(
            model,
            names,
            lambda name: cls.build_test_loader(cfg, name),
            lambda name, folder: (
                evaluators[names.index(name)]
                if evaluators
                else cls.build_evaluator(cfg, name, *[folder] * quick)
            ),
            cfg.OUTPUT_DIR,
            val_loss=cfg.TEST.VAL_LOSS,
            build_predictor=experiment.build_predictor,
            quick=quick,
        )

    def build_hooks(self):
        """Builds all that happens beside the iterations, in this order."""
        cfg = self.cfg.clone()
        cfg.DATALOADER.NUM_WORKERS = 0
        hooks = [IterationTimer(warmup_iter=1), LRScheduler()]
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            loader, number = self.build_train_loader(cfg), cfg.TEST.PRECISE_BN.NUM_ITER
            hooks.append(PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, number))
        parts = (self.checkpointer, self.ema, self.early_stopping, self.run)
        return hooks + build_hooks(self.experiment, *parts, self.evaluate, self.build_writers)

    def build_writers(self):
        """Builds what writes the logged scalars; called on the main process."""
        return build_writers(self.cfg.OUTPUT_DIR, self.experiment.schedule, self.start_iter)

    def evaluate(self) -> dict[str, float]:
        """Returns the metrics of the model, or of its EMA."""
        self._last_eval_results = self.test(self.cfg, self.ema.model)
        return flatten_results_dict(self._last_eval_results or {})

    def resume_or_load(self, resume=True):
        """Loads `MODEL.WEIGHTS`, or the last checkpoint of the run that is resumed."""
        if not isinstance(self.checkpointer, Checkpointer):  # one of your own
            return super().resume_or_load(resume)
        optimizer, weights = self.optimizer, self.cfg.MODEL.WEIGHTS
        self.start_iter = self.checkpointer.start(weights, resume, optimizer, self.scheduler)

    def train(self):
        """Trains from `start_iter` on.

        Returns:
            the results of the last evaluation, as `test` does.
        """
        with self.run if self._enters_run else contextlib.nullcontext():
            self._train()
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    _last_eval_results: dict | None = None

    def _train(self):
        in_loop = self.cfg.TEST.EVAL_IN_LOOP
        if comm.is_main_process() and self._enters_run:  # otherwise `setup` has done that
            write_records(self.experiment, Path(self.cfg.OUTPUT_DIR))
        if self.early_stopping.should_stop:
            self.run.stop("converged", self.early_stopping.reason)
        if self.run.is_complete(self.start_iter, self.max_iter):
            finish_interrupted(self.cfg.OUTPUT_DIR)
            return self.evaluate() if in_loop else {}
        if in_loop and not self._has_own_evaluation():
            # What is wrong with the test set shows now, not an epoch later.
            self.early_stopping.check(self._evaluate(self.cfg, self.ema.model, quick=True))
        batches = getattr(self.data_loader, "batch_sampler", None)
        if isinstance(batches, TrainingBatches):
            batches.start_iter = self.start_iter
        logger.info("Training from iteration %d to %d", self.start_iter, self.max_iter)
        StoppableTrainer.train(self, self.start_iter, self.max_iter)

    def _has_own_evaluation(self):
        names = ("test", "build_test_loader", "build_evaluator")
        own, ours = type(self), DefaultTrainer
        return any(getattr(own, n).__func__ is not getattr(ours, n).__func__ for n in names)
