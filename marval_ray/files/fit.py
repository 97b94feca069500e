"""Weights and modules: written, fitted, and checked whether they fit."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from marval_ray.files.atomic import atomic_path
from marval_ray.files.tensors import StateDict


def save_weights(path: Path, state: StateDict, dtype: torch.dtype) -> None:
    """Write the tensors of `state` as safetensors, cast to `dtype`."""
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


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
