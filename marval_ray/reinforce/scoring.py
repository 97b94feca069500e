"""What a reward worker does: tokens to images to scores, and the gradient back to the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.config import ModelConfig
from marval_ray.families.mar.codec import VAE
from marval_ray.families.mar.model import unpatchify
from marval_ray.files.images import crop_to
from marval_ray.rewards import Reward
from marval_ray.types import Scored


@dataclass(frozen=True)
class Scorer:
    """A frozen decoder and a reward; `prompts` has one of each class."""

    vae: VAE
    reward: Reward
    prompts: Sequence[str]
    model: ModelConfig

    def __call__(self, tokens: Float[Tensor, "B L D"], labels: Int64[Tensor, " B"]) -> Scored:
        """Scores of the images, and d score / d tokens when the reward is differentiable."""
        prompts = [self.prompts[label] for label in labels.tolist()]
        if not self.reward.differentiable:
            with torch.no_grad():
                return Scored(self.reward(self.images(tokens), prompts).float(), None)
        leaf = tokens.detach().requires_grad_()
        with torch.enable_grad():
            score = self.reward(self.images(leaf), prompts)
            (gradient,) = torch.autograd.grad(score.sum(), leaf)
        return Scored(score.detach().float(), gradient)

    def images(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B C H W"]:
        """Decoded images in [-1, 1]."""
        images = self.vae.decode(unpatchify(tokens, self.model.patch_size)).float().clamp(-1, 1)
        return crop_to(images, self.model.image_size)
