"""Configs: what an experiment is, read from YAML or from Python."""
