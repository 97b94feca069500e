"""Imports point one way: jobs -> actors -> marval_ray -> torch."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"marval_ray": {"ray", "actors", "jobs"}, "actors": {"jobs"}, "bench": {"jobs"}}
"""What the files of a layer may not import."""


def imported(source: str) -> set[str]:
    """The top-level packages that `source` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_import_points_upwards(layer):
    files = sorted((ROOT / layer).rglob("*.py"))
    assert files
    wrong = {f.relative_to(ROOT): imported(f.read_text(encoding="utf-8")) & FORBIDDEN[layer] for f in files}
    assert not {str(path): names for path, names in wrong.items() if names}


def test_a_wrong_import_would_be_seen():
    source = "import torch\ndef f():\n    from ray.util import metrics\n    import actors.pool as pool\n"
    assert imported(source) & FORBIDDEN["marval_ray"] == {"ray", "actors"}
