"""What the experiments beside this file have in common; each of them changes a few lines of it.

The nodes are those of detectron2's own lazy configs. docs/training.md and docs/evaluation.md explain
the keys that are added to `train` and `dataloader`.
"""

import detectron2.data.transforms as T
from d2_starter.evaluation import tiles, tta
from d2_starter.formats.project import Project
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.data import get_detection_dataset_dicts
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from {{ cookiecutter.package_name }}.data.dataset_mapper import Mapper

_data = Project.read(__file__)  # datasets.json, which tools/set_dataset.py writes

train = model_zoo.get_config("common/train.py").train
train.update(
    seed=42,
    cudnn_benchmark=False,
    # In epochs. Each, if it is not None, wins over its neighbour in iterations: max_iter,
    # checkpointer.period and eval_period.
    max_epochs=36,
    eval_period_epochs=1,
    eval_in_loop=True,
    images_per_epoch=0.0,  # set by the library, from the data
    accumulate=1,
    reference_batch_size=0,
    ema_decay=0.0,
    val_loss=True,
    num_pictures=8,
    early_stopping=dict(patience=0, metric="", mode="", min_delta=0.0, warmup_evals=0),
    clip_gradients=dict(enabled=False, clip_type="value", clip_value=1.0, norm_type=2.0),
)
train.checkpointer.update(period_epochs=4, max_to_keep=0)

# For one GPU. With another batch size, scale the learning rate in proportion:
# train.reference_batch_size does that.
optimizer = model_zoo.get_config("common/optim.py").SGD
optimizer.lr = 0.005

# Relative to the length of the training; here the milestones are epochs, and the last is its end.
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[27, 33, 36]),
    warmup_length=1 / 36,
    warmup_factor=0.001,
)

dataloader = dict(
    # The arguments of detectron2's build_detection_train_loader, and a random subset.
    train=dict(
        dataset=L(get_detection_dataset_dicts)(
            names=_data.names("train"),
            filter_empty=True,
        ),
        mapper=L(Mapper)(
            augmentations=[
                L(T.ResizeShortestEdge)(
                    # Short side of the image, in pixels; one of these at random.
                    short_edge_length=_data.sizes["train"],
                    max_size=_data.sizes["max"],
                    sample_style="choice",
                ),
                L(T.RandomFlip)(),
            ],
            image_format="BGR",
            use_masks=True,
            fast_resize=True,
            ignore_label=255,  # follows from the data
        ),
        total_batch_size=4,
        num_workers=4,
        random_subset_ratio=1.0,
        random_subset_seed=-1,
    ),
    # The metadata of the datasets say which evaluators run: d2_starter/evaluation/evaluate.py.
    test=dict(
        dataset=dict(names=_data.names("val")),
        mapper=L(Mapper)(
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=_data.sizes["test"], max_size=_data.sizes["max"]
                )
            ],
            image_format="${dataloader.train.mapper.image_format}",
            use_masks="${dataloader.train.mapper.use_masks}",
            ground_truth=False,
        ),
        batch_size=1,
        num_workers="${dataloader.train.num_workers}",
        random_subset_ratio=1.0,
        random_subset_seed=0,
        # Large images in tiles, and test-time augmentation: docs/augmentation.md explains both, and
        # d2_starter/evaluation/tiles.py and tta.py have the values.
        tiles=tiles.TILES,
        aug=tta.TEST_AUG,
    ),
)
