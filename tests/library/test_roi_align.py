"""The ROIAlign of training on a CPU: torchvision's output and gradient."""

import pytest
import torch
from detectron2.layers import ROIAlign
from torchvision.ops import roi_align

from d2_starter.layers.roi_align import FastROIAlign

SIZE, SCALE = (3, 5), 0.25
# Of features of 11 x 17 pixels, so of images of 44 x 68, with the index of the image in front.
BOXES = [
    [0, 3, 2, 40.5, 30],
    [1, 0, 0, 68, 44],
    [1, 20, 9, 27, 13],  # smaller than a pixel of the features, in one direction
    [0, -30, -20, 90, 60],  # past all edges
    [1, 50, 30, 200, 31],
    [0, 300, 300, 320, 330],  # outside
    [1, 12, 12, 12, 12],  # without extent
    [0, 30, 25, 10, 40],  # the wrong way round; of such torchvision takes none if it is to choose
]  # the number of samples, and aligned


def both(features, boxes, sampling_ratio, aligned):
    """Output and gradient of ours, and of torchvision's."""
    weights = torch.randn(len(boxes), features.shape[1], *SIZE)
    arguments = SIZE, SCALE, sampling_ratio, aligned
    for align in (FastROIAlign(*arguments), lambda f, b: roi_align(f, b.to(f.dtype), *arguments)):
        leaf = features.clone().requires_grad_()
        output = align(leaf, boxes)
        (output * weights).sum().backward()
        yield output, leaf.grad


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("boxes", [BOXES, BOXES[:1], BOXES[5:], []])
def test_same_gradient(boxes, sampling_ratio, aligned):
    torch.manual_seed(0)
    if aligned and not sampling_ratio:
        boxes = [box for box in boxes if box != BOXES[-1]]
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
    features = torch.randn(2, 3, 11, 17)
    (output, gradient), (expected, wanted) = both(features, boxes, sampling_ratio, aligned)
    assert torch.equal(output, expected)
    assert torch.allclose(gradient, wanted, rtol=1e-5, atol=1e-5)
    if len(boxes) > 3:
        assert wanted.abs().sum() > 1


def test_same_gradient_in_mixed_precision():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 11, 17, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = both(features, torch.tensor(BOXES[:-1]), 0, True)
    assert ours[0].dtype == theirs[0].dtype and ours[1].dtype == theirs[1].dtype
    assert torch.equal(ours[0], theirs[0])
    assert torch.allclose(ours[1], theirs[1], rtol=0.02, atol=0.02)


def test_it_can_be_exported():
    align = FastROIAlign(SIZE, SCALE, 2, True)
    inputs = torch.randn(2, 3, 11, 17), torch.tensor(BOXES)
    expected = roi_align(*inputs, SIZE, SCALE, 2, True)
    assert torch.equal(torch.jit.script(align)(*inputs), expected)
    assert torch.equal(torch.jit.trace(align, inputs)(*inputs), expected)
    assert torch.equal(torch.export.export(align, inputs).module()(*inputs), expected)


def test_model_on_a_cpu_has_it(load):
    """With the size, scale, sampling and alignment that the config gives it."""
    kinds = [type(module) for module in load().build_model().modules()]
    assert ROIAlign not in kinds and kinds.count(FastROIAlign) >= 4

    head = "MODEL.ROI_BOX_HEAD.POOLER"
    keys = [f"{head}_RESOLUTION", 5, f"{head}_SAMPLING_RATIO", 3, f"{head}_TYPE", "ROIAlign"]
    (first, *_) = load(*keys).build_model().roi_heads.box_pooler.level_poolers
    assert (first.output_size, first.sampling_ratio, first.aligned) == ((5, 5), 3, False)
    assert first.spatial_scale == 1 / 4
