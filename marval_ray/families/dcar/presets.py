"""Sizes of DC-AR's published model, and how it draws."""

from marval_ray.diffusion.samplers import DDIM, Ancestral
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.tokenizer import DCHTConfig

MODELS: dict[str, DCARConfig] = {"dc-ar-512": DCARConfig()}
SAMPLERS: dict[str, Ancestral] = {"dc-ar-512": Ancestral(steps=32, cfg=5.5, cfg_schedule="constant", clip_x0=1.0)}
"""The chain of residuals as its authors' sample.py has it, whose scale of 4.5 is this 5.5."""
FEW_STEPS: dict[str, DDIM] = {"dc-ar-512": DDIM(steps=20, cfg=5.5, cfg_schedule="constant", clip_x0=1.0)}
"""As many steps as the teacher takes in MARVAL (arXiv 2511.15190); its guidance there is not known to us, this is its authors' own."""
LOOPS = 12
"""N_AR of its authors' sample.py."""

SCENES = DCARConfig(
    side=8, num_codes=1024, token_channels=8, residual_scale=0.0839, text_length=24, text_width=96, width=160, depth=4, heads=5,
    mlp_width=640, head_width=160, head_depth=2, code_guidance=1.5, student_noise=0.5, image_size=64,
)  # fmt: skip
SCENES_TOKENIZER = DCHTConfig((32, 32, 64, 128), (0, 1, 1, 1), (0, 1, 1, 1), token_channels=8, num_codes=1024)
"""Of the models that jobs/embedded trains on scenes of emoji."""
