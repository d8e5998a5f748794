"""Keys of models, optimizers, augmentations and tiles, with the comments that explain them."""

from detectron2.config import CfgNode
from detectron2.projects.deeplab import add_deeplab_config

from ..data.augmentations import check_augmentations
from ..evaluation.tiles import TILES


def add_model_keys(cfg: CfgNode):
    """Adds the keys of models and optimizers: detectron2's for DeepLab, and the library's."""
    add_deeplab_config(cfg)

    # The backbone of MODEL.BACKBONE.NAME build_timm_fpn_backbone, a model of timm under a feature
    # pyramid. MODEL.FPN.IN_FEATURES says which stages (res2 to res5, by their strides 4 to 32),
    # MODEL.BACKBONE.FREEZE_AT how many are not trained, and MODEL.WEIGHTS timm://<name> where the
    # weights come from. MODEL.PIXEL_MEAN and PIXEL_STD follow from the model.
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "convnext_tiny"
    # BatchNorm keeps the statistics of the weights. From scratch, set it to False.
    cfg.MODEL.TIMM.FREEZE_BN = True
    # Stochastic depth: how often the last block is left out in training, the others less often.
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0
    # A memory format that is faster on a GPU with mixed precision.
    cfg.MODEL.TIMM.CHANNELS_LAST = False

    # SGD or AdamW. For AdamW, BASE_LR is about 0.0001 and WEIGHT_DECAY 0.05 or 0.1.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Of AdamW: how slowly its means of gradients, and of their squares, change.
    cfg.SOLVER.BETAS = (0.9, 0.999)
    # A block of the backbone learns with so many times the rate of the next one: pre-trained layers
    # near the image change least. 1 is the same rate everywhere; 0.7 to 0.9 are usual.
    cfg.SOLVER.LAYER_DECAY = 1.0


def add_augmentation_keys(cfg: CfgNode):
    """Adds the keys of augmentations and tiles."""
    # What is done to a training image, in this order. Each entry is a name, or {name: {argument:
    # value}}: a preset (none, light, strong, aerial), or a class of detectron2.data.transforms or
    # of d2_starter.data (CopyPaste, Mosaic, TileCrop). What ResizeShortestEdge is not told it takes
    # from MIN_SIZE_TRAIN and MAX_SIZE_TRAIN. Empty: detectron2's keys CROP, MIN_SIZE_TRAIN,
    # RANDOM_FLIP.
    cfg.INPUT.AUGMENTATIONS = []
    # An object of which a crop or a tile leaves less than this share is no ground truth any more.
    cfg.INPUT.MIN_VISIBLE = 0.0

    # Tiles of large images: d2_starter/evaluation/tiles.py explains each value.
    cfg.TEST.TILES = CfgNode({name.upper(): value for name, value in TILES.items()})


def check_model_values(cfg):
    """
    Raises:
        ValueError: a value that is out of its range.
    """
    check_augmentations(cfg)
    if not 0 < cfg.SOLVER.LAYER_DECAY <= 1:
        raise ValueError(
            f"SOLVER.LAYER_DECAY is {cfg.SOLVER.LAYER_DECAY}. Give a factor from above 0 up to 1, "
            "such as 0.8; 1 is the same learning rate everywhere."
        )
    if cfg.SOLVER.OPTIMIZER not in ("SGD", "AdamW"):
        raise ValueError(f"SOLVER.OPTIMIZER is '{cfg.SOLVER.OPTIMIZER}'. Give SGD or AdamW.")
