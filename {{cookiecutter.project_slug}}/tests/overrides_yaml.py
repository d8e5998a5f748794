"""Overrides of a config, for tests."""


def short_run(output, max_iter: int) -> list:
    """A training of so many iterations into the folder `output`."""
    return f"""
        SOLVER.MAX_ITER {max_iter} SOLVER.IMS_PER_BATCH 2 SOLVER.CHECKPOINT_PERIOD 2 LOG_PERIOD 1
        DATALOADER.NUM_WORKERS 0 TEST.EVAL_PERIOD 0 OUTPUT_DIR {output}
    """.split()
