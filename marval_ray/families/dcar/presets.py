"""Sizes of DC-AR's published model, and how it draws."""

from marval_ray.diffusion.samplers import DDIM, Ancestral
from marval_ray.families.dcar.config import DCARConfig

MODELS: dict[str, DCARConfig] = {"dc-ar-512": DCARConfig()}

SAMPLERS: dict[str, Ancestral] = {"dc-ar-512": Ancestral(steps=32, cfg=5.5, cfg_schedule="constant", clip_x0=1.0)}
"""The chain of residuals as its authors' sample.py has it, whose scale of 4.5 is this 5.5."""
FEW_STEPS: dict[str, DDIM] = {"dc-ar-512": DDIM(steps=20, cfg=5.5, cfg_schedule="constant", clip_x0=1.0)}
"""As many steps as the teacher takes in MARVAL (arXiv 2511.15190); its guidance there is not known to us, this is its authors' own."""
LOOPS = 12
"""N_AR of its authors' sample.py."""
