"""Pictures of predictions beside the ground truth."""

import os

import numpy as np
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import inference_context
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image

from ..experiment import build_mapper

WIDTH = 640  # of one picture, in pixels; smaller images are enlarged to it


def draw_prediction(
    image: np.ndarray, output: dict, metadata: Metadata, threshold: float = 0.5
) -> np.ndarray:
    """Draws a model's output on its image.

    Args:
        image: (H, W, 3) uint8, RGB.
        output: what a detectron2 model returns for it, `instances`, `panoptic_seg` or `sem_seg`.
        threshold: instances with a lower score are left out.

    Returns:
        (H * s, W * s, 3) uint8, RGB, s so that the picture is at least `WIDTH` wide.
    """
    visualizer = _visualizer(image, metadata)
    if "panoptic_seg" in output:
        segments, infos = output["panoptic_seg"]
        drawn = visualizer.draw_panoptic_seg_predictions(segments.cpu(), infos)
    elif "instances" in output:
        instances = output["instances"].to("cpu")
        drawn = visualizer.draw_instance_predictions(instances[instances.scores > threshold])
    else:
        drawn = visualizer.draw_sem_seg(output["sem_seg"].argmax(dim=0).cpu())
    return drawn.get_image()


def save_pictures(cfg, model, folder: str):
    """Writes the ground truth and, right of it, the prediction of some test images.

    The images are `TEST.NUM_PICTURES`, evenly spread over the first of `DATASETS.TEST`.
    """
    name = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(name)
    records = DatasetCatalog.get(name)
    mapper = build_mapper(cfg, is_train=False)
    chosen = np.linspace(0, len(records) - 1, min(cfg.TEST.NUM_PICTURES, len(records)), dtype=int)
    predicted = {"segmentation": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
    unpredicted = [key for key, is_predicted in predicted.items() if not is_predicted]
    os.makedirs(folder, exist_ok=True)
    for record in (records[i] for i in chosen):
        with inference_context(model), torch.no_grad():
            (output,) = model([mapper(record)])
        image = read_image(record["file_name"], format="RGB")
        for annotation in record.get("annotations", ()):
            for key in unpredicted:
                annotation.pop(key, None)
        truth = _visualizer(image, metadata).draw_dataset_dict(record).get_image()
        gap = np.full_like(truth[:, :8], 255)
        pair = np.hstack([truth, gap, draw_prediction(image, output, metadata)])
        stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
        Image.fromarray(pair).save(os.path.join(folder, f"{stem}.jpg"), quality=95)


def _visualizer(image, metadata):
    scale = max(1, WIDTH / image.shape[1])
    return Visualizer(image, metadata, scale=scale, instance_mode=ColorMode.SEGMENTATION)
