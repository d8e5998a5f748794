"""Builds optimizers: detectron2's SGD, or AdamW, with layer-wise decay of the learning rate."""

import re

import torch
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping

HEADS = re.compile(r"fpn_|simfp_|top_block|.*\.residual\.")  # in a backbone, but not of its weights
STEM = re.compile(r"(stem|patch_embed|pos_embed|conv|bn|norm)")
BLOCK = re.compile(r"(.*?\bblocks\.\d+(?:\.\d+)?|[^.]+(?:\.[^.]+)?)")


def build_optimizer(cfg, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Builds the optimizer that SOLVER.OPTIMIZER says, with the learning rates of LAYER_DECAY."""
    solver = cfg.SOLVER
    if solver.OPTIMIZER == "SGD" and solver.LAYER_DECAY == 1:
        return build_sgd(cfg, model)
    params = layer_decay_params(
        model,
        base_lr=solver.BASE_LR,
        layer_decay=solver.LAYER_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    common = {"params": params, "lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    if solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(**common, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    else:
        optimizer = torch.optim.AdamW(**common, betas=tuple(solver.BETAS))
    return maybe_add_gradient_clipping(cfg, optimizer)


def layer_decay_params(
    model: torch.nn.Module, base_lr: float, layer_decay: float = 1.0, **arguments
) -> list[dict]:
    """Returns parameter groups for an optimizer, smaller rates for the backbone's first layers.

    In a lazy config it takes the place of `get_default_optimizer_params`.

    Args:
        layer_decay: see `layer_factors`.
        arguments: others of `get_default_optimizer_params`.
    """
    factors = layer_factors(model, layer_decay)
    return get_default_optimizer_params(
        model,
        base_lr=base_lr,
        lr_factor_func=lambda name: factors.get(name, 1.0),
        overrides={"pos_embed": {"weight_decay": 0.0}},
        **arguments,
    )


def layer_factors(model: torch.nn.Module, layer_decay: float) -> dict[str, float]:
    """Returns what the learning rate of each of the backbone's parameters is multiplied by.

    Each block of the backbone has `layer_decay` times the rate of the next one, and the last block
    has `layer_decay` times the rate of the heads. The stem comes before the first block. For ViTs
    this is detectron2's `get_vit_lr_decay_rate`.
    """
    layers = {}  # of a block, its number
    numbers = {}  # of a parameter, the number of its block
    for name, _ in model.named_parameters():
        inner = re.match(r"backbone\.(?:bottom_up\.|net\.)?(?:model\.)?(.*)", name)
        if not inner or HEADS.match(inner[1]):
            continue
        block = BLOCK.match(inner[1].rpartition(".")[0] or inner[1])[1]
        is_stem = STEM.match(block) and not any(layers.values())
        numbers[name] = layers.setdefault(
            block, 0 if is_stem else max(layers.values(), default=0) + 1
        )
    last = max(layers.values(), default=0) + 1
    return {name: layer_decay ** (last - number) for name, number in numbers.items()}
