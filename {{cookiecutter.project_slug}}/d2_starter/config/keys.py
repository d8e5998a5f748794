"""Declares the library's own keys of YAML configs."""

from detectron2.config import CfgNode


def add_starter_config(cfg: CfgNode):
    """Adds the library's keys. A key that is declared nowhere is an error in a config file."""
    # Iterations between two lines of the log, of metrics.json and of TensorBoard. The scalars are
    # smoothed (median) over as many iterations.
    cfg.LOG_PERIOD = 20

    # The schedule in epochs; fractions are possible. A key that is set takes the place of its
    # neighbour in iterations, unless the command line gives that one.
    cfg.SOLVER.MAX_EPOCHS = None
    cfg.SOLVER.WARMUP_EPOCHS = None
    cfg.SOLVER.STEPS_EPOCHS = ()
    cfg.SOLVER.CHECKPOINT_PERIOD_EPOCHS = None
    cfg.TEST.EVAL_PERIOD_EPOCHS = None
    # Gradient accumulation: a batch of IMS_PER_BATCH is computed in so many micro-batches, with the
    # memory of one. Gradients are averaged, and an iteration is still one step of the optimizer.
    # Averages over a batch (batch normalization, the mask loss) are taken over a micro-batch.
    cfg.SOLVER.ACCUMULATE = 1
    # The batch size that BASE_LR is meant for. With another IMS_PER_BATCH the learning rate is
    # scaled in proportion (Goyal et al., 2017), and the log says so; 0: it is always BASE_LR.
    cfg.SOLVER.REFERENCE_IMS_PER_BATCH = 0
    # Decay per iteration of the exponential moving average (EMA) of the weights, such as 0.999. The
    # EMA is evaluated, and saved as the model; checkpoints also have the weights that --resume
    # trains on. 0: no EMA.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Number of the newest checkpoints that are kept; 0 keeps all. Also kept are the best, the last,
    # and those that evaluators work on or have not evaluated yet.
    cfg.SOLVER.CHECKPOINT_MAX_TO_KEEP = 0
    # Images that the training loader delivers in an epoch. Set by the library, from the data.
    cfg.SOLVER.IMAGES_PER_EPOCH = 0.0

    # Resize training images by PyTorch instead of Pillow, in a quarter of the time. Some of a
    # photograph's values are then different, by 1 or 2 of 255: at most sizes fewer than 2 in 100,
    # at some 7. Test images are resized by Pillow, as in all of detectron2's evaluations.
    cfg.INPUT.FAST_RESIZE = True

    # Train on a random share of the images, by detectron2's RandomSubsetTrainingSampler.
    # The seed chooses them; -1 chooses others in each new run.
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0
    cfg.DATALOADER.RANDOM_SUBSET_SEED = -1
    # The same for test sets; here the images are the same at every evaluation.
    cfg.TEST.RANDOM_SUBSET_RATIO = 1.0
    cfg.TEST.RANDOM_SUBSET_SEED = 0

    # Whether the training loop evaluates, every EVAL_PERIOD and at the end. If not, it saves a
    # checkpoint every EVAL_PERIOD instead (or CHECKPOINT_PERIOD, if that is 0), and
    # tools/evaluate_checkpoints.py evaluates those, beside the training or on other machines.
    cfg.TEST.EVAL_IN_LOOP = True
    # Images in a batch of an evaluation, on each GPU. Only images of one size share a batch.
    cfg.TEST.IMS_PER_BATCH = 1
    # Whether an evaluation computes the losses on the test set too, logged as val_loss/...
    cfg.TEST.VAL_LOSS = True
    # Number of test images that are drawn with their predictions when a run ends; 0 draws none.
    cfg.TEST.NUM_PICTURES = 8
    # Whether a run that has evaluated ends with a report, report.html.
    cfg.TEST.REPORT = True
    # Files of corrections of annotations, which a report writes; docs/report.md.
    cfg.DATASETS.FIXES = ()

    # Training stops after so many evaluations in a row without improvement; 0: never.
    cfg.EARLY_STOPPING = CfgNode()
    cfg.EARLY_STOPPING.PATIENCE = 0
    # What improves: a name as in metrics.json. "" is the AP (or PQ, mIoU) of all that the model
    # predicts. The metric also decides which checkpoint is model_best.pth.
    cfg.EARLY_STOPPING.METRIC = ""
    # "max" or "min", whichever is better. "" is derived: "min" for losses, "max" for what
    # detectron2's evaluators measure.
    cfg.EARLY_STOPPING.MODE = ""
    # An improvement is one by more than this, in the metric's own unit: AP goes to 100.
    cfg.EARLY_STOPPING.MIN_DELTA = 0.0
    # Evaluations at the start that early stopping does not look at. With STEPS, think of those
    # before the last step: AP may stand still until the learning rate falls.
    cfg.EARLY_STOPPING.WARMUP_EVALS = 0
