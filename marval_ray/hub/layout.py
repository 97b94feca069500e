"""The weights of a model on disk: safetensors beside a config.json, which names the family, its sizes, the codec and, of a model that
reads texts, its text encoder.

With these inside, such a folder is whole (`marval_ray.hub.exported`).
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from marval_ray.families import family_named
from marval_ray.families.base import Backbone, FamilyConfig
from marval_ray.files.atomic import write_json
from marval_ray.files.fit import save_weights
from marval_ray.files.places import resolve
from marval_ray.files.tensors import StateDict
from marval_ray.files.text import read_json

CONFIG = "config.json"


def described(config: FamilyConfig) -> dict[str, Any]:
    """Return what config.json says of a model."""
    return {"family": config.family.name, "model": asdict(config)}  # type: ignore[call-overload]  # they are dataclasses


def save_model(folder: Path, name: str, state: StateDict, config: FamilyConfig, dtype: torch.dtype) -> None:
    """Write `folder/name.safetensors` and `folder/config.json`, enough to rebuild the model."""
    write_json(folder / CONFIG, described(config))
    save_weights(folder / f"{name}.safetensors", state, dtype)


def read_config(folder: Path) -> FamilyConfig:
    """Read the model config beside a checkpoint; without a family it is MAR's. Raises ValueError when it is missing or does not fit."""
    path = folder / CONFIG
    if not path.exists():
        raise ValueError(f"{path} is missing: a checkpoint folder holds config.json beside its safetensors file")
    try:
        content = read_json(path)
        return family_named(content.get("family", "mar")).config(content["model"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a model config: {error}") from error


def load_model(path: Path, config: FamilyConfig | None = None) -> Backbone:
    """Read a model in float32 from safetensors or a published `.pth` file; without `config`, config.json beside it counts.

    Raises ValueError when it cannot be read safely or does not fit.
    """
    config = config or read_config(path.parent)
    return config.family.read(path, config)


def codec_beside(checkpoint: Path) -> Path:
    """Return the codec that the checkpoint's config.json names: ./NAME is beside it. Raises ValueError when it names none."""
    codec = _named_beside(checkpoint, "vae")
    if codec is None:
        raise ValueError(f"{checkpoint.parent / CONFIG} names no autoencoder: give it with --vae")
    return codec


def texts_beside(checkpoint: Path) -> Path | None:
    """Return the text encoder that the checkpoint's config.json names, None where it names none."""
    return _named_beside(checkpoint, "texts")


def _named_beside(checkpoint: Path, entry: str) -> Path | None:
    path = checkpoint.parent / CONFIG
    name = read_json(path).get(entry) if path.exists() else None
    if not isinstance(name, str):
        return None
    return checkpoint.parent / name if name.startswith("./") else resolve(name)
