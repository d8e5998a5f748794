"""Overrides of a config, for tests."""


def short_run(output, max_iter: int) -> list:
    """A training of so many iterations into the folder `output`."""
    return f"""
        train.max_iter={max_iter} dataloader.train.total_batch_size=2 train.checkpointer.period=2
        train.log_period=1 dataloader.train.num_workers=0 train.eval_period=0
        train.output_dir={output}
    """.split()
