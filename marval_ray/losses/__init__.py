"""Losses: (inputs) -> Loss(value, metrics)."""

from marval_ray.diffusion.loss import denoising_loss
from marval_ray.loss import Loss
from marval_ray.losses.gsim import GeneratorStep, gsim_generator

__all__ = ["GeneratorStep", "Loss", "denoising_loss", "gsim_generator"]
