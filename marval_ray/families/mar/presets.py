"""Sizes of MAR's published models, and how each teacher draws best."""

from marval_ray.diffusion.samplers import Ancestral
from marval_ray.families.mar.config import ModelConfig

MODELS: dict[str, ModelConfig] = {
    "mar-b": ModelConfig(),
    "mar-l": ModelConfig(
        encoder_width=1024, encoder_depth=16, encoder_heads=16,
        decoder_width=1024, decoder_depth=16, decoder_heads=16,
        head_width=1280, head_depth=8,
    ),
    "mar-h": ModelConfig(
        encoder_width=1280, encoder_depth=20, encoder_heads=16,
        decoder_width=1280, decoder_depth=20, decoder_heads=16,
        head_width=1536, head_depth=12,
    ),
}  # fmt: skip
MODELS |= {"detok-b": MODELS["mar-b"], "detok-l": MODELS["mar-l"]}  # the same networks, on the latents of DeTok's tokenizer

SAMPLERS: dict[str, Ancestral] = {
    "mar-b": Ancestral(cfg=2.9),
    "mar-l": Ancestral(cfg=3.0),
    "mar-h": Ancestral(cfg=3.2),
    "detok-b": Ancestral(cfg=3.9),
    "detok-l": Ancestral(cfg=3.4),
}
"""100 steps, a linear schedule and nothing clipped (the READMEs of MAR's and DeTok's repositories, the second with 256 loops)."""
