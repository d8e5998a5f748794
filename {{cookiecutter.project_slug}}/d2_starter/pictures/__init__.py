"""Draws predictions, ground truth, and pages of datasets."""
