"""Losses: (inputs) -> Loss(value, metrics)."""

from marval_ray.losses.base import Loss
from marval_ray.losses.gsim import GeneratorStep, gsim_generator
from marval_ray.losses.mar import denoising_loss

__all__ = ["GeneratorStep", "Loss", "denoising_loss", "gsim_generator"]
