"""Adapters: updates of low rank that are trained in the place of a student's weights, and the whole weights that they make.

Everybody but the learner knows whole weights alone.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

WRAPPED = ".base_layer"
"""What peft puts into the name of a layer that has an adapter."""


def add_adapters(backbone: nn.Module, rank: int, seed: int) -> None:
    """Freeze `backbone`, and train W + B A in each layer W of `adapted_layers` (LoRA, arXiv 2106.09685, with alpha = r).

    A is `rank` rows drawn by `seed`, B is zero: the student is what it was. Raises ValueError as `adapted_layers` does.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds, and most learners have no adapters

    names = adapted_layers(backbone, rank)
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules="|".join(re.escape(name) for name in names))
    inject_adapter_in_model(config, backbone)


def adapted_layers(backbone: nn.Module, rank: int) -> list[str]:
    """Return the names of the Linear layers that are to be trained and have more weights than an adapter of `rank` has.

    Raises ValueError when there is none.
    """
    linear = [(name, layer) for name, layer in backbone.named_modules() if isinstance(layer, nn.Linear) and layer.weight.requires_grad]
    names = [name for name, layer in linear if rank * (layer.in_features + layer.out_features) < layer.weight.numel()]
    if not names:
        raise ValueError(f"rl.lora_rank {rank} makes adapters that are larger than any layer: lower it, or train all weights with 0")
    return names


@torch.no_grad()
def whole_weights(backbone: nn.Module) -> dict[str, Tensor]:
    """Return the weights by the names that they have without adapters: W + B A where a layer has one, else the parameters themselves."""
    weights: dict[str, Tensor] = {
        name.replace(WRAPPED, ""): value for name, value in backbone.named_parameters() if ".lora_" not in name
    }
    layers: dict[str, Any] = dict(backbone.named_modules())
    for name in [name.removesuffix(WRAPPED) for name in layers if name.endswith(WRAPPED)]:
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + layers[name].get_delta_weight("default")
    return weights
