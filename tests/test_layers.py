"""Imports point one way: jobs -> actors -> marval_ray -> torch, and so do those between the rooms of marval_ray."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"marval_ray": {"ray", "actors", "jobs"}, "actors": {"jobs"}, "bench": {"jobs"}}
"""What the files of a layer may not import."""
ROOMS = {
    "marval_ray": {
        "types": {"draws"},
        "files": {"types"},
        "diffusion": {"loss"},
        "rewards": {"files"},
        "scenes": {"files"},
        "families": {"device", "diffusion", "draws", "files", "loss", "positions", "types"},
        "evaluation": {"families", "files", "scenes", "types"},
        "distil": {"config", "device", "diffusion", "draws", "families", "loss"},
        "reinforce": {"config", "diffusion", "distil", "draws", "evaluation", "families", "loss", "positions", "rewards", "types"},
        "plan": {
            "config", "diffusion", "distil", "draws", "evaluation", "families", "files", "reinforce", "rewards", "types",
        },
        "hub": {"families", "files"},
        "runs": {"config", "device", "diffusion", "evaluation", "families", "files", "hub", "types"},
        "embedded": {"diffusion", "evaluation", "families", "files", "scenes"},
    },
    "actors": {"crew": {"errors", "patience", "resources"}, "serving": {"prometheus", "resources"}},
}
"""What the files of a room may import of its package, besides their own room."""
SEAM = "marval_ray.families.base."
"""All that distillation and reinforcement know of a family."""


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


def rooms_of(source: str, package: str = "marval_ray") -> set[str]:
    """The rooms and modules of a package that `source` imports."""
    return {name.split(".")[1] for name in modules(source) if name.startswith(f"{package}.")}


def files_of(package: str, room: str) -> list[Path]:
    """The files of a room, which may be a single one."""
    files = sorted((ROOT / package / room).rglob("*.py")) or [ROOT / package / f"{room}.py"]
    assert files[0].exists()
    return files


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_import_points_upwards(layer):
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    wrong = {f.relative_to(ROOT): imported(f.read_text(encoding="utf-8")) & FORBIDDEN[layer] for f in files}
    assert not {str(path): names for path, names in wrong.items() if names}


@pytest.mark.parametrize(("package", "room"), [(package, room) for package, rooms in ROOMS.items() for room in rooms])
def test_rooms_know_only_what_is_below_them(package, room):
    allowed = ROOMS[package][room] | {room}
    wrong = {str(f.relative_to(ROOT)): rooms_of(f.read_text(encoding="utf-8"), package) - allowed for f in files_of(package, room)}
    assert not {path: names for path, names in wrong.items() if names}


@pytest.mark.parametrize("room", ["distil", "reinforce", "evaluation", "hub", "runs"])
def test_nobody_above_the_seam_knows_a_family(room):
    named = {name for f in files_of("marval_ray", room) for name in modules(f.read_text(encoding="utf-8"))}
    known = {name for name in named if name.startswith("marval_ray.families.") and not name.startswith(SEAM)}
    assert not {name for name in known if room in ("distil", "reinforce") or name.startswith("marval_ray.families.mar")}


def test_a_wrong_import_would_be_seen():
    source = "import torch\ndef f():\n    from ray.util import metrics\n    import actors.crew.pool as pool\n"
    assert imported(source) & FORBIDDEN["marval_ray"] == {"ray", "actors"}
    assert rooms_of("from marval_ray import presets\nfrom marval_ray.files.atomic import write_json\n") == {"presets", "files"}
