"""What the training of an embedded model stops and goes on with: the states of its parts in one file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from marval_ray.files.atomic import atomic_path

NAME = "state.pt"


class Part(Protocol):
    """A module, an optimiser, an average."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


def save_state(folder: Path, step: int, parts: Mapping[str, Part]) -> None:
    """Write the number of finished updates, and the parts by their names."""
    with atomic_path(folder / NAME) as temporary:
        torch.save({"step": step} | {name: part.state_dict() for name, part in parts.items()}, temporary)


def load_state(folder: Path, parts: Mapping[str, Part]) -> int:
    """Restore the parts and return the number of finished updates. Raises ValueError when there is no state."""
    if not (folder / NAME).exists():
        raise ValueError(f"{folder} holds no state to resume: leave --resume out, or correct --out")
    state = torch.load(folder / NAME, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"]
