"""The memory of the actors that work for the RL learner: their work is done once, on tensors without storage."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from marval_ray.config import RLConfig
from marval_ray.families.base import Codec, FamilyConfig
from marval_ray.files.places import resolve
from marval_ray.plan.counting import META, build, counting, draws_of, prompts_of
from marval_ray.plan.kinds import kind_of
from marval_ray.plan.need import Need
from marval_ray.reinforce.objective import rollout_sampler
from marval_ray.reinforce.scoring import Scorer
from marval_ray.rewards.preprocess import ImageTransform
from marval_ray.rewards.spec import Spec
from marval_ray.types import Tokens

PICKSCORE = CLIPConfig(
    text_config={
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "projection_dim": 1024,
    },
    vision_config={
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16, "projection_dim": 1024,
        "patch_size": 14,
    },
    projection_dim=1024,
)  # fmt: skip
"""CLIP ViT-H/14, of which PickScore is a fine-tuned copy (Kirstain et al., arXiv 2305.01569)."""
LOOPS = 4
"""In which images are drawn to be counted: denser than those of most rollouts, so not less than they take."""


class SizedReward(nn.Module):
    """A reward of a CLIP's sizes, whose prompts cost nothing."""

    differentiable = True

    def __init__(self, clip: CLIPModel):
        super().__init__()
        self.clip = clip.eval().requires_grad_(False)
        vision: Any = clip.config.vision_config
        side = vision.image_size
        self.transform = ImageTransform(side, side)

    def forward(self, images: Float[Tensor, "B C H W"], prompts: tuple[str, ...]) -> Float[Tensor, " B"]:
        return self.clip.get_image_features(self.transform(images)).pooler_output.mean(1)


def scorer_of(c: FamilyConfig, codec: Codec | None, clip: CLIPConfig = PICKSCORE) -> Scorer:
    """Return decoder and reward without storage: `codec`, by default one of the published sizes, and a reward of the sizes `clip`."""
    with META:
        return Scorer(codec_of(c, codec), SizedReward(CLIPModel(clip)))


class StoragelessCodec:
    """A codec that can decode, and no more: its `id` would be a hash of weights."""

    id = "without storage"

    def __init__(self, codec: Codec):
        self.codec = codec

    def to(self, device: torch.device | str) -> "StoragelessCodec":
        return self

    def decode(self, tokens: Tokens) -> Float[Tensor, "B C H W"]:
        return self.codec.decode(tokens)


def codec_of(c: FamilyConfig, codec: Codec | None) -> Codec:
    """Return a copy of `codec` without storage; by default one of the published sizes."""
    with META:
        return StoragelessCodec(deepcopy(codec).to(META) if codec else kind_of(c).codec(c))


def rollout_worker(c: FamilyConfig, rl: RLConfig, gpu: bool) -> Need:
    """Count the drawing of `rl.chunk` images, with weights in bfloat16 on a GPU."""
    with counting(bf16=False) as live, torch.no_grad():
        model, reader = build(c).to(torch.bfloat16 if gpu else torch.float32), kind_of(c).reader(c)
        weights = live.live
        live.restart()
        texts, condition = reader(), c.family.conditioner(c, META)(prompts_of(c, rl.chunk))
        _ = list(c.family.reveal(model, rollout_sampler(c, rl), condition, draws_of(rl.chunk), LOOPS))
        del texts
        return Need(weights, 0, live.peak - weights)


def reward_worker(c: FamilyConfig, rl: RLConfig, codec: Codec | None, clip: CLIPConfig = PICKSCORE) -> Need:
    """Count the scoring of `rl.chunk` images with gradient, in float32."""
    with counting(bf16=False) as live:
        scorer = scorer_of(c, codec, clip)
        weights = live.live
        live.restart()
        scorer(kind_of(c).tokens(c, rl.chunk), prompts_of(c, rl.chunk))
        return Need(weights, 0, live.peak - weights)


def drawing(c: FamilyConfig, codec: Codec | None, batch: int) -> Need:
    """Count the drawing and decoding of `batch` images in float32: the judge's, or those of the report."""
    with counting(bf16=False) as live, torch.no_grad():
        model, decoder, reader = build(c), codec_of(c, codec), kind_of(c).reader(c)
        weights = live.live
        live.restart()
        texts, condition = reader(), c.family.conditioner(c, META)(prompts_of(c, batch))
        *_, tokens = c.family.reveal(model, model.one_step, condition, draws_of(batch), LOOPS)
        decoder.decode(tokens)
        del texts
        return Need(weights, 0, live.peak - weights)


def clip_of(rewards: Sequence[str]) -> CLIPConfig:
    """Return the sizes of the first reward whose folder is here, or PickScore's."""
    folders = (resolve(Spec.parse(text).place) for text in rewards)
    here = next((folder for folder in folders if (folder / "config.json").exists()), None)
    return CLIPConfig.from_pretrained(here, local_files_only=True) if here else PICKSCORE
