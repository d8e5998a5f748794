"""Hooks and callbacks of the trainers."""
