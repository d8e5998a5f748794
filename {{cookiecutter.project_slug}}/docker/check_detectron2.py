"""Fails where detectron2 would fail later; run by detectron2.Dockerfile."""

import os

import detectron2._C as operators
import torch
import torchvision
from detectron2 import model_zoo

box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
assert torchvision.ops.nms(box, torch.ones(1), 0.5).tolist() == [0]
model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")

print(f"PyTorch {torch.__version__}, its CUDA: {torch.version.cuda}")
print(f"detectron2's CUDA operators: {operators.has_cuda() and operators.get_cuda_version()}")
assert operators.has_cuda() == (os.environ["FORCE_CUDA"] == "1"), "not what FORCE_CUDA says"
