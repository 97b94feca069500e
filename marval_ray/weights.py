"""Weights on disk and in memory: safetensors with a JSON config, published MAR checkpoints, EMA.

Nothing is unpickled but tensors: `torch.load(weights_only=True)` with `argparse.Namespace`, which MAR's published
files carry, allowed by name.
"""

import argparse
import json
import pickle
import struct
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from marval_ray.config import ModelConfig
from marval_ray.files import atomic_path, write_json
from marval_ray.models.mar import MAR

StateDict = dict[str, Tensor]

# torch's restricted unpickler reports damaged bytes by whichever of these they lead to.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, AssertionError, TypeError, ValueError,
    struct.error,
)  # fmt: skip


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
        return ModelConfig(**json.loads(path.read_text())["model"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a model config: {error}") from error


def load_model(path: Path, config: ModelConfig | None = None) -> MAR:
    """A MAR in float32 from a safetensors or published `.pth` file; without `config`, config.json beside it counts."""
    return build_model(config or read_config(path.parent), read_state(path), path)


def build_model(config: ModelConfig, state: StateDict, source: Path | str) -> MAR:
    """A MAR in float32 with the weights `state`, which come from `source`."""
    model = MAR(config)
    load_strictly(model, state, source)
    return model


def read_state(path: Path) -> StateDict:
    """The tensors of a safetensors file, or of a published checkpoint (its `model_ema`, `model` or `state_dict`).

    Raises ValueError with the file's name when it cannot be read safely or is not a state dict.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint at {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    return _read_published(path)


def _read_published(path: Path) -> StateDict:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read safely as a checkpoint of tensors: {_reason(error)}") from error
    for key in ("model_ema", "model", "state_dict"):
        if isinstance(content, dict) and key in content:
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict: neither `model_ema`, `model`, `state_dict` nor tensors by name")
    return content


def _reason(error: BaseException) -> str:
    """The line of torch's long message that names the refused class or the damage."""
    lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
    line = next((line for line in lines if "WeightsUnpickler error" in line), lines[0])
    return line.split(" Please use")[0]  # torch goes on with how to allow the class


def load_strictly(model: nn.Module, state: StateDict, source: Path | str) -> None:
    """Copy `state` into `model`, cast to its dtype. Raises ValueError naming what is missing, unexpected or misshapen."""
    check_fit(model.state_dict(), state, source)
    model.load_state_dict(state)


def check_fit(own: StateDict, state: StateDict, source: Path | str) -> None:
    """Raise ValueError unless `state` has the names and shapes of the model's `own`."""
    problems = [f"missing {_some(own.keys() - state.keys())}"] if own.keys() - state.keys() else []
    if state.keys() - own.keys():
        problems.append(f"unexpected {_some(state.keys() - own.keys())}")
    misshapen = [
        f"{name} is {tuple(state[name].shape)}, the model needs {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    problems += misshapen[:3]
    if problems:
        raise ValueError(f"{source} does not fit the model: {'; '.join(problems)}")


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
