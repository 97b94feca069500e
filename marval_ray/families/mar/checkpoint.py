"""Checkpoints of MAR: safetensors beside a config.json, or as published."""

from dataclasses import asdict
from pathlib import Path

import torch

from marval_ray.config import ModelConfig
from marval_ray.families.mar.model import MAR
from marval_ray.files.atomic import write_json
from marval_ray.files.fit import load_strictly, save_weights
from marval_ray.files.tensors import StateDict, read_state
from marval_ray.files.text import read_json


def save_model(folder: Path, name: str, state: StateDict, config: ModelConfig, dtype: torch.dtype) -> None:
    """Write `folder/name.safetensors` and `folder/config.json`, enough to rebuild the model."""
    write_json(folder / "config.json", {"model": asdict(config)})
    save_weights(folder / f"{name}.safetensors", state, dtype)


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
