"""Registers datasets, reads images, and builds loaders."""
