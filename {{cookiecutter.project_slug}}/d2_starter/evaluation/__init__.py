"""Evaluates models: metrics and validation loss in one pass, early stopping."""
