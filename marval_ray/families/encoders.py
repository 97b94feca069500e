"""What jobs/encode.py makes of images: rows of stage 1's data, by the family whose codec lies at a path."""

from pathlib import Path

from marval_ray.families.base import ImageEncoder
from marval_ray.families.dcar.codec import is_dcht
from marval_ray.families.dcar.encoder import CodeEncoder
from marval_ray.families.mar.encoder import LatentEncoder


def read_encoder(path: Path) -> ImageEncoder:
    """Read DC-HT from a folder whose config.json says so, MAR's autoencoder from all else. Raises ValueError as these do."""
    return CodeEncoder.read(path) if is_dcht(path) else LatentEncoder.read(path)
