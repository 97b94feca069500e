"""Families of models behind one seam: `base`. A family is registered here by its name, as config.json has it."""

from importlib import import_module

from marval_ray.families.base import Family

PLACES = {"mar": "marval_ray.families.mar.family:FAMILY", "dcar": "marval_ray.families.dcar.family:FAMILY"}
"""MODULE:NAME of each family, which is imported when it is asked for."""


def family_named(name: str) -> Family:
    """Return the family. Raises ValueError when there is none of that name."""
    if name not in PLACES:
        raise ValueError(f"model family {name!r} is unknown; there are {', '.join(PLACES)}")
    module, attribute = PLACES[name].split(":")
    return getattr(import_module(module), attribute)
