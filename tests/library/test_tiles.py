"""Tiles: they cover an image, and what is found in them is put together to what is in the image."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2_starter.benchmark import measure
from d2_starter.data.augmentations import Augmenter
from d2_starter.data.sample import Sample
from d2_starter.data.tiles import TileMapper, grid
from d2_starter.doctor import reading
from d2_starter.doctor.annotations import check_sizes
from d2_starter.doctor.findings import Findings
from d2_starter.evaluation.tiles import (
    TILES,
    PlacedMasks,
    TilePredictor,
    check_tiles,
    merge_sem_seg,
)
from d2_starter.pictures.predictions import save_pictures

SIZE = (230, 310)


@pytest.mark.parametrize("size", [SIZE, (100, 120), (40, 500), (101, 121), (99, 300)])
@pytest.mark.parametrize("overlap", [0, 20, 60])
def test_a_grid_covers_the_image_with_the_overlap(size, overlap):
    tiles = grid(size, (100, 120), overlap)
    covered = np.zeros(size, int)
    for x0, y0, x1, y1 in tiles:
        assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]
        assert (y1 - y0, x1 - x0) == (min(100, size[0]), min(120, size[1]))
        covered[y0:y1, x0:x1] += 1
    assert covered.min() == 1
    columns = sorted({tile[0] for tile in tiles})
    assert all(b - a <= 120 - overlap for a, b in zip(columns, columns[1:]))
    assert len(tiles) <= np.prod([np.ceil(max(1, (s - overlap) / (t - overlap))) for s, t in
                                  zip(size, (100, 120))])  # fmt: skip


def objects():
    """Boxes that no two of overlap: (x0, y0, x1, y1), some on the borders of tiles."""
    return np.array(
        [
            [2, 2, 30, 25],
            [85, 40, 125, 60],  # on a border between columns
            [40, 80, 60, 110],  # on a border between rows
            [95, 90, 130, 115],  # on both
            [200, 120, 260, 160],
            [290, 210, 309, 229],
            [150, 5, 290, 75],  # larger than the overlap
        ],
        float,
    )


class Mapper:
    """Reads an image in which each object is a rectangle of its own number."""

    augment = Augmenter([])

    def read(self, record):
        image = np.zeros((*SIZE, 3), np.uint8)
        for number, box in enumerate(objects().astype(int), start=1):
            image[box[1] : box[3], box[0] : box[2]] = number
        annotations = [
            {"category_id": 0, "bbox": box, "number": n} for n, box in enumerate(objects(), start=1)
        ]
        return Sample(image, annotations)

    def to_input(self, record, sample):
        return record | {
            "image": torch.as_tensor(sample.image.transpose(2, 0, 1).copy()),
            "found": sample.annotations,
        }


def perfect(batch):
    """Finds in each input what is to be seen of each object, as one detection with a mask."""
    assert len({tuple(x["image"].shape) for x in batch}) == 1
    outputs = []
    for x in batch:
        values = x["image"][0]
        numbers = [n for n in values.unique().tolist() if n]
        masks = (
            torch.stack([values == n for n in numbers]) if numbers else torch.zeros(0, *SIZE) > 0
        )
        instances = Instances((x["height"], x["width"]))
        corners = [(m.nonzero().min(0).values, m.nonzero().max(0).values + 1) for m in masks]
        boxes = [[low[1], low[0], high[1], high[0]] for low, high in corners]
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        # The smaller the part of an object, the surer this model is.
        areas = instances.pred_boxes.area()
        instances.scores = 0.9 - 0.3 * areas / 10000
        instances.pred_classes = torch.zeros(len(numbers), dtype=torch.int64)
        instances.pred_masks = masks.reshape(-1, x["height"], x["width"])
        keypoints = torch.cat([instances.pred_boxes.get_centers(), instances.scores[:, None]], 1)
        instances.pred_keypoints = keypoints[:, None]
        outputs.append({"instances": instances})
    return outputs


@pytest.mark.parametrize("by", ["box", "mask"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_object_is_found_once_and_in_its_place(by, batch_size):
    mapped = TileMapper(Mapper(), (100, 120), 45)({"file_name": "x", "annotations": []})
    assert (mapped["height"], mapped["width"]) == SIZE and "annotations" not in mapped
    predictor = TilePredictor(perfect, by=by, batch_size=batch_size)
    (output,) = predictor([mapped])
    found = output["instances"]
    assert found.image_size == SIZE and (found.scores[:-1] >= found.scores[1:]).all()
    boxes = found.pred_boxes.tensor.numpy()
    order = [int(np.abs(boxes - box).sum(1).argmin()) for box in objects()]
    np.testing.assert_allclose(boxes[order], objects())
    assert len(boxes) == len(objects()), boxes
    for box, index in zip(objects().astype(int), order):
        mask = found.pred_masks[index].numpy()
        assert mask.shape == SIZE
        assert mask[box[1] : box[3], box[0] : box[2]].all()
        assert mask.sum() == np.prod(box[2:] - box[:2])
        center = found.pred_keypoints[index, 0, :2].numpy()
        np.testing.assert_allclose(center, (box[:2] + box[2:]) / 2)


def test_tiles_have_the_ground_truth_of_the_validation_loss(load):
    tiles = ["TEST.TILES.SIZE", (96, 96), "TEST.TILES.OVERLAP", 32]
    experiment = load("TEST.TILES.ENABLED", True, *tiles)
    (image,) = next(iter(experiment.build_test_loader("shapes_val")))
    assert len(image["tiles"]) == 5 and "annotations" not in image
    assert len(image["tiles"][-1]["instances"]) > 0
    assert all("instances" in tile and "annotations" not in tile for tile in image["tiles"])


def test_pictures_and_benchmark_predict_in_tiles_and_sizes_are_those_in_a_tile(load, tmp_path):
    tiles = ["TEST.TILES.ENABLED", True, "TEST.TILES.SIZE", (64, 64), "TEST.TILES.OVERLAP", 16]
    experiment = load(*tiles, "TEST.NUM_PICTURES", 2, "INPUT.MIN_SIZE_TEST", 128)
    model = experiment.build_model()
    save_pictures(experiment, model, str(tmp_path))
    assert len(list(tmp_path.glob("*.jpg"))) == 2
    images, seconds = measure.evaluation(experiment, model)(1)
    assert images > 0 and seconds > 0
    dataset = reading.read("shapes_val")
    sizes = [_mean_size(dataset, e) for e in (experiment, load("INPUT.MIN_SIZE_TEST", 128))]
    assert sizes[0] == pytest.approx(2 * sizes[1])


def _mean_size(dataset, experiment):
    objects = reading.Objects(dataset)
    is_usable = np.ones(len(objects.boxes), dtype=bool)
    return check_sizes(objects, is_usable, reading.read_model(experiment), Findings()).mean()


def test_without_the_whole_image_what_no_tile_has_whole_stays_in_pieces():
    mapped = TileMapper(Mapper(), (100, 120), 45, whole_image=False)({"file_name": "x"})
    (output,) = TilePredictor(perfect)([mapped])
    boxes = output["instances"].pred_boxes.tensor.numpy()
    largest = objects()[-1]
    assert not (np.abs(boxes - largest).max(1) < 1).any()


def test_different_classes_and_detections_of_one_tile_do_not_suppress_each_other():
    instances = Instances((100, 100))
    instances.pred_boxes = Boxes(
        torch.tensor([[10.0, 10, 30, 30], [10, 10, 30, 31], [11, 10, 30, 30]])
    )
    instances.scores = torch.tensor([0.9, 0.8, 0.7])
    instances.pred_classes = torch.tensor([0, 0, 1])
    places = [(0, 0, 100, 100), (0, 0, 100, 100)]
    merged = TilePredictor(None).merge([instances, instances], places, (100, 100))
    assert sorted(merged.pred_classes.tolist()) == [0, 0, 1]


def test_the_best_detections_are_kept():
    mapped = TileMapper(Mapper(), (100, 120), 45)({"file_name": "x"})
    (output,) = TilePredictor(perfect, max_detections=2)([mapped])
    assert len(output["instances"]) == 2 and len(output["instances"].pred_masks) == 2


def test_label_maps_are_averaged():
    scores = [torch.ones(2, 4, 6), torch.full((2, 4, 6), 3.0)]
    merged = merge_sem_seg(scores, [(0, 0, 6, 4), (4, 0, 10, 4)], (4, 10))
    assert merged[0, 0].tolist() == [1] * 4 + [2] * 2 + [3] * 4


def test_panoptic_segments_are_refused():
    mapped = TileMapper(Mapper(), (100, 120), 45)({"file_name": "x"})
    with pytest.raises(ValueError, match="panoptic_seg.*TEST.TILES.ENABLED"):
        TilePredictor(lambda batch: [{"panoptic_seg": None}] * len(batch))([mapped])


def test_a_mapper_without_the_steps_is_refused():
    with pytest.raises(ValueError, match="read, augment and to_input"):
        TileMapper(lambda record: record, (100, 100), 10)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"overlap": 2000}, "TEST.TILES: .* fewer pixels"),
        ({"nms_by": "boxes"}, "box or mask"),
        ({"nms_thresh": 0.0}, "above 0"),
        ({"sise": 9}, "has no sise, but enabled, size"),
    ],
)
def test_values_are_checked(values, message):
    check_tiles(TILES, "TEST.TILES")
    with pytest.raises(ValueError, match=message):
        check_tiles(TILES | values, "TEST.TILES")


def test_masks_of_tiles_are_indexed_as_a_tensor():
    masks = PlacedMasks(
        [torch.ones(2, 3) > 0] * 3, [(0, 0, 3, 2), (1, 1, 4, 3), (2, 2, 5, 4)], (5, 6)
    )
    whole = torch.stack(list(masks))
    assert whole.shape == (3, 5, 6)
    for index in ([2, 0], torch.tensor([False, True, True]), slice(1, None)):
        assert torch.equal(torch.stack(list(masks[index])), whole[index])
    assert len(masks.to("cpu")) == 3
