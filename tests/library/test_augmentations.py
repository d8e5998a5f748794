"""Augmentations: whatever the chain, the image and all its ground truth still agree."""

import numpy as np
import pytest
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image, ImageDraw

from d2_starter.data.augmentations import PRESETS, Augmenter, build_augmentations
from d2_starter.data.mixing import CopyPaste
from d2_starter.data.sample import IGNORED, Sample, area, shift, tight_box, to_mask
from d2_starter.data.tiles import TileCrop

RESIZE = {"short_edge_length": [96, 128], "max_size": 200, "sample_style": "choice"}
FLIP = [0, 2, 1, 3]  # of the keypoints top, left, right, bottom
DOTS = np.array([[250, 250, 0], [250, 0, 250], [0, 250, 250], [250, 250, 250]])
SIZE = (120, 160)
# Any of these in any order; none changes colors, by which the test knows what is where.
GEOMETRIC = [
    "RandomFlip",
    {"RandomFlip": {"horizontal": False, "vertical": True}},
    "ResizeShortestEdge",
    {
        "ResizeScale": {
            "min_scale": 0.5,
            "max_scale": 1.5,
            "target_height": 120,
            "target_width": 150,
        }
    },
    {"FixedSizeCrop": {"crop_size": [110, 130], "pad_value": 0}},
    {"RandomCrop": {"crop_type": "relative_range", "crop_size": [0.6, 0.6]}},
    {"RandomExtent": {"scale_range": [0.7, 1.4], "shift_range": [0.3, 0.3]}},
    {"RandomRotation": {"angle": [-30, 30], "expand": True}},
    {"RandomRotation": {"angle": [-30, 30], "expand": False}},
    {"RandomRotation": {"angle": [0, 90, 180, 270], "sample_style": "choice"}},
    {"MinIoURandomCrop": {"min_ious": [0.1, 0.5]}},
    {"TileCrop": {"size": [90, 100]}},
    {"TileCrop": {"size": [150, 170], "around_object": 0.5}},
    {"PadTransform": {"x0": 5, "y0": 7, "x1": 3, "y1": 2}},
    {"CopyPaste": {"prob": 0.9}},
    {"Mosaic": {"size": [130, 150], "prob": 0.9}},
]


def draw(seed: int, rle: bool):
    """Draws diamonds, each in a blue of its own, with a dot on each keypoint."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", SIZE[::-1])
    labels = Image.new("L", SIZE[::-1], 1)
    annotations = []
    for number in range(rng.integers(1, 4)):
        low = np.array([4 + 52 * number, 8])
        center = low + [22, 0] + rng.uniform([0, 20], [4, 80])
        wide, high = rng.uniform(14, 20), rng.uniform(16, 20)
        points = center + np.array([(0, -high), (-wide, 0), (wide, 0), (0, high)])
        outline = points[[0, 2, 3, 1]]
        ImageDraw.Draw(image).polygon([tuple(p) for p in outline], fill=(0, 0, 60 + 60 * number))
        ImageDraw.Draw(labels).polygon([tuple(p) for p in outline], fill=2 + number)
        keypoints = np.column_stack([points * 0.5 + center * 0.5, np.full(4, 2)])
        for (x, y, _), color in zip(keypoints, DOTS):
            ImageDraw.Draw(image).rectangle(
                [x - 3, y - 3, x + 3, y + 3], fill=tuple(color.tolist())
            )
        segmentation = [outline.ravel()]
        if rle:
            segmentation = to_mask(segmentation, SIZE).astype(np.uint8)
        annotations.append(
            {
                "category_id": number,
                "bbox": tight_box([outline.ravel()]),
                "bbox_mode": BoxMode.XYXY_ABS,
                "segmentation": segmentation,
                "keypoints": keypoints,
            }
        )
    return Sample(np.array(image), annotations, np.array(labels))


def check(sample: Sample):
    height, width = sample.size
    assert sample.sem_seg.shape == sample.size
    assert set(np.unique(sample.sem_seg)) <= {1, 2, 3, 4, IGNORED}
    taken = np.zeros(sample.size, int)
    for a in sample.annotations:
        mask = to_mask(a["segmentation"], sample.size)
        taken += mask
        assert mask.any() or area(a) < 8
        # The box is around the mask.
        x0, y0, x1, y1 = a["bbox"]
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        if mask.sum() > 30:
            assert np.abs(a["bbox"] - tight_box(mask.astype(np.uint8))).max() < 3
        # Inside of the mask is the object, of its blue or a dot. Its class is in the label map.
        inside = erode(mask, 3)
        if inside.sum() > 20:
            red_or_green = sample.image[..., :2].max(-1)
            blue = sample.image[..., 2].astype(int)
            is_margin = (sample.image == 128).all(-1)
            assert ((np.maximum(red_or_green, blue) > 25) & ~is_margin)[inside].mean() > 0.95
            plain = inside & (red_or_green < 5)
            if plain.sum() > 30:
                assert abs(np.median(blue[plain]) - 60 - 60 * a["category_id"]) < 15
            assert (sample.sem_seg[inside] == 2 + a["category_id"]).mean() > 0.95
        # At each keypoint that is visible is the dot of its name.
        for i, (x, y, visible) in enumerate(a["keypoints"]):
            assert 0 <= x <= width and 0 <= y <= height
            if visible == 2 and x < width and y < height and inside[int(y), int(x)]:
                color = sample.image[int(y), int(x)].astype(float)
                likeness = DOTS @ color / np.linalg.norm(DOTS.astype(float), axis=1)
                assert color[:2].max() > 40 and likeness.argmax() == a.get("dots", range(4))[i]
    assert (taken <= 1).mean() > 0.97  # objects do not lie in each other
    # Every object's blue is in a mask; what is not in one was cut to almost nothing.
    is_thing = (sample.sem_seg >= 2) & (sample.sem_seg <= 4)
    assert (is_thing & (taken == 0)).sum() < 0.03 * is_thing.size + 60


def erode(mask, pixels):
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


@pytest.mark.parametrize("rle", [False, True], ids=["polygons", "masks"])
@pytest.mark.parametrize("seed", range(150))
def test_image_masks_boxes_keypoints_and_label_map_agree_after_any_chain(seed, rle):
    rng = np.random.default_rng(seed)
    chain = [GEOMETRIC[i] for i in rng.integers(len(GEOMETRIC), size=rng.integers(1, 6))]
    # Dots are known by their names before mirroring: without exchange, names stay where they are.
    augment = Augmenter(build_augmentations(chain, RESIZE), keypoint_hflip_indices=range(4))
    augment.set_images([{"seed": 1000 + i} for i in range(8)])
    np.random.seed(seed)
    check(augment(draw(seed, rle), lambda record: draw(record["seed"], rle)))


@pytest.mark.parametrize(
    "entry, mirrors",
    [
        ({"RandomFlip": {"prob": 1.0}}, True),
        ({"RandomFlip": {"prob": 1.0, "horizontal": False, "vertical": True}}, True),
        ({"RandomRotation": {"angle": [180, 180]}}, False),
        ({"RandomRotation": {"angle": [30, 30]}}, False),
    ],
)
def test_left_and_right_are_exchanged_by_what_mirrors(entry, mirrors):
    augment = Augmenter(build_augmentations([entry], RESIZE), keypoint_hflip_indices=FLIP)
    sample = augment(draw(3, False), None)
    for a in sample.annotations:
        a["dots"] = FLIP if mirrors else range(4)
    check(sample)


def test_a_mirroring_needs_to_know_which_keypoint_is_which():
    augment = Augmenter(build_augmentations([{"RandomFlip": {"prob": 1.0}}], RESIZE))
    with pytest.raises(ValueError, match="keypoint_flip_map"):
        augment(draw(0, False), None)


@pytest.mark.parametrize("seed", range(5))
def test_the_same_as_detectron2_where_nothing_is_cut(seed):
    sample = draw(seed, False)
    annotations = [
        a | {"segmentation": [p.tolist() for p in a["segmentation"]], "bbox": a["bbox"].tolist()}
        for a in draw(seed, False).annotations
    ]
    chain = [T.ResizeShortestEdge([90, 200], 300, "choice"), T.RandomFlip()]
    np.random.seed(seed)
    result = Augmenter(chain, keypoint_hflip_indices=FLIP)(sample, None)
    np.random.seed(seed)
    image, transforms = T.apply_augmentations(chain, draw(seed, False).image)
    assert (result.image == image).all()
    for ours, theirs in zip(result.annotations, annotations):
        theirs = utils.transform_instance_annotations(
            theirs, transforms, image.shape[:2], keypoint_hflip_indices=FLIP
        )
        np.testing.assert_allclose(ours["bbox"], theirs["bbox"], rtol=1e-6)
        np.testing.assert_array_equal(ours["segmentation"][0], theirs["segmentation"][0])
        np.testing.assert_array_equal(ours["keypoints"], theirs["keypoints"])


def test_what_is_hardly_visible_is_no_ground_truth():
    crop = [{"CropTransform": {"x0": 30, "y0": 0, "w": 130, "h": 120}}]
    sample = draw(5, False)
    areas = [area(a) for a in sample.annotations]
    everything = Augmenter(build_augmentations(crop, RESIZE))(draw(5, False), None).annotations
    shares = [area(a) / areas[a["category_id"]] for a in everything]
    assert min(shares) < 0.5  # or this test shows nothing
    half = Augmenter(build_augmentations(crop, RESIZE), min_visible=0.5)
    kept = half(sample, None).annotations
    assert [a["category_id"] for a in kept] == [
        a["category_id"] for a, share in zip(everything, shares) if share >= 0.5
    ]


def test_copy_paste_leaves_labelled_what_it_covers():
    below, above = draw(1, False), draw(1, False)
    below.annotations, above.annotations = below.annotations[:1], above.annotations[:1]
    np.random.seed(2)
    found = []
    for _ in range(40):
        mixed = CopyPaste(prob=1.0).mix(below, [above])
        found += [k for a in mixed.annotations for k in a["keypoints"][:, 2]]
    assert set(found) == {2.0}  # the same place: the one below is covered wholly, and gone
    above.image, above.annotations = above.image.copy(), [dict(above.annotations[0])]
    shift(above.annotations[0], 12, 0)
    mixed = [CopyPaste(prob=1.0).mix(below, [above]) for _ in range(20)]
    partly = next(m for m in mixed if len(m.annotations) == 2)
    assert {1.0, 2.0} == set(partly.annotations[0]["keypoints"][:, 2])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_and_run(name):
    augment = Augmenter(build_augmentations([name], RESIZE), keypoint_hflip_indices=FLIP)
    for seed in range(10):
        np.random.seed(seed)
        sample = augment(draw(seed, False), None)
        assert min(sample.size) in (96, 128) or name == "aerial"
        assert sample.image.dtype == np.uint8 and sample.sem_seg.shape == sample.size


@pytest.mark.parametrize(
    "entry, message",
    [
        ("RandomFlop", "Did you mean RandomFlip"),
        ("strongg", "Did you mean strong"),
        ({"RandomFlip": {"horizontl": True}}, "Did you mean horizontal"),
        ({"RandomFlip": {"horizontal": False}}, "At least one"),
        ({"RandomRotation": {}}, "lacks angle of RandomRotation"),
        ({"RandomApply": {"tfm_or_aug": "RandomFlipp"}}, "Did you mean RandomFlip"),
        ({"light": {"prob": 0.5}}, "preset 'light' with arguments"),
        ({"RandomFlip": 0.5}, "Give a name"),
        (3, "Give a name"),
    ],
)
def test_mistakes_are_told_before_training(entry, message):
    with pytest.raises(ValueError, match=message):
        build_augmentations([entry], RESIZE)


def test_several_images_come_from_those_of_training():
    augment = Augmenter(build_augmentations([{"Mosaic": {"size": [90, 90], "prob": 1.0}}], RESIZE))
    with pytest.raises(ValueError, match="no images to take others from"):
        augment(draw(0, False), None)
    asked = []

    def read(record):
        asked.append(record["seed"])
        return draw(record["seed"], False)

    augment.set_images([{"seed": 7}])
    augment(draw(0, False), read)
    assert asked == [7, 7, 7]


def test_copy_paste_without_masks_says_what_to_take_instead():
    sample = draw(0, False)
    for a in sample.annotations:
        del a["segmentation"]
    with pytest.raises(ValueError, match="Mosaic"):
        CopyPaste().mix(sample, [sample])


@pytest.mark.parametrize("seed", range(20))
def test_a_tile_has_the_object_whole_if_it_fits(seed):
    np.random.seed(seed)
    image = np.zeros((300, 400, 3), np.uint8)
    box = np.array([[250.0, 200.0, 290.0, 240.0]])
    crop, *_ = TileCrop([100, 120], around_object=1.0).get_transform(image, box).transforms
    assert crop.x0 <= 250 and crop.x0 + crop.w >= 290
    assert crop.y0 <= 200 and crop.y0 + crop.h >= 240
    assert (crop.w, crop.h) == (120, 100)
    assert 0 <= crop.x0 <= 280 and 0 <= crop.y0 <= 200
