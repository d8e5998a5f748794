"""Pictures of predictions beside the ground truth, and of the ground truth in training."""

import os
from collections.abc import Collection

import numpy as np
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.evaluation import inference_context
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import ColorMode, Visualizer
from PIL import Image

from ..data.image import read_image, read_label_map

WIDTH = 640  # of one picture, in pixels; smaller images are enlarged to it
HEIGHT = 960  # the most that a picture of annotations has, in pixels


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


def save_pictures(experiment, model, folder: str):
    """Writes the ground truth and, right of it, the prediction of some test images.

    The images are `experiment.num_pictures`, evenly spread over the first test set.
    """
    name = experiment.test_names[0]
    metadata = MetadataCatalog.get(name)
    records = DatasetCatalog.get(name)
    mapper, predict = experiment.build_mapper(is_train=False), experiment.build_predictor(model)
    chosen = np.linspace(0, len(records) - 1, min(experiment.num_pictures, len(records)), dtype=int)
    predicted = {"segmentation": experiment.uses_masks, "keypoints": experiment.uses_keypoints}
    unpredicted = [key for key, is_predicted in predicted.items() if not is_predicted]
    os.makedirs(folder, exist_ok=True)
    for record in (records[i] for i in chosen):
        with inference_context(model), torch.no_grad():
            (output,) = predict([mapper(record)])
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


def draw_annotations(
    image: np.ndarray, record: dict, metadata: Metadata, classes: Collection[str] | None = None
) -> np.ndarray:
    """Draws what a dataset says about an image: boxes, masks, keypoints, classes of pixels.

    Args:
        image: (H, W, 3) uint8, RGB.
        record: its dataset dict.
        classes: names of those that are drawn; None is all of them.

    Returns:
        (H * s, W * s, 3) uint8, RGB, s so that the picture just fits into `WIDTH` and `HEIGHT`.

    Raises:
        OSError: the file of `sem_seg_file_name` cannot be read.
    """
    visualizer = _AnnotationVisualizer(image, metadata)
    annotations = record.get("annotations")
    if "sem_seg_file_name" in record:
        sem_seg = read_label_map(record["sem_seg_file_name"])
        visualizer.draw_stuff(sem_seg, classes, with_things=annotations is None)
    names = thing_names(metadata, [a["category_id"] for a in annotations or ()])
    drawn = [a for a, name in zip(annotations or (), names) if classes is None or name in classes]
    return visualizer.draw_dataset_dict({"annotations": drawn}).get_image()


def draw_inputs(
    inputs: dict, image_format: str, metadata: Metadata, classes: Collection[str] | None = None
) -> np.ndarray:
    """Draws what a mapper makes of an image and its annotations, the input of a model in training.

    Args:
        inputs: `image`, (C, H, W) uint8, and as far as there are, `instances` with `gt_boxes`,
            `gt_classes`, `gt_masks`, `gt_keypoints`, and `sem_seg`, (H, W).
        image_format: the mapper's, such as "BGR".
        classes: as `draw_annotations`, which also says what is returned.
    """
    image = convert_image_to_rgb(inputs["image"].permute(1, 2, 0), image_format)
    visualizer = _AnnotationVisualizer(image, metadata)
    if "sem_seg" in inputs:
        visualizer.draw_stuff(inputs["sem_seg"].numpy(), classes, "instances" not in inputs)
    if "instances" in inputs:
        visualizer.draw_gt_instances(inputs["instances"], classes)
    return visualizer.output.get_image()


def thing_names(metadata: Metadata, category_ids: list[int]) -> list[str]:
    """Returns the names of classes of objects; their numbers, where a dataset has no names."""
    names = metadata.get("thing_classes")
    return [names[i] if names else str(i) for i in category_ids]


def keypoint_colors(number: int) -> np.ndarray:
    """Returns colors that tell keypoints apart, (number, 3) uint8, RGB."""
    colors = colormap(rgb=True).astype(np.uint8)
    return colors[np.arange(number) % len(colors)]


class _AnnotationVisualizer(Visualizer):
    """Draws so that the image can be judged through it: thin lines, pale areas, small points.

    detectron2's own sizes follow from the image's; these are the same in every picture. All objects
    of a class have the color of the class.
    """

    OPACITY = 0.35
    LINE, TEXT = 1.5, 13  # points, of which there are 72 to an inch of 100 pixels
    RADIUS = 5  # of a keypoint, in pixels of the picture

    def __init__(self, image, metadata):
        scale = min(WIDTH / image.shape[1], HEIGHT / image.shape[0])
        super().__init__(image, metadata, scale, ColorMode.SEGMENTATION)
        self.output.ax.images[0].set_interpolation("antialiased")  # for what is reduced

    def draw_stuff(self, sem_seg, classes, with_things):
        """Args: with_things: also the class "things", which marks where the objects are."""
        names = self.metadata.stuff_classes
        hidden = [
            label
            for label, name in enumerate(names)
            if (classes is not None and name not in classes)
            or (name == "things" and not with_things)
        ]
        no_class = max(len(names), 255)
        sem_seg = np.where(np.isin(sem_seg, hidden), no_class, sem_seg)
        return self.draw_sem_seg(sem_seg, alpha=self.OPACITY)

    def draw_gt_instances(self, instances, classes):
        names = thing_names(self.metadata, instances.gt_classes.tolist())
        drawn = [i for i, name in enumerate(names) if classes is None or name in classes]
        instances = instances[torch.tensor(drawn, dtype=torch.long)]
        fields = instances.get_fields()
        colors = self.metadata.get("thing_colors")
        return self.overlay_instances(
            boxes=fields["gt_boxes"],
            masks=fields.get("gt_masks"),
            keypoints=fields.get("gt_keypoints"),
            labels=[names[i] for i in drawn],
            assigned_colors=colors
            and [np.array(colors[i]) / 255 for i in instances.gt_classes.tolist()],
        )

    def draw_and_connect_keypoints(self, keypoints):
        super().draw_and_connect_keypoints(keypoints)
        for (x, y, visibility), color in zip(keypoints, keypoint_colors(len(keypoints)) / 255):
            if visibility > self.keypoint_threshold:
                self.draw_circle((x, y), color)
        return self.output

    def draw_box(self, *args, **kwargs):
        super().draw_box(*args, **kwargs)
        self.output.ax.patches[-1].set(linewidth=self.LINE, alpha=1)
        return self.output

    def draw_polygon(self, segment, color, edge_color=None, alpha=OPACITY):
        super().draw_polygon(segment, color, edge_color, min(alpha, self.OPACITY))
        self.output.ax.patches[-1].set_linewidth(self.LINE)
        return self.output

    def draw_line(self, *args, **kwargs):
        super().draw_line(*args, **kwargs)
        self.output.ax.lines[-1].set_linewidth(self.LINE)
        return self.output

    def draw_circle(self, circle_coord, color, radius=None):
        super().draw_circle(circle_coord, color, self.RADIUS / self.output.scale)
        self.output.ax.patches[-1].set(edgecolor="white", linewidth=1, zorder=11)  # above text
        return self.output

    def draw_text(self, text, position, **kwargs):
        scale = self.output.scale
        super().draw_text(text, position, **{**kwargs, "font_size": self.TEXT / scale})
        drawn = self.output.ax.texts[-1]
        extent = drawn.get_window_extent(self.output.canvas.get_renderer())  # y upwards
        x, y = drawn.get_position()
        beyond = min(max(0, extent.x1 - self.output.width * scale), extent.x0)
        drawn.set_position((x - beyond / scale, y + min(0, extent.y0) / scale))
        return self.output

    def _jitter(self, color):
        return color
