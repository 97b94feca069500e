"""MAR, the masked auto-regressive backbone (arXiv 2406.11838), and its denoising head.

The encoder sees class tokens and the known tokens only; the decoder sees all positions and gives each hidden
position the condition z from which the head denoises its token.

Shape suffixes: B images, L tokens an image, K known tokens, P predicted tokens, D token channels, C encoder width,
W decoder width, b class ("buffer") tokens, M tokens of all images together. Parameter names are those of the published checkpoints.
"""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from marval_ray.diffusion.head import DenoisingHead, DiffusionLoss
from marval_ray.families.base import Backbone
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.context import MARContext
from marval_ray.positions import gather_tokens, scatter_tokens


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTC: Float[Tensor, "B T C"], rows_BP: Int64[Tensor, "B P"] | None = None) -> Float[Tensor, "B _ C"]:
        """Attend from the positions `rows_BP` (by default from all) to all positions."""
        q, k, v = self._heads(self.qkv(x_BTC))
        if rows_BP is not None:
            q = q.take_along_dim(rows_BP[:, None, :, None], dim=2)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def packed(
        self, x_MC: Float[Tensor, "M C"], seen_BT: Bool[Tensor, "B T"], places_M: Int64[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """Attend among the tokens that `seen_BT` marks, within each row of it; `places_M` are their places in all rows together."""
        qkv = self.qkv(x_MC)
        padded = qkv.new_zeros(seen_BT.numel(), qkv.shape[-1]).index_copy_(0, places_M, qkv)
        q, k, v = self._heads(padded.unflatten(0, seen_BT.shape))
        attended = F.scaled_dot_product_attention(q, k, v, seen_BT[:, None, None])
        return self.proj(attended.transpose(1, 2).flatten(2).flatten(0, 1)[places_M])

    def _heads(self, qkv_BTC: Float[Tensor, "B T C3"]) -> Float[Tensor, "3 B H T E"]:
        return qkv_BTC.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_C: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        return self.fc2(F.gelu(self.fc1(x_C)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, norm_eps: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = FeedForward(width, int(width * mlp_ratio))

    def forward(self, x_BTC: Float[Tensor, "B T C"], rows_BP: Int64[Tensor, "B P"] | None = None) -> Float[Tensor, "B _ C"]:
        """Return the positions `rows_BP` (by default all) after this block."""
        attended = self.attn(self.norm1(x_BTC), rows_BP)
        x_BPC = (x_BTC if rows_BP is None else gather_tokens(x_BTC, rows_BP)) + attended
        return x_BPC + self.mlp(self.norm2(x_BPC))

    def packed(
        self, x_MC: Float[Tensor, "M C"], seen_BT: Bool[Tensor, "B T"], places_M: Int64[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """Return the tokens that `seen_BT` marks, row after row, after this block."""
        x_MC = x_MC + self.attn.packed(self.norm1(x_MC), seen_BT, places_M)
        return x_MC + self.mlp(self.norm2(x_MC))


class MAR(Backbone):
    """Backbone and head. `labels` may hold `config.num_classes`, which stands for the null class."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        c = self.config = config
        length = c.num_tokens
        self.class_emb = nn.Embedding(c.num_classes, c.encoder_width)
        self.fake_latent = nn.Parameter(torch.zeros(1, c.encoder_width))
        self.z_proj = nn.Linear(c.token_channels, c.encoder_width)
        self.z_proj_ln = nn.LayerNorm(c.encoder_width, eps=1e-6)
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, c.buffer_size + length, c.encoder_width))
        self.encoder_blocks = nn.ModuleList(
            Block(c.encoder_width, c.encoder_heads, c.mlp_ratio, c.norm_eps) for _ in range(c.encoder_depth)
        )
        self.encoder_norm = nn.LayerNorm(c.encoder_width, eps=c.norm_eps)
        self.decoder_embed = nn.Linear(c.encoder_width, c.decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c.decoder_width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, c.buffer_size + length, c.decoder_width))
        self.decoder_blocks = nn.ModuleList(
            Block(c.decoder_width, c.decoder_heads, c.mlp_ratio, c.norm_eps) for _ in range(c.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(c.decoder_width, eps=c.norm_eps)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, length, c.decoder_width))
        self._initialise()
        self.diffloss = DiffusionLoss(DenoisingHead(c.token_channels, c.decoder_width, c.head_width, c.head_depth))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for parameter in (
            self.class_emb.weight,
            self.fake_latent,
            self.mask_token,
            self.encoder_pos_embed_learned,
            self.decoder_pos_embed_learned,
            self.diffusion_pos_embed_learned,
        ):
            nn.init.normal_(parameter, std=0.02)

    @property
    def head(self) -> DenoisingHead:
        return self.diffloss.net

    def conditions(self, context: MARContext) -> Float[Tensor, "N W"]:
        """Return z of the hidden tokens, row by row."""
        return self(context.tokens.to(self.dtype), context.labels, context.known, context.hidden).flatten(0, 1)

    def unconditional(self, context: MARContext) -> MARContext:
        """Return the same context under the null class."""
        return context.with_label(self.config.num_classes)

    def embed_labels(self, labels: Int64[Tensor, " B"]) -> Float[Tensor, "B C"]:
        """Return class embeddings; the label `num_classes` gives the null embedding (`fake_latent`)."""
        return F.embedding(labels, torch.cat([self.class_emb.weight, self.fake_latent]))

    def encode(
        self, known_BKD: Float[Tensor, "B K D"], known: Int64[Tensor, "B K"], labels: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B bK C"]:
        """Encode the known tokens, given with their ascending positions; class tokens come first in the result."""
        b = self.config.buffer_size
        positions = F.embedding(known, self.encoder_pos_embed_learned[0, b:])
        x = torch.cat([self._class_tokens(labels), self.z_proj(known_BKD) + positions], dim=1)
        x = self.z_proj_ln(x)
        for block in self.encoder_blocks:
            x = block(x)
        return self.encoder_norm(x)

    def _class_tokens(self, labels: Int64[Tensor, " B"]) -> Float[Tensor, "B b C"]:
        b = self.config.buffer_size
        return self.embed_labels(labels)[:, None].expand(-1, b, -1) + self.encoder_pos_embed_learned[:, :b]

    def decode(
        self, encoded: Float[Tensor, "B bK C"], known: Int64[Tensor, "B K"], wanted: Int64[Tensor, "B P"]
    ) -> Float[Tensor, "B P W"]:
        """Return the condition z at the `wanted` positions."""
        b = self.config.buffer_size
        embedded = self.decoder_embed(encoded)
        tokens = self.mask_token.to(embedded.dtype).expand(len(known), self.config.num_tokens, -1)
        tokens = scatter_tokens(tokens, known, embedded[:, b:])
        return self._conditions(torch.cat([embedded[:, :b], tokens], dim=1), wanted)

    def _conditions(self, x: Float[Tensor, "B bL W"], wanted: Int64[Tensor, "B P"]) -> Float[Tensor, "B P W"]:
        b, x = self.config.buffer_size, x + self.decoder_pos_embed_learned
        *first, last = self.decoder_blocks
        for block in first:
            x = block(x)
        z = self.decoder_norm(last(x, wanted + b))  # nobody looks at the others
        return z + F.embedding(wanted, self.diffusion_pos_embed_learned[0])

    def forward(
        self, tokens: Float[Tensor, "B L D"], labels: Int64[Tensor, " B"],
        known: Int64[Tensor, "B K"], wanted: Int64[Tensor, "B P"],
    ) -> Float[Tensor, "B P W"]:  # fmt: skip
        """Return z at `wanted`, seeing of `tokens` only those at `known` (positions ascending in both)."""
        return self.decode(self.encode(gather_tokens(tokens, known), known, labels), known, wanted)

    def ragged(
        self, tokens: Float[Tensor, "B L D"], labels: Int64[Tensor, " B"],
        places: Int64[Tensor, " M"], wanted: Int64[Tensor, "B P"],
    ) -> Float[Tensor, "B P W"]:  # fmt: skip
        """Do what `forward` does, for images with different numbers of known tokens.

        `places` are those of class tokens and known tokens, ascending, where each image has b + L. The encoder works on the tokens of
        all images in one row, so that none is padded; only attention needs a rectangle.
        """
        b = self.config.buffer_size
        projected = self.z_proj(tokens) + self.encoder_pos_embed_learned[:, b:]
        everything = torch.cat([self._class_tokens(labels), projected], dim=1)
        seen = places.new_zeros(everything.shape[:2], dtype=torch.bool)
        seen.flatten().index_fill_(0, places, True)
        x = self.z_proj_ln(everything.flatten(0, 1)[places])
        for block in cast(Iterable[Block], self.encoder_blocks):
            x = block.packed(x, seen, places)
        embedded = self.decoder_embed(self.encoder_norm(x))
        hidden = self.mask_token.to(embedded.dtype).expand(*seen.shape, -1).flatten(0, 1).index_copy(0, places, embedded)
        return self._conditions(hidden.unflatten(0, seen.shape), wanted)


def patchify(latents: Float[Tensor, "B C H W"], patch: int) -> Float[Tensor, "B L D"]:
    """Turn latents into tokens: row-major patches, features ordered (channel, row, column)."""
    return F.unfold(latents, patch, stride=patch).transpose(1, 2)


def unpatchify(tokens: Float[Tensor, "B L D"], patch: int) -> Float[Tensor, "B C H W"]:
    """Undo `patchify` for square latents."""
    side = int(tokens.shape[1] ** 0.5) * patch
    return F.fold(tokens.transpose(1, 2), (side, side), patch, stride=patch)
