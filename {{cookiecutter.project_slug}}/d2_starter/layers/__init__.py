"""Layers for models."""
