"""Computes predictions and losses of a model for the same images, with little done twice."""

import logging
import random
import zlib
from collections import defaultdict
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from detectron2.utils.logger import log_first_n
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.loader import image_ids, seed_torch

GROUND_TRUTH = {"instances", "sem_seg"}


@contextmanager
def preserved_state(model: nn.Module):
    """Switches to evaluation mode; restores modes, random states and event storage afterwards.

    An evaluation that drew random numbers (even a data loader that starts does) or wrote into the
    storage would change the training that goes on after it.
    """
    modes = {module: module.training for module in model.modules()}
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        # Not iteration 0, at which models with any VIS_PERIOD draw pictures.
        with torch.random.fork_rng(devices), EventStorage(start_iter=1):
            model.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, training in modes.items():
            module.training = training


def is_finite(model: nn.Module) -> bool:
    """Returns whether all weights of a model are numbers."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())


class PredictionsAndLosses:
    """Wraps a model: predicts, and adds up the losses of training for the same images.

    The losses are those of the training mode, with three differences. Random numbers are the same
    at every evaluation. Layers such as batch normalization and dropout are in evaluation mode. Each
    image is alone: the loss of an image in a batch would depend on the other images.

    The backbone runs once for both; so do the heads of dense detectors, RPNs and semantic FPNs,
    and the pooling of box features. What they made of a batch is used again only where their input
    is the same, which keeps the result right for any model: at worst all of it runs twice, and the
    log says so.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._sums = defaultdict(float)
        self._images = 0
        self._parts = list(_parts(model))
        reused = {module for part in self._parts for module in part.modules}
        # What sends images to losses instead of predictions, by its `training`. Not layers, whose
        # statistics and noise are not to change, nor anything whose output is used again.
        self._switches = [
            module
            for module in model.modules()
            if module not in reused
            and not isinstance(module, _BatchNorm)
            and not type(module).__module__.startswith(("torch.", "detectron2.layers."))
        ]
        if not self._parts:
            self._say_that_it_runs_twice()

    def __call__(self, images: list[dict]) -> list[dict]:
        """Returns the model's predictions for a batch with ground truth, and adds up the losses."""
        inputs = [{k: v for k, v in image.items() if k not in GROUND_TRUTH} for image in images]
        try:
            for part in self._parts:
                part.replace()
            predictions = self.model(inputs)
            for index, image in enumerate(images):
                if not GROUND_TRUTH.isdisjoint(image):
                    self._add_losses(index, image)
        finally:
            for part in self._parts:
                part.restore()
        return predictions

    def _add_losses(self, index, image):
        normalizer = vars(self.model).get("loss_normalizer")  # of dense detectors: a moving average
        for part in self._parts:
            part.image = index
        for module in self._switches:
            module.training = True
        seed_torch(zlib.crc32(str(image_ids([image])[0]).encode()))
        try:
            losses = self.model([image])
        except Exception as error:
            if isinstance(error, FloatingPointError) or not is_finite(self.model):
                raise FloatingPointError(
                    f"training diverged: the model cannot be evaluated any more ({error}). Lower the "
                    "learning rate (in proportion to the batch size), warm up for longer, or clip "
                    "the gradients."
                ) from None
            is_empty = not len(image.get("instances", [0]))
            if is_empty and "non-empty list" in str(error):  # of torch.cat, as in PointRend
                _log_once(
                    f"{type(self.model).__name__} has no losses for an image without objects "
                    f"({error}): the validation loss leaves such images out."
                )
                return
            error.add_note(
                f"This was the validation loss of {image['file_name']}. Does its ground truth have "
                "all that training needs? Without validation loss (VAL_LOSS False) none is needed."
            )
            raise
        finally:
            for module in self._switches:
                module.training = False
            vars(self.model).pop("loss_normalizer", None)
            if normalizer is not None:
                self.model.loss_normalizer = normalizer
        for name, loss in losses.items():
            self._sums[name] += loss.item()
        self._images += 1
        if any(part.again for part in self._parts):
            self._say_that_it_runs_twice()

    def _say_that_it_runs_twice(self):
        _log_once(
            f"{type(self.model).__name__} runs its backbone or heads twice for each image of an "
            "evaluation: for predictions and for losses. VAL_LOSS False spares the latter."
        )

    def losses(self) -> dict[str, float]:
        """Returns each loss and `total_loss`, means over the images of all ranks.

        All ranks must call it.

        Empty if no image had ground truth.
        """
        images, sums = 0, defaultdict(float)
        for rank_images, rank_sums in comm.all_gather((self._images, dict(self._sums))):
            images += rank_images
            for name, value in rank_sums.items():
                sums[name] += value
        means = {name: value / images for name, value in sorted(sums.items())}
        return {"total_loss": sum(means.values()), **means} if means else {}


class _Part:
    """A function of the model that remembers, for the losses, what it made of a batch."""

    def __init__(self, owner: nn.Module, name: str):
        self.owner = owner
        self.name = name
        self.modules = set(owner.modules()) if name == "forward" else set()
        self.again = False  # whether it had to run again for the losses

    def replace(self):
        """Takes the function's place, until `restore`."""
        self.own = vars(self.owner).get(self.name)  # a compiled module has one
        self.function = getattr(self.owner, self.name)
        self.image = None  # of the batch; None for predictions, which are of all
        setattr(self.owner, self.name, self)

    def __call__(self, *inputs):
        if self.image is None:
            outputs = self.function(*inputs)
            self.inputs = inputs
            self.outputs = _map(torch.clone, outputs)  # FCOS changes its scores in place
            return outputs
        if _equal(inputs, self._of_image(self.inputs)):
            return self._of_image(self.outputs)
        self.again = True
        return self.function(*inputs)

    def _of_image(self, batch):
        return _map(lambda tensor: tensor[self.image : self.image + 1], batch)

    def restore(self):
        delattr(self.owner, self.name)
        if self.own is not None:
            setattr(self.owner, self.name, self.own)
        self.inputs = self.outputs = None


class _BoxPooler(_Part):
    """The same box by box: the losses sample most of their boxes from those of the predictions."""

    def replace(self):
        super().replace()
        self.calls = []  # a cascade has several

    def __call__(self, features, boxes):
        if self.image is None:
            pooled = self.function(features, boxes)
            self.inputs = features
            by_image = pooled.clone().split([len(boxes_of_image) for boxes_of_image in boxes])
            self.calls.append(list(zip(boxes, by_image)))
            return pooled
        known, pooled = zip(*(call[self.image] for call in self.calls))
        known = torch.cat([boxes_of_call.tensor for boxes_of_call in known])
        if not len(known) or not _equal(features, self._of_image(self.inputs)):
            return self.function(features, boxes)
        (boxes,) = boxes
        same = (boxes.tensor[:, None] == known).all(dim=2).int()  # (boxes, known boxes)
        outputs = torch.cat(pooled)[same.argmax(dim=1)]
        others = ~same.any(dim=1)
        if others.any():
            outputs[others] = self.function(features, [boxes[others]])
        return outputs

    def restore(self):
        super().restore()
        self.calls = []


def _parts(model):
    """The parts that predictions and losses share, whose inputs and outputs are batches."""
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module):
        yield _Part(backbone, "forward")
    if isinstance(model, DenseDetector):
        yield _Part(model.head, "forward")
    if isinstance(getattr(model, "proposal_generator", None), RPN):
        yield _Part(model.proposal_generator.rpn_head, "forward")
    if isinstance(getattr(model, "sem_seg_head", None), SemSegFPNHead):
        yield _Part(model.sem_seg_head, "layers")
    if isinstance(getattr(getattr(model, "roi_heads", None), "box_pooler", None), ROIPooler):
        yield _BoxPooler(model.roi_heads.box_pooler, "forward")


def _map(function, value):
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _map(function, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_map(function, item) for item in value)
    return value


def _equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


def _log_once(message):
    # A warning: less is not heard in the silent evaluation before training, which comes first.
    log_first_n(logging.WARNING, message, name=__name__, key="message")
