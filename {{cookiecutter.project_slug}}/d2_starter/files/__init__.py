"""Writes files atomically, and says which files a run directory has."""
