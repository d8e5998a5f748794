"""timm backbones, optimizers and test-time augmentation."""

import sys

import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.modeling import FPN, ViT, build_model
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver import build_optimizer as build_plain

from d2_starter.config.model_keys import add_augmentation_keys, add_model_keys, check_model_values
from d2_starter.config.optimizer import build_optimizer, layer_factors
from d2_starter.evaluation.tta import TTAPredictor, build_tta
from d2_starter.layers.timm_fpn import TimmBackbone, pixel_mean, set_timm_pixels

SMALL = "test_resnet"  # a small ResNet of timm's own tests


def small_cfg(*opts, zoo="COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"):
    cfg = get_cfg()
    add_model_keys(cfg)
    add_augmentation_keys(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(zoo))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0, *opts])
    return cfg


def timm_cfg(name, *opts, **zoo):
    backbone = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME", name]
    return small_cfg(*backbone, "MODEL.FPN.OUT_CHANNELS", 32, "INPUT.FORMAT", "RGB", *opts, **zoo)


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18d", "regnety_002", "pvt_v2_b0"])
def test_features_have_the_strides_of_their_names(timm, name):
    backbone = TimmBackbone(name).eval()
    features = backbone(torch.rand(1, 3, 128, 160))
    for feature, shape in backbone.output_shape().items():
        stride = 2 ** int(feature[3:])
        assert shape.stride == stride
        assert features[feature].shape == (1, shape.channels, 128 // stride, 160 // stride)


def test_the_channels_of_a_swin_come_first(timm):
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", ("res4", "res5")).eval()
    features = backbone(torch.rand(1, 3, 160, 96))
    assert features["res4"].shape == (1, 384, 10, 6)


def test_stages_are_frozen_in_their_order(timm):
    numbers = []
    for stages in range(5):
        backbone = TimmBackbone("efficientnet_b0", freeze_at=stages)
        frozen = [n for n, p in backbone.named_parameters() if not p.requires_grad]
        numbers.append(len(frozen))
        if stages == 2:
            assert any("blocks.1." in n for n in frozen)
            assert not any("blocks.2." in n for n in frozen)
    assert numbers[0] == 0 and sorted(set(numbers)) == numbers


def test_frozen_batch_norm_keeps_its_statistics(timm):
    for freeze, changed in ((True, False), (False, True)):
        backbone = TimmBackbone(SMALL, freeze_bn=freeze).train()
        before = {n: b.clone() for n, b in backbone.named_buffers() if "running_mean" in n}
        backbone(torch.rand(2, 3, 64, 64))
        after = dict(backbone.named_buffers())
        assert any(not torch.equal(after[n], b) for n, b in before.items()) == changed


@pytest.mark.parametrize(
    "name, message",
    [("convnext_tinny", "timm has no model"), ("vit_tiny_patch16_224", "one stride only")],
)
def test_models_that_do_not_fit_are_refused_in_words(timm, name, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(name)


def test_timm_is_asked_for_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="uv add timm"):
        TimmBackbone(SMALL)


def test_yaml_and_lazy_build_the_same_model(timm):
    torch.manual_seed(0)
    yaml = build_model(timm_cfg(SMALL)).backbone
    torch.manual_seed(0)
    features = ["res2", "res3", "res4", "res5"]
    lazy = LazyCall(FPN)(
        bottom_up=LazyCall(TimmBackbone)(name=SMALL, out_features=features),
        in_features=features,
        out_channels=32,
        top_block=LazyCall(LastLevelMaxPool)(),
    )
    lazy = instantiate(lazy)
    assert yaml.state_dict().keys() == lazy.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(yaml.parameters(), lazy.parameters()))


def test_retinanet_gets_its_own_last_levels(timm):
    zoo = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    cfg = timm_cfg(SMALL, "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], zoo=zoo)
    assert list(build_model(cfg).backbone.output_shape()) == ["p3", "p4", "p5", "p6", "p7"]


def test_weights_are_those_of_a_file(timm, tmp_path):
    torch.manual_seed(5)
    file = tmp_path / "model.pth"
    torch.save(timm.create_model(SMALL).state_dict(), file)
    expected = timm.create_model(
        SMALL, features_only=True, pretrained=True, pretrained_cfg_overlay={"file": str(file)}
    ).state_dict()
    model = build_model(timm_cfg(SMALL))
    DetectionCheckpointer(model).load(f"timm://{SMALL}{file}")
    found = model.backbone.bottom_up.model.state_dict()
    assert all(torch.equal(found[n], value) for n, value in expected.items() if n in found)
    assert sum(n in found for n in expected) > 20


def test_a_missing_weights_file_is_named(timm):
    with pytest.raises(FileNotFoundError, match="/nowhere/model.pth"):
        DetectionCheckpointer(torch.nn.Linear(1, 1)).load(f"timm://{SMALL}/nowhere/model.pth")


def test_pixels_follow_from_the_model(timm):
    cfg = timm_cfg("convnext_tiny")
    set_timm_pixels(cfg, get_cfg())
    np.testing.assert_allclose(cfg.MODEL.PIXEL_MEAN, [123.675, 116.28, 103.53])
    np.testing.assert_allclose(cfg.MODEL.PIXEL_STD, [58.395, 57.12, 57.375])
    assert pixel_mean("convnext_tiny", "BGR") == cfg.MODEL.PIXEL_MEAN[::-1]
    cfg = timm_cfg("convnext_tiny", "MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0])
    set_timm_pixels(cfg, get_cfg())
    assert cfg.MODEL.PIXEL_MEAN == [1.0, 2.0, 3.0]
    cfg = timm_cfg("convnext_tiny", "MODEL.WEIGHTS", "timm://convnext_tiny", "INPUT.FORMAT", "BGR")
    with pytest.raises(ValueError, match="RGB"):
        set_timm_pixels(cfg, get_cfg())


def test_layer_wise_decay_is_detectron2s_for_vits():
    model = torch.nn.Module()
    model.backbone = torch.nn.Module()
    model.backbone.net = ViT(embed_dim=16, depth=4, num_heads=2, residual_block_indexes=[3])
    model.head = torch.nn.Linear(2, 2)
    factors = layer_factors(model, 0.7)
    for name, _ in model.named_parameters():
        expected = get_vit_lr_decay_rate(name, 0.7, num_layers=4)
        assert factors.get(name, 1.0) == pytest.approx(expected), name


@pytest.mark.parametrize(
    "name, blocks", [("convnext_atto", 15), ("resnet18d", 8), ("efficientnet_b0", 16)]
)
def test_every_block_has_a_rate_of_its_own(timm, name, blocks):
    model = build_model(timm_cfg(name))
    factors = layer_factors(model, 0.5)
    assert min(factors.values()) == 0.5 ** (blocks + 1) and max(factors.values()) == 0.5
    rates = [g["lr"] for g in build_optimizer(
        timm_cfg(name, "SOLVER.OPTIMIZER", "AdamW", "SOLVER.LAYER_DECAY", 0.5), model
    ).param_groups]  # fmt: skip
    assert len(set(rates)) == blocks + 2


def test_sgd_is_detectron2s():
    cfg = small_cfg()
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    ours, theirs = build_optimizer(cfg, model), build_plain(cfg, model)
    assert type(ours) is type(theirs) and ours.defaults == theirs.defaults


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("SOLVER.OPTIMIZER", "Adam", "SGD or AdamW"),
        ("SOLVER.LAYER_DECAY", 0.0, "above 0 up to 1"),
        ("INPUT.AUGMENTATIONS", ["lightt"], "Did you mean light"),
        ("INPUT.AUGMENTATIONS", [{"RandomRotation": {"angle": "x"}}], "RandomRotation"),
        ("INPUT.MIN_VISIBLE", 1.0, "below 1"),
    ],
)
def test_values_are_checked(key, value, message):
    cfg = small_cfg(key, value)
    with pytest.raises(ValueError, match=message):
        check_model_values(cfg)


@pytest.fixture(scope="module")
def rcnn():
    torch.manual_seed(0)
    opts = [
        "MODEL.FPN.OUT_CHANNELS",
        32,
        "MODEL.ROI_BOX_HEAD.FC_DIM",
        32,
        "MODEL.RESNETS.DEPTH",
        18,
    ]
    opts += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.ROI_HEADS.NUM_CLASSES", 3]
    opts += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RESNETS.NORM", "BN"]
    cfg = small_cfg(*opts, "TEST.DETECTIONS_PER_IMAGE", 7)
    return cfg, build_model(cfg).eval()


def test_tta_is_detectron2s_with_the_same_keys(rcnn):
    from detectron2.modeling import GeneralizedRCNNWithTTA

    cfg, model = rcnn
    cfg = cfg.clone()
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = (64, 96), 200
    image = {
        "image": torch.randint(255, (3, 80, 100), dtype=torch.uint8),
        "height": 160,
        "width": 200,
    }
    seen = []

    def predict(images):
        seen.append(len(images))

    with torch.no_grad():
        theirs = GeneralizedRCNNWithTTA(cfg, model)([image])[0]["instances"]
        ours = TTAPredictor(build_tta(model, [64, 96], 200), predict, model)([image])[0][
            "instances"
        ]
    assert len(ours) == 7 and seen == [1]
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert torch.equal(ours.pred_masks, theirs.pred_masks)


@pytest.mark.parametrize(
    "zoo, message",
    [
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "not for RetinaNet"),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", "not for keypoints"),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", "not for PanopticFPN"),
    ],
)
def test_what_tta_cannot_do_is_said(zoo, message):
    with pytest.raises(ValueError, match=message):
        build_tta(build_model(small_cfg(zoo=zoo)), [64], 100)
