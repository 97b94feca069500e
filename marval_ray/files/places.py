"""Paths of files that ship with the package, written so that they mean the same on another machine."""

from pathlib import Path

ASSETS = Path(__file__).parents[1] / "embedded" / "assets"
_PREFIX = "embedded"


def portable(path: Path) -> str:
    """Return `path` for a file that may move to another machine: assets become embedded/..., others stay."""
    return str(_PREFIX / path.relative_to(ASSETS)) if path.is_relative_to(ASSETS) else str(path)


def resolve(text: str) -> Path:
    """Return the path that `portable` wrote."""
    path = Path(text)
    return ASSETS / path.relative_to(_PREFIX) if path.is_relative_to(_PREFIX) else path
