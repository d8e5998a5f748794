"""Evaluates checkpoints asynchronously: beside a training, in other processes or machines."""
