"""What a reward worker does: tokens to images to scores, and the gradient back to the tokens."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from marval_ray.families.base import Codec
from marval_ray.rewards import Reward
from marval_ray.types import Prompts, Scored, Tokens


@dataclass(frozen=True)
class Scorer:
    """A frozen codec and a reward."""

    codec: Codec
    reward: Reward

    def __call__(self, tokens: Tokens, prompts: Prompts) -> Scored:
        """Score the images of B tokens, and find d score / d values of the tokens when the reward is differentiable."""
        if not self.reward.differentiable:
            with torch.no_grad():
                return Scored(self._score(tokens, prompts).float(), None)
        leaf = tokens.values.detach().requires_grad_()
        with torch.enable_grad():
            score = self._score(replace(tokens, values=leaf), prompts)
            (gradient,) = torch.autograd.grad(score.sum(), leaf)
        return Scored(score.detach().float(), gradient)

    def _score(self, tokens: Tokens, prompts: Prompts) -> Tensor:
        return self.reward(self.codec.decode(tokens), prompts.texts)
