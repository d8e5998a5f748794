"""Command lines for projects with YAML configs, in the words of those with Python configs."""

import re

KEYS = {
    "DATALOADER.NUM_WORKERS": ["dataloader.train.num_workers"],
    "DATALOADER.RANDOM_SUBSET_RATIO": ["dataloader.train.random_subset_ratio"],
    "EARLY_STOPPING.METRIC": ["train.early_stopping.metric"],
    "EARLY_STOPPING.MIN_DELTA": ["train.early_stopping.min_delta"],
    "EARLY_STOPPING.PATIENCE": ["train.early_stopping.patience"],
    "DATALOADER.RANDOM_SUBSET_SEED": ["dataloader.train.random_subset_seed"],
    "INPUT.FAST_RESIZE": ["dataloader.train.mapper.fast_resize"],
    "INPUT.MIN_SIZE_TEST": ["dataloader.test.mapper.augmentations.0.short_edge_length"],
    "INPUT.MIN_SIZE_TRAIN": ["dataloader.train.mapper.augmentations.0.short_edge_length"],
    "LOG_PERIOD": ["train.log_period"],
    "MODEL.DEVICE": ["train.device"],
    "MODEL.RESNETS.NORM": [
        "model.backbone.bottom_up.stem.norm",
        "model.backbone.bottom_up.stages.norm",
    ],
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": ["model.roi_heads.box_predictor.test_score_thresh"],
    "MODEL.WEIGHTS": ["train.init_checkpoint"],
    "OUTPUT_DIR": ["train.output_dir"],
    "SEED": ["train.seed"],
    "SOLVER.ACCUMULATE": ["train.accumulate"],
    "SOLVER.BASE_LR": ["optimizer.lr"],
    "SOLVER.CHECKPOINT_MAX_TO_KEEP": ["train.checkpointer.max_to_keep"],
    "SOLVER.CHECKPOINT_PERIOD": ["train.checkpointer.period"],
    "SOLVER.CHECKPOINT_PERIOD_EPOCHS": ["train.checkpointer.period_epochs"],
    "SOLVER.EMA_DECAY": ["train.ema_decay"],
    "SOLVER.IMS_PER_BATCH": ["dataloader.train.total_batch_size"],
    "SOLVER.MAX_EPOCHS": ["train.max_epochs"],
    "SOLVER.MAX_ITER": ["train.max_iter"],
    "SOLVER.REFERENCE_IMS_PER_BATCH": ["train.reference_batch_size"],
    "SOLVER.WARMUP_FACTOR": ["lr_multiplier.warmup_factor"],
    "TEST.DETECTIONS_PER_IMAGE": ["model.roi_heads.box_predictor.test_topk_per_image"],
    "TEST.EVAL_IN_LOOP": ["train.eval_in_loop"],
    "TEST.EVAL_PERIOD": ["train.eval_period"],
    "TEST.EVAL_PERIOD_EPOCHS": ["train.eval_period_epochs"],
    "TEST.IMS_PER_BATCH": ["dataloader.test.batch_size"],
    "TEST.NUM_PICTURES": ["train.num_pictures"],
    "TEST.REPORT": ["train.report"],
    "TEST.RANDOM_SUBSET_RATIO": ["dataloader.test.random_subset_ratio"],
}


def translate(arguments: tuple) -> list[str]:
    """`--config-file configs/a.yaml SOLVER.MAX_ITER 9` as `configs/a.py train.max_iter=9`.

    What is said in the words of Python configs stays.
    """
    arguments = [str(argument) for argument in arguments]
    words = [a for a in arguments if re.match(r"[a-z_.0-9]+=", a)]
    arguments = [a for a in arguments if a not in words]
    first = next((i for i, a in enumerate(arguments) if a.split(".")[0].isupper()), None)
    if first is None and arguments and arguments[-1].isupper():
        first = len(arguments) - 1
    options, overrides = arguments[:first], arguments[first:] if first is not None else []
    options = [option.replace(".yaml", ".py") for option in options]
    given = dict(zip(overrides[::2], overrides[1::2], strict=True))
    for key, value in given.items():
        value = value.replace(",)", "]").replace("(", "[").replace(")", "]")
        words += [f"{name}={value}" for name in KEYS.get(key, [])]
    assert given.keys() <= KEYS.keys() | SCHEDULE, given.keys() - KEYS.keys() - SCHEDULE
    return options + words + _schedule(given)


SCHEDULE = {
    f"SOLVER.{key}" for key in ("GAMMA", "STEPS", "STEPS_EPOCHS", "WARMUP_EPOCHS", "WARMUP_ITERS")
}


def _schedule(given):
    """Steps and warm-up are relative to the end there."""
    for end, steps, warmup in (
        ("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS"),
        ("SOLVER.MAX_EPOCHS", "SOLVER.STEPS_EPOCHS", "SOLVER.WARMUP_EPOCHS"),
    ):
        if {end, steps, warmup} <= given.keys():
            ends = [float(step) for step in given[steps].strip("(),").split(",") if step]
            ends.append(float(given[end]))
            gamma = float(given.get("SOLVER.GAMMA", 0.1))
            return [
                f"lr_multiplier.scheduler.milestones={[round(1000 * end) for end in ends]}",
                f"lr_multiplier.scheduler.values={[gamma**i for i in range(len(ends))]}",
                f"lr_multiplier.warmup_length={float(given[warmup]) / ends[-1]}",
            ]
    return []
