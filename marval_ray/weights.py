"""Weights of models: written as safetensors with a JSON config, fitted into modules, averaged (EMA)."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from marval_ray.config import ModelConfig
from marval_ray.files.atomic import atomic_path, write_json
from marval_ray.files.tensors import StateDict, read_state
from marval_ray.files.text import read_json
from marval_ray.models.mar import MAR


class EMA:
    """Exponential moving average of parameters, in float32, with the decay min(decay, (1 + n) / (1 + c + n)) in update n.

    c, the warm start, keeps the first weights from holding a run back: the average goes back over a c-th of the updates so
    far, until that is as far as `decay` goes. 1 is the mean of all weights, the first ones twice; 0 has `decay` from the start.
    """

    def __init__(self, parameters: StateDict, decay: float, warm_start: int = 9):
        self.decay, self.warm_start = decay, warm_start
        self.updates = 0
        self.shadow = {name: value.detach().float().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: StateDict) -> None:
        self.updates += 1
        decay = self.decay_at(self.updates)
        shadow = list(self.shadow.values())
        live = [parameters[name].detach().float() for name in self.shadow]
        torch._foreach_lerp_(shadow, live, 1 - decay)

    def decay_at(self, update: int) -> float:
        """The decay in update number `update`, from 1. `decay` is reached at c decay / (1 - decay) - 1."""
        return min(self.decay, (1 + update) / (1 + self.warm_start + update))

    @staticmethod
    def warm_start_of(steps: int, decay: float) -> int:
        """c for a run of `steps` updates: 9, or 1 where the run is so long that `decay` alone would leave its first weights
        less than a thousandth of the average. 9 would keep `decay` from such a run for most of it, or to its end."""
        return 9 if decay**steps > 1e-3 else 1

    def state_dict(self) -> dict[str, object]:
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        for name, value in state["shadow"].items():
            self.shadow[name].copy_(value)


def save_model(folder: Path, name: str, state: StateDict, config: ModelConfig, dtype: torch.dtype) -> None:
    """Write `folder/name.safetensors` and `folder/config.json`, enough to rebuild the model."""
    write_json(folder / "config.json", {"model": asdict(config)})
    save_weights(folder / f"{name}.safetensors", state, dtype)


def save_weights(path: Path, state: StateDict, dtype: torch.dtype) -> None:
    """Write the tensors of `state` as safetensors, cast to `dtype`."""
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def read_config(folder: Path) -> ModelConfig:
    """The model config beside a checkpoint. Raises ValueError when it is missing or has other fields."""
    path = folder / "config.json"
    if not path.exists():
        raise ValueError(f"{path} is missing: a checkpoint folder holds config.json beside its safetensors file")
    try:
        return ModelConfig(**read_json(path)["model"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a model config: {error}") from error


def load_model(path: Path, config: ModelConfig | None = None) -> MAR:
    """A MAR in float32 from a safetensors or published `.pth` file; without `config`, config.json beside it counts."""
    return build_model(config or read_config(path.parent), read_state(path), path)


def build_model(config: ModelConfig, state: StateDict, source: Path | str) -> MAR:
    """A MAR in float32 with the weights `state`, which come from `source`."""
    model = MAR(config)
    load_strictly(model, state, source)
    return model


def load_strictly(model: nn.Module, state: StateDict, source: Path | str) -> None:
    """Copy `state` into `model`, cast to its dtype. Raises ValueError as `check_fit` does."""
    check_fit(model.state_dict(), state, source)
    model.load_state_dict(state)


def check_fit(own: StateDict, state: StateDict, source: Path | str) -> None:
    """Raise ValueError unless `state` has the names and shapes of the model's `own`, and finite numbers."""
    misshapen = [
        (name, state[name].shape, own[name].shape)
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    report = {"missing_keys": own.keys() - state.keys(), "unexpected_keys": state.keys() - own.keys(), "mismatched_keys": misshapen}
    check_report(report, source)
    check_finite(state, source)


def check_report(report: Mapping[str, Any], source: Path | str) -> None:
    """Raise ValueError unless all fitted, by the loading report of diffusers' and transformers' `from_pretrained`.

    They only warn, and give random values to what is missing.
    """
    problems = [f"{kind} {_some(report[f'{kind}_keys'])}" for kind in ("missing", "unexpected") if report[f"{kind}_keys"]]
    misshapen = list(report["mismatched_keys"])[:3]
    problems += [f"{name} is {tuple(found)}, the model needs {tuple(needed)}" for name, found, needed in misshapen]
    if problems:
        raise ValueError(f"{source} does not fit the model: {'; '.join(problems)}")


def check_finite(state: StateDict, source: Path | str) -> None:
    """Raise ValueError naming the tensor when one holds NaN or an infinite number."""
    for name, value in state.items():
        # The extremes are NaN if any value is, and take a hundredth of the time of isfinite().all().
        if value.is_floating_point() and value.numel() and not torch.stack(value.aminmax()).isfinite().all():
            broken = (~value.isfinite()).sum()
            raise ValueError(f"{source}: {broken} of the {value.numel()} numbers of {name} are NaN or infinite")


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    shown = ", ".join(first[:4])
    return shown if len(first) <= 4 else f"{shown} and {len(first) - 4} more"
