"""DC-AR, the masked generator (arXiv 2507.04947): a transformer over codes that reads texts, and two heads.

One is for codes; the other, MAR's denoising head, draws for each token the residual that its code leaves out. Parameter names are those of
the published checkpoint.

Shape suffixes: B images, L tokens an image, T tokens of a text, S width of its states, D token channels, W width, H heads, V codes.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from marval_ray.diffusion.head import DenoisingHead, DiffusionLoss
from marval_ray.families.base import Backbone
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.context import DCARContext, TextStates
from marval_ray.positions import gather_tokens

BASE_SIDE = 16
"""Positions are counted as on a picture of so many tokens a side."""


def positions(side: int, width: int) -> Float[Tensor, "1 L W"]:
    """Return sines and cosines of the column, then of the row, of each token."""
    quarter = width // 4
    frequencies = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * (BASE_SIDE / side) * frequencies
    features = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = features[None].expand(side, -1, -1), features[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1)[None].float()


def normalised(x_W: Float[Tensor, "... W"]) -> Float[Tensor, "... W"]:
    """Return LayerNorm without parameters."""
    return F.layer_norm(x_W, x_W.shape[-1:], eps=1e-6)


def _fixed(values: Tensor) -> nn.Parameter:
    """Return what is not trained. It is a parameter, as a student's weights are its parameters, without buffers."""
    return nn.Parameter(values, requires_grad=False)


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, out: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x_W: Float[Tensor, "... C"]) -> Float[Tensor, "... W"]:
        return self.fc2(F.gelu(self.fc1(x_W), approximate="tanh"))


class Attention(nn.Module):
    """Attention among tokens; queries and keys go through LayerNorm before they are split into heads."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BLW: Float[Tensor, "B L W"]) -> Float[Tensor, "B L W"]:
        q, k, v = self.qkv(x_BLW).chunk(3, dim=-1)
        q, k, v = (_split(part, self.heads) for part in (self.q_norm(q), self.k_norm(k), v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention from tokens to the words of their text, not to its padding."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x_BLW: Float[Tensor, "B L W"], y_BTW: Float[Tensor, "B T W"], real_BT: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B L W"]:
        q, k, v = (_split(part, self.heads) for part in (self.q_linear(x_BLW), *self.kv_linear(y_BTW).chunk(2, dim=-1)))
        attended = F.scaled_dot_product_attention(q, k, v, real_BT[:, None, None])
        return self.proj(attended.transpose(1, 2).flatten(2))


def _split(x_BLW: Float[Tensor, "B L W"], heads: int) -> Float[Tensor, "B H L C"]:
    return x_BLW.unflatten(-1, (heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention, cross-attention whose queries are not normalised, and a feed-forward layer."""

    def __init__(self, c: DCARConfig):
        super().__init__()
        self.attn = Attention(c.width, c.heads)
        self.cross_attn = CrossAttention(c.width, c.heads)
        self.mlp = FeedForward(c.width, c.mlp_width, c.width)

    def forward(
        self, x_BLW: Float[Tensor, "B L W"], y_BTW: Float[Tensor, "B T W"], real_BT: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B L W"]:
        x_BLW = x_BLW + self.attn(normalised(x_BLW))
        x_BLW = x_BLW + self.cross_attn(x_BLW, y_BTW, real_BT)
        return x_BLW + self.mlp(normalised(x_BLW))


class TextEmbedder(nn.Module):
    """From T5's states to the model's width. y_embedding: the states of no text, a row a place; random, but the checkpoint's own."""

    def __init__(self, c: DCARConfig):
        super().__init__()
        self.y_proj = FeedForward(c.text_width, c.width, c.width)
        self.y_embedding = _fixed(torch.randn(c.text_length, c.text_width) / c.text_width**0.5)

    def forward(self, states_BTS: Float[Tensor, "B T S"]) -> Float[Tensor, "B T W"]:
        return self.y_proj(states_BTS)


class CodeHead(nn.Module):
    def __init__(self, c: DCARConfig):
        super().__init__()
        self.linear = nn.Linear(c.width, c.num_codes)

    def forward(self, x_BLW: Float[Tensor, "*L W"]) -> Float[Tensor, "*L V"]:
        return self.linear(normalised(x_BLW))


class DCAR(Backbone):
    """Transformer and both heads. Codes may be `config.mask_code`, which stands for a hidden one."""

    def __init__(self, config: DCARConfig):
        super().__init__()
        c = self.config = config
        self.pos_embed = _fixed(positions(c.side, c.width))
        self.x_embedder = nn.Embedding(c.num_codes + 1, c.width)
        self.y_embedder = TextEmbedder(c)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.final_layer = CodeHead(c)
        self.diffloss = DiffusionLoss(DenoisingHead(c.token_channels, c.width, c.head_width, c.head_depth))

    @property
    def head(self) -> DenoisingHead:
        return self.diffloss.net

    def forward(self, codes: Int64[Tensor, "B L"], text: TextStates) -> Float[Tensor, "B L W"]:
        """Return each token's state after the last block: z of the denoising head, and what `logits` reads."""
        x, y = self.x_embedder(codes) + self.pos_embed, self.y_embedder(text.states.to(self.dtype))
        for block in self.blocks:
            x = block(x, y, text.real)
        return x

    def logits(self, latents: Float[Tensor, "*L W"]) -> Float[Tensor, "*L V"]:
        """Return the logits of each token's code, of what `forward` gave."""
        return self.final_layer(latents)

    def conditions(self, context: DCARContext) -> Float[Tensor, "N W"]:
        """Return z of the tokens at `hidden`, row by row."""
        codes, text = context.codes.masked_fill(context.masked, self.config.mask_code), context.text
        states = torch.where(context.left_out[:, None, None], self.without_text(text).states, text.states)
        return gather_tokens(self(codes, TextStates(states, text.real)), context.hidden).flatten(0, 1)

    def without_text(self, text: TextStates) -> TextStates:
        """Return the states of no text, as many rows of them as each text has words."""
        return TextStates(self.y_embedder.y_embedding.to(text.states).expand_as(text.states), text.real)

    def unconditional(self, context: DCARContext) -> DCARContext:
        """Return the same tokens without their texts."""
        return replace(context, left_out=torch.ones_like(context.left_out))
