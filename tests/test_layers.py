"""Imports point one way: jobs -> actors -> marval_ray -> torch, and so do those between the rooms of marval_ray."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"marval_ray": {"ray", "actors", "jobs"}, "actors": {"jobs"}, "bench": {"jobs"}}
"""What the files of a layer may not import."""
ROOMS = {
    "files": {"files", "config", "types"},
    "diffusion": {"diffusion", "files", "config", "types", "loss"},
    "families": {"families", "diffusion", "files", "config", "types", "loss"},
}
"""What the files of a room of marval_ray may import of it."""


def modules(source: str) -> set[str]:
    """The dotted names that `source` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported(source: str) -> set[str]:
    """The top-level packages that `source` imports, anywhere in it."""
    return {name.split(".")[0] for name in modules(source)}


def rooms_of(source: str) -> set[str]:
    """The rooms and modules of marval_ray that `source` imports."""
    return {name.split(".")[1] for name in modules(source) if name.startswith("marval_ray.")}


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_import_points_upwards(layer):
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    wrong = {f.relative_to(ROOT): imported(f.read_text(encoding="utf-8")) & FORBIDDEN[layer] for f in files}
    assert not {str(path): names for path, names in wrong.items() if names}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_know_only_what_is_below_them(room):
    files = sorted((ROOT / "marval_ray" / room).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): rooms_of(f.read_text(encoding="utf-8")) - ROOMS[room] for f in files}
    assert not {path: names for path, names in wrong.items() if names}


def test_a_wrong_import_would_be_seen():
    source = "import torch\ndef f():\n    from ray.util import metrics\n    import actors.crew.pool as pool\n"
    assert imported(source) & FORBIDDEN["marval_ray"] == {"ray", "actors"}
    assert rooms_of("from marval_ray import presets\nfrom marval_ray.files.atomic import write_json\n") == {"presets", "files"}
