"""Reference statistics in the form of ADM's evaluation suite, which MAR and others share."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from marval_ray.files.stored_images import ArrayImages, StoredImages, check_pixels

POOLED, SPATIAL = 2048, 2023


@dataclass(frozen=True)
class KnownGaussian:
    """A mean and a covariance that somebody measured."""

    mean: Float64[Tensor, " F"]
    covariance: Float64[Tensor, "F F"]


@dataclass(frozen=True)
class Reference:
    """Moments of a whole data set, and some of its images where the file has them.

    pooled: for FID. spatial: for sFID. images: for precision, recall and KID.
    """

    pooled: KnownGaussian
    spatial: KnownGaussian | None
    images: StoredImages | None

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read an .npz with `mu` and `sigma`, and perhaps `mu_s`, `sigma_s` and `arr_0`. Raises ValueError when it is none."""
        if not path.is_file():
            raise ValueError(f"there are no reference statistics at {path} (`python jobs/fetch.py adm-reference` or adm-statistics)")
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = dict(content)
        except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not an .npz of reference statistics: {error}") from error
        if not {"mu", "sigma"} <= arrays.keys():
            raise ValueError(f"{path} has {', '.join(sorted(arrays)) or 'nothing'}: reference statistics have `mu` and `sigma`")
        spatial = _gaussian(path, arrays, "_s", SPATIAL) if {"mu_s", "sigma_s"} <= arrays.keys() else None
        images = arrays.get("arr_0")
        if images is not None:
            check_pixels(path, images)
        return cls(_gaussian(path, arrays, "", POOLED), spatial, None if images is None else ArrayImages(images))


def _gaussian(path: Path, arrays: dict[str, np.ndarray], suffix: str, size: int) -> KnownGaussian:
    mean, covariance = arrays[f"mu{suffix}"], arrays[f"sigma{suffix}"]
    if mean.shape != (size,) or covariance.shape != (size, size):
        raise ValueError(
            f"{path}: mu{suffix} is {mean.shape} and sigma{suffix} {covariance.shape}, "
            f"Inception's are ({size},) and ({size}, {size}): these are statistics of other features"
        )
    if not all(array.dtype.kind == "f" and np.isfinite(array).all() for array in (mean, covariance)):
        raise ValueError(f"{path}: mu{suffix} and sigma{suffix} are not finite numbers: compute the statistics anew")
    return KnownGaussian(torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(covariance.astype(np.float64)))
