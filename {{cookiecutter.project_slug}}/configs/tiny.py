"""The small model of smoke.py on your data, from scratch: a first training, on a laptop CPU too."""

from d2_starter.formats.project import Project

from .smoke import dataloader, lr_multiplier, model, optimizer, train

model.proposal_generator.in_features = ["p3", "p4", "p5", "p6"]
model.proposal_generator.anchor_generator.update(
    sizes=[[16], [32], [64], [128]], strides=[8, 16, 32, 64]
)
_data = Project.read(__file__)
dataloader.train.mapper.use_masks = "masks" in _data.tasks
if not dataloader.train.mapper.use_masks:
    for part in ("mask_in_features", "mask_pooler", "mask_head"):
        model.roi_heads.pop(part)

dataloader.train.dataset.names = _data.names("train")
dataloader.train.mapper.augmentations[0].short_edge_length = [256]
dataloader.train.total_batch_size = 4
dataloader.test.dataset.names = _data.names("val")
dataloader.test.mapper.augmentations[0].short_edge_length = 256
optimizer.lr = 0.02
lr_multiplier.warmup_length = 1 / 12
lr_multiplier.scheduler.milestones = [10, 12]
train.max_epochs = 12
train.eval_period_epochs = 4
train.checkpointer.period_epochs = 4
