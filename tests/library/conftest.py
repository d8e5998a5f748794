"""Tests of the library in place; they need PyTorch and detectron2, and skip themselves without."""
