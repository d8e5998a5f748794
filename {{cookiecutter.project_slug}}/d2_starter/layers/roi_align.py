"""ROIAlign with a backward pass that is fast on a CPU.

On a CPU, torchvision's backward pass goes from bin to bin and channel to channel in one thread. The
gradient here is the same, but for the order of its sums. docs/speed.md says what that is worth.
"""

import torch
from detectron2.layers import ROIAlign
from torch import nn
from torch.autograd.function import once_differentiable
from torchvision.ops import roi_align


def use_fast_roi_align(model: nn.Module):
    """Puts a `FastROIAlign` in the place of each of detectron2's ROIAlign layers."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is ROIAlign:
                size, scale, ratio = child.output_size, child.spatial_scale, child.sampling_ratio
                setattr(module, name, FastROIAlign(size, scale, ratio, child.aligned))


class FastROIAlign(ROIAlign):
    """detectron2's ROIAlign, forward as it is, for tensors on a CPU."""

    def forward(self, input, rois):
        """Pools features in boxes.

        Args:
            input: (N, C, H, W).
            rois: (R, 5), boxes with the index of their image in front.

        Returns:
            (R, C, *output_size).
        """
        rois = rois.to(input.dtype)
        if not torch.jit.is_scripting() and torch.is_grad_enabled() and input.requires_grad:
            return self._with_gradient(input, rois)
        size, scale = self.output_size, self.spatial_scale
        return roi_align(input, rois, size, scale, self.sampling_ratio, self.aligned)

    @torch.jit.unused  # which TorchScript cannot export, and does not need
    def _with_gradient(self, input, rois):
        size, scale = self.output_size, self.spatial_scale
        return _ROIAlign.apply(input, rois, size, scale, self.sampling_ratio, self.aligned)


class _ROIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, rois, size, scale, sampling_ratio, aligned):
        ctx.save_for_backward(rois)
        ctx.arguments = size, scale, sampling_ratio, aligned
        ctx.shape = input.shape
        return roi_align(input, rois, size, scale, sampling_ratio, aligned)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        """Computes the gradient of the features.

        A bin is a weighted sum of pixels, in all channels with the same weights; so the gradient
        of a pixel is the sum of those bins' gradients, with the same weights.
        """
        (rois,) = ctx.saved_tensors
        if not len(rois):
            return gradient.new_zeros(ctx.shape), None, None, None, None, None
        number, channels, height, width = ctx.shape
        dtype = torch.promote_types(gradient.dtype, torch.float32)  # as torchvision, under autocast
        bins = gradient.to(dtype).permute(0, 2, 3, 1).reshape(-1, channels)
        pixel, bin, weight = _weights(rois.to(dtype), number, height, width, *ctx.arguments)
        pixel, order = pixel.sort()
        starts = torch.searchsorted(pixel, torch.arange(number * height * width))
        result = nn.functional.embedding_bag(
            bin[order], bins, starts, mode="sum", per_sample_weights=weight[order]
        )
        result = result.view(number, height, width, channels).permute(0, 3, 1, 2)
        return result, None, None, None, None, None


def _weights(rois, number, height, width, size, scale, sampling_ratio, aligned):
    """Returns which pixel adds to which bin, and how much.

    Returns:
        three tensors of one length: indices into the N x H x W pixels, indices into the R x P x Q
        bins, and weights.
    """
    left, top, right, bottom = (rois[:, 1:] * scale - (0.5 if aligned else 0)).unbind(1)
    rows, columns = size
    down, y, y_weight = _axis(top, bottom, rows, height, sampling_ratio, aligned)
    across, x, x_weight = _axis(left, right, columns, width, sampling_ratio, aligned)
    y = y + rois[:, 0].long()[:, None, None] * height

    # Bins of one box have `down` x `across` pixels each; all of them, one after the other:
    pixels = (down * across).repeat_interleave(rows * columns)
    bin = torch.arange(len(pixels)).repeat_interleave(pixels)
    inside = torch.arange(len(bin)) - (pixels.cumsum(0) - pixels)[bin]
    box = bin // (rows * columns)
    across = across[box]
    i = bin // columns * y.shape[2] + inside // across
    j = (box * columns + bin % columns) * x.shape[2] + inside % across
    pixel = y.flatten()[i] * width + x.flatten()[j]
    return pixel, bin, y_weight.flatten()[i] * x_weight.flatten()[j]


def _axis(start, end, bins, length, sampling_ratio, aligned):
    """Returns the pixels along one axis that the bins of each box are made of.

    Samples are where torchvision takes them.

    Args:
        start, end: (R,), in pixels.

    Returns:
        (R,) numbers K of pixels that each bin of a box has; (R, bins, at least K) their indices;
        and their weights.
    """
    extent = end - start if aligned else (end - start).clamp(min=1)
    step = extent / bins
    if sampling_ratio > 0:
        number = torch.full_like(start, sampling_ratio)
    else:
        step = step.clamp(min=0)  # a box without extent has no samples
        number = step.ceil()
    number, step = number[:, None, None], step[:, None, None]
    sample = torch.arange(int(number.max()) or 1)
    in_bin = (sample + 0.5) * step / number.clamp(min=1)
    position = start[:, None, None] + torch.arange(bins)[:, None] * step + in_bin
    weight = (sample < number) & (position >= -1) & (position <= length)
    weight = weight / number.clamp(min=1)
    position = position.clamp(0, length - 1)
    before = position.floor()
    second = (position - before) * weight
    before = before.long()
    number = number.flatten().long()
    if sampling_ratio > 0:
        index = torch.cat([before, (before + 1).clamp(max=length - 1)], 2)
        return 2 * number, index, torch.cat([weight - second, second], 2)
    # Samples are at most a pixel apart, so they share pixels.
    first = before[:, :, :1]
    weights = weight.new_zeros(*weight.shape[:2], len(sample) + 1)
    weights.scatter_add_(2, before - first, weight - second)
    weights.scatter_add_(2, before - first + 1, second)
    index = (first + torch.arange(len(sample) + 1)).clamp(max=length - 1)
    return number + 1, index, weights
