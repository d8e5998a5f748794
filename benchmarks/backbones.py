"""Measures Mask R-CNN on backbones: parameters, seconds an iteration, images a second, memory.

On a GPU, with mixed precision in bfloat16, 1024 pixels square (needs timm):
    python benchmarks/backbones.py --amp vitdet_b convnext_tiny
On a CPU:
    python benchmarks/backbones.py --size 256 --batch 1 --iterations 3 convnext_atto resnet18d

Images and objects are made up, weights are random: speed and memory do not depend on them. Run it
with the Python of a rendered project.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "{{cookiecutter.project_slug}}"))

import torch
from detectron2 import model_zoo
from detectron2.config import LazyCall, instantiate
from detectron2.modeling import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from d2_starter.config.optimizer import layer_decay_params
from d2_starter.layers.timm_fpn import TimmBackbone


def build(name: str, size: int, channels_last: bool):
    """Builds Mask R-CNN on ViTDet-B ("vitdet_b") or on a model of timm, for training."""
    if name == "vitdet_b":
        model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
        model.backbone.net.img_size = model.backbone.square_pad = size
        return instantiate(model)
    model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
    features = ["res2", "res3", "res4", "res5"]
    model.backbone = LazyCall(FPN)(
        bottom_up=LazyCall(TimmBackbone)(
            name=name, out_features=features, channels_last=channels_last, freeze_bn=False
        ),
        in_features=features,
        out_channels=256,
        top_block=LazyCall(LastLevelMaxPool)(),
    )
    return instantiate(model)


def make_batch(number: int, size: int, objects: int = 10) -> list[dict]:
    """Makes up images with square objects."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for _ in range(number):
        corners = torch.rand(objects, 2, generator=generator) * size * 0.7
        boxes = torch.cat([corners, corners + size * 0.25], 1).round()
        masks = torch.zeros(objects, size, size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=False):
            mask[y0:y1, x0:x1] = True
        instances = Instances((size, size), gt_boxes=Boxes(boxes), gt_masks=BitMasks(masks))
        instances.gt_classes = torch.randint(80, (objects,), generator=generator)
        image = torch.randint(256, (3, size, size), dtype=torch.uint8, generator=generator)
        batch.append({"image": image, "instances": instances, "height": size, "width": size})
    return batch


def measure(args, name: str) -> list[str]:
    """Trains for some iterations; returns a row of the table."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = build(name, args.size, args.channels_last).to(device).train()
    params = layer_decay_params(model, base_lr=1e-5, layer_decay=0.9, weight_decay_norm=0.0)
    optimizer = torch.optim.AdamW(params, lr=1e-5)
    batch = make_batch(args.batch, args.size)
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    with EventStorage():
        for _ in range(args.warmup + args.iterations):
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=args.amp):
                loss = sum(model(batch).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if is_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    second = statistics.median(seconds[args.warmup :])
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if is_cuda else "-"
    return [name, f"{parameters:.1f} M", f"{second:.3f}", f"{args.batch / second:.2f}", memory]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", help="models of timm, or vitdet_b")
    parser.add_argument("--size", type=int, default=1024, help="of the images; default: 1024")
    parser.add_argument("--batch", type=int, default=4, help="images; default: 4")
    parser.add_argument("--iterations", type=int, default=20, help="measured; default: 20")
    parser.add_argument("--warmup", type=int, default=3, help="not measured; default: 3")
    parser.add_argument("--amp", action="store_true", help="mixed precision, bfloat16")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    print("| Backbone | Parameters | Seconds an iteration | Images a second | Memory |")
    print("|---|---:|---:|---:|---:|")
    for name in args.names:
        print("|", " | ".join(measure(args, name)), "|", flush=True)


if __name__ == "__main__":
    main()
