"""A model as a graph of tensors: one image in, tensors out; and what is done outside of it."""

from collections.abc import Callable

import numpy as np
import torch
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.modeling import GeneralizedRCNN, PanopticFPN, SemanticSegmentor
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.modeling.roi_heads import keypoint_head
from detectron2.structures import Boxes, Instances
from detectron2.structures.keypoints import heatmaps_to_keypoints
from torch import nn

# Names of the graph's outputs, and of the fields of detectron2's Instances.
FIELDS = {
    "boxes": "pred_boxes",  # (N, 4) left, top, right, bottom, in pixels of the graph's input
    "scores": "scores",  # (N,)
    "classes": "pred_classes",  # (N,) int64
    "masks": "pred_masks",  # (N, S, S) probabilities in the box
    "heatmaps": "pred_keypoint_heatmaps",  # (N, K, S, S) scores of each keypoint in the box
}
KINDS = (PanopticFPN, GeneralizedRCNN, DenseDetector, SemanticSegmentor)


class Graph(nn.Module):
    """The part of a model that can be exported.

    What is left out has loops over objects or depends on the size of the original image: boxes are
    scaled, masks pasted, heatmaps read and segments combined by `Outside`.

    Attributes:
        names: of the outputs; set by the first call.
    """

    def __init__(self, model: nn.Module):
        """
        Raises:
            ValueError: a model of a kind that is not known here.
        """
        super().__init__()
        if not isinstance(model, KINDS):
            known = ", ".join(kind.__name__ for kind in KINDS)
            raise ValueError(
                f"{type(model).__name__} cannot be exported: known are {known}, and classes that "
                "are made of them. Write what its graph is in export/graph.py."
            )
        self.model = model
        self.names: list[str] = []

    def forward(self, image: torch.Tensor):
        """Args: image: (3, H, W) uint8 or float, resized, channels in the order of the model."""
        model, inputs = self.model, [{"image": image}]
        found = sem_seg = None
        with torch.no_grad(), patch_builtin_len(), _keypoints_left_out():
            if isinstance(model, PanopticFPN):
                (found,), sem_seg = model.inference(inputs, do_postprocess=False)
            elif isinstance(model, GeneralizedRCNN):
                (found,) = model.inference(inputs, do_postprocess=False)
            elif isinstance(model, DenseDetector):
                images = model.preprocess_image(inputs)
                features = model.backbone(images.tensor)
                features = [features[name] for name in model.head_in_features]
                (found,) = model.forward_inference(images, features, model.head(features))
            else:
                mean, std = model.pixel_mean, model.pixel_std
                sem_seg = _semantic(model, (image.to(mean.device) - mean) / std)
        outputs = {}
        if found is not None:
            fields = found.get_fields()
            outputs = {name: fields[key] for name, key in FIELDS.items() if key in fields}
            outputs["boxes"] = outputs["boxes"].tensor
            if "masks" in outputs:
                outputs["masks"] = outputs["masks"][:, 0]
        if sem_seg is not None:
            outputs["sem_seg"] = sem_seg[0][:, : image.shape[1], : image.shape[2]]  # (C, H, W)
        self.names = list(outputs)
        return tuple(outputs.values())


class Outside(nn.Module):
    """A graph, in whatever format, in the place of detectron2's model: for the same evaluation.

    It has no losses: in training mode it returns none.
    """

    def __init__(self, model: nn.Module, run: Callable[[torch.Tensor], dict[str, np.ndarray]]):
        """
        Args:
            model: that the graph was made of; its settings of panoptic segments are read.
            run: calls the graph.
        """
        super().__init__()
        self.run = run
        self.combine = isinstance(model, PanopticFPN) and (
            model.combine_overlap_thresh,
            model.combine_stuff_area_thresh,
            model.combine_instances_score_thresh,
        )

    def forward(self, inputs: list[dict]):
        return {} if self.training else [self._predict(image) for image in inputs]

    def _predict(self, record):
        image = record["image"]
        size = tuple(image.shape[1:])
        height, width = record.get("height", size[0]), record.get("width", size[1])
        outputs = {name: torch.as_tensor(value) for name, value in self.run(image).items()}
        result = {}
        if "sem_seg" in outputs:
            sem_seg = outputs.pop("sem_seg").float()
            result["sem_seg"] = sem_seg_postprocess(sem_seg, size, height, width)
        if outputs:
            found = Instances(size)
            found.pred_boxes = Boxes(outputs["boxes"].float())
            found.scores, found.pred_classes = outputs["scores"].float(), outputs["classes"]
            if "masks" in outputs:
                found.pred_masks = outputs["masks"].float()[:, None]
            if "heatmaps" in outputs:
                points = heatmaps_to_keypoints(outputs["heatmaps"].float(), found.pred_boxes.tensor)
                found.pred_keypoints = points[:, :, [0, 1, 3]]
            result["instances"] = detector_postprocess(found, height, width)
        if self.combine:
            best = result["sem_seg"].argmax(dim=0)
            result["panoptic_seg"] = combine_semantic_and_instance_outputs(
                result["instances"], best, *self.combine
            )
        return result


class Half(nn.Module):
    """A part of a model in half precision, between parts in single precision."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part.half()
        for name in ("size_divisibility", "padding_constraints", "output_shape"):
            if hasattr(part, name):
                setattr(self, name, getattr(part, name))

    def forward(self, *inputs):
        outputs = self.part(*[x.half() for x in inputs])
        if isinstance(outputs, dict):
            return {name: value.float() for name, value in outputs.items()}
        return outputs.float()


def halve(model: nn.Module):
    """Puts backbone and box head, most of a model's weights, into half precision."""
    model.backbone = Half(model.backbone)
    heads = getattr(model, "roi_heads", None)
    if isinstance(getattr(heads, "box_head", None), nn.Module) and not isinstance(
        heads.box_head, nn.ModuleList
    ):
        heads.box_head = Half(heads.box_head)


def _semantic(model, image):
    from detectron2.structures import ImageList

    backbone = model.backbone
    constraints = backbone.padding_constraints
    images = ImageList.from_tensors(
        [image], backbone.size_divisibility, padding_constraints=constraints
    )
    return model.sem_seg_head(backbone(images.tensor), None)[0]


class _keypoints_left_out:
    """While a graph is made, heatmaps are not read: there is a loop over objects in that."""

    def __enter__(self):
        self.own = keypoint_head.heatmaps_to_keypoints
        keypoint_head.heatmaps_to_keypoints = lambda maps, rois: maps.new_zeros(*maps.shape[:2], 4)

    def __exit__(self, *_):
        keypoint_head.heatmaps_to_keypoints = self.own
