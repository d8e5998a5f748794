"""Uses a trained model: on images, folders, videos, and in programs of one's own."""

from .predictor import Predictor

__all__ = ["Predictor"]
