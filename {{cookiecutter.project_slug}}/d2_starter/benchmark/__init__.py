"""Measures what limits the speed of a training."""
