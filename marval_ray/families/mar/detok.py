"""DeTok's tokenizer (l-DeTok, arXiv 2507.15856): a vision transformer between images and the latents that stronger MARs are drawn in.

Parameter names are those of the published checkpoints.

Shape suffixes: N images, L tokens an image, W width, C latent channels, H heads, d channels of a head.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

EPS = 1e-6
ROPE_SCALE, ROPE_BASE = 7.0, 10_000.0
LOG_VARIANCE = (-30.0, 20.0)
"""Bounds of the posterior's log-variance."""


@dataclass(frozen=True)
class DeTokConfig:
    """Sizes; the defaults are those of the published detok_BB."""

    image_size: int = 256
    patch_size: int = 16
    latent_channels: int = 16
    encoder_width: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    decoder_width: int = 768
    decoder_depth: int = 12
    decoder_heads: int = 12

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if width % (4 * heads):
                raise ValueError(f"{part}_width {width} is not a multiple of 4 x {part}_heads {heads}")

    @property
    def side(self) -> int:
        """Tokens a side."""
        return self.image_size // self.patch_size


def rope(side: int, channels: int) -> tuple[Float[Tensor, "L d"], Float[Tensor, "L d"]]:
    """Return cosines and sines of the angles of each token, for heads of `channels` channels (a multiple of 4, at least 8).

    The first half of a head turns with the row, the second with the column, both from 0 to 2 pi f over the picture.
    """
    count = channels // 4
    frequencies = ROPE_SCALE * ROPE_BASE ** (-torch.arange(count, dtype=torch.float32) / (count - 1))
    place = torch.arange(side, dtype=torch.float32) / (side - 1)
    angles = 2 * math.pi * place[:, None] * frequencies.repeat(2)
    rows, columns = angles[:, None].expand(-1, side, -1), angles[None].expand(side, -1, -1)
    both = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return both.cos(), both.sin()


def turned(x: Float[Tensor, "... d"], cos: Float[Tensor, "L d"], sin: Float[Tensor, "L d"]) -> Float[Tensor, "... d"]:
    """Return x cos + (-x_1, x_0, -x_3, x_2, ...) sin.

    Most neighbours have different angles, so this is no rotation; the published models learned it so.
    """
    pairs = x.unflatten(-1, (-1, 2))
    swapped = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)
    return x * cos + swapped * sin


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x_NLW: Float[Tensor, "N L W"], cos: Float[Tensor, "L d"], sin: Float[Tensor, "L d"]
    ) -> Float[Tensor, "N L W"]:
        q, k, v = self.qkv(x_NLW).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(turned(q, cos, sin), turned(k, cos, sin), v)
        return self.proj(attended.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """w3(silu(a) * b) with [a | b] = w12 x (arXiv 2002.05202)."""

    def __init__(self, width: int):
        super().__init__()
        hidden = int(2 / 3 * width * 4.0)
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x_W: Float[Tensor, "... W"]) -> Float[Tensor, "... W"]:
        gate, value = self.w12(x_W).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.RMSNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.RMSNorm(width, eps=EPS)
        self.mlp = SwiGLU(width)

    def forward(
        self, x_NLW: Float[Tensor, "N L W"], cos: Float[Tensor, "L d"], sin: Float[Tensor, "L d"]
    ) -> Float[Tensor, "N L W"]:
        x_NLW = x_NLW + self.attn(self.norm1(x_NLW), cos, sin)
        return x_NLW + self.mlp(self.norm2(x_NLW))


class Transformer(nn.Module):
    """What encoder and decoder share: positions, norms and blocks."""

    cos: Tensor
    sin: Tensor

    def __init__(self, side: int, width: int, depth: int, heads: int):
        super().__init__()
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(1, side**2, width))
        self.ln_pre = nn.RMSNorm(width, eps=EPS)
        self.transformer = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.ln_post = nn.RMSNorm(width, eps=EPS)
        cos, sin = rope(side, width // heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def blocks(self, x_NLW: Float[Tensor, "N L W"]) -> Float[Tensor, "N L W"]:
        """Return tokens without positions after all blocks."""
        x_NLW = self.ln_pre(x_NLW + self.positional_embedding)
        for block in self.transformer:
            x_NLW = block(x_NLW, self.cos, self.sin)
        return self.ln_post(x_NLW)


class Encoder(Transformer):
    def __init__(self, c: DeTokConfig):
        super().__init__(c.side, c.encoder_width, c.encoder_depth, c.encoder_heads)
        self.patch_embed = nn.Sequential(nn.Conv2d(3, c.encoder_width, c.patch_size, c.patch_size))
        self.latent_head = nn.Linear(c.encoder_width, 2 * c.latent_channels)

    def forward(self, images: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N L C2"]:
        """Return means and log-variances of the tokens, row by row."""
        return self.latent_head(self.blocks(self.patch_embed(images).flatten(2).transpose(1, 2)))


class Decoder(Transformer):
    def __init__(self, c: DeTokConfig):
        super().__init__(c.side, c.decoder_width, c.decoder_depth, c.decoder_heads)
        self.side, self.patch_size = c.side, c.patch_size
        self.decoder_embed = nn.Linear(c.latent_channels, c.decoder_width)
        self.ffn = nn.Sequential(nn.Identity(), nn.Conv2d(c.decoder_width, 3 * c.patch_size**2, 1))
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, tokens: Float[Tensor, "N L C"]) -> Float[Tensor, "N 3 S S"]:
        x = self.blocks(self.decoder_embed(tokens))
        return self.conv_out(self.pixels(self.ffn(x.transpose(1, 2).unflatten(2, (self.side, self.side)))))

    def pixels(self, patches: Float[Tensor, "N C h w"]) -> Float[Tensor, "N 3 S S"]:
        """Lay out patches whose channels are ordered (row, column, colour)."""
        n, _, h, w = patches.shape
        p = self.patch_size
        return patches.reshape(n, p, p, 3, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, 3, h * p, w * p)


class DeTokNetwork(nn.Module):
    """Encoder and decoder, without normalisation."""

    def __init__(self, config: DeTokConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def posterior(self, images: Float[Tensor, "N 3 S S"]) -> tuple[Float[Tensor, "N C h w"], Float[Tensor, "N C h w"]]:
        """Return mean and standard deviation of the latents of images in [-1, 1]."""
        mean, log_variance = self.encoder(images).transpose(1, 2).unflatten(2, (self.config.side,) * 2).chunk(2, dim=1)
        return mean, (0.5 * log_variance.clamp(*LOG_VARIANCE)).exp()

    def images(self, latents: Float[Tensor, "N C h w"]) -> Float[Tensor, "N 3 S S"]:
        """Return images, about [-1, 1]."""
        return self.decoder(latents.flatten(2).transpose(1, 2))
