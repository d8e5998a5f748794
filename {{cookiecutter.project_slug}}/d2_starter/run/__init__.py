"""Runs trainings: launch, run directory, checkpoints, EMA, the training step, writers."""
