"""Trains and evaluates detectron2 models: epochs, validation loss, early stopping, safe runs.

This package came with the project's template, and knows nothing of the project: README.md says what
is in it, and what an update does.
"""

import importlib

__version__ = "0.2.0"

# The public names, and where they are. They are imported when they are used: the tools that read
# files need no PyTorch.
_PUBLIC = {
    "CheckpointCleaner": "run.checkpoint",
    "Checkpointer": "run.checkpoint",
    "EMA": "run.ema",
    "EarlyStopping": "evaluation.early_stopping",
    "MixedPrecision": "run.training_step",
    "ProgressBar": "run.writers",
    "Run": "run.run",
    "build_writers": "run.writers",
    "compute_gradients": "run.training_step",
    "diverged": "run.training_step",
    "finish": "report.finish",
    "finish_interrupted": "run.checkpoint",
    "latest_scalars": "run.writers",
    "launch": "run.launch",
    "micro_batches": "run.training_step",
    "seed_step": "run.training_step",
    "setup": "run.setup",
}
__all__ = [*_PUBLIC]  # noqa: PLE0604


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
