"""DC-HT, the tokenizer of DC-AR (arXiv 2507.04947): between images and a code with a residual for each token.

The network is DC-AE's with 32 pixels a token (arXiv 2410.10733), but for LayerNorm over channels where that has RMS norm.
Parameter names are those of the published checkpoint.

Shape suffixes: N images, L tokens an image, C channels, D token channels, h and w rows and columns.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

HEAD = 32
"""Channels of an attention head."""
EPS = 1e-15
CONVOLUTIONAL = (1, 2)
"""Stages of plain residual blocks; those above have attention."""


@dataclass(frozen=True)
class DCHTConfig:
    """Sizes; the defaults are those of the published dc-ht. Stages are counted from the finest one; stage 0 is empty."""

    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_depths: tuple[int, ...] = (0, 4, 8, 2, 2, 2)
    decoder_depths: tuple[int, ...] = (0, 5, 10, 2, 2, 2)
    token_channels: int = 32
    num_codes: int = 16_384

    @property
    def stride(self) -> int:
        """Pixels a side of a token."""
        return 2 ** (len(self.widths) - 1)


def averaged(x: Float[Tensor, "N C h w"], channels: int) -> Float[Tensor, "N _ h w"]:
    """Return so many channels, each the mean of neighbours."""
    return x.unflatten(1, (channels, -1)).mean(2)


def repeated(x: Float[Tensor, "N C h w"], channels: int) -> Float[Tensor, "N _ h w"]:
    """Return so many channels, neighbours alike."""
    return x.repeat_interleave(channels // x.shape[1], dim=1)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel."""

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class RecordedBatchNorm(nn.BatchNorm2d):
    """BatchNorm by its recorded statistics, in training too: they must not drift."""

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Conv(nn.Module):
    """A convolution that keeps the size, and a norm."""

    def __init__(self, width: int, out: int, kernel: int = 3, groups: int = 1, bias: bool = True, norm: nn.Module | None = None):
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, padding=kernel // 2, groups=groups, bias=bias)
        self.norm = norm or nn.Identity()

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N _ h w"]:
        return self.norm(self.conv(x))


class Chain(nn.Module):
    """Modules in turn."""

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.op_list = nn.Sequential(*modules)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N _ _ _"]:
        return self.op_list(x)


class ResBlock(nn.Module):
    """x + norm(conv2(act(conv1 x)))."""

    def __init__(self, width: int, act: nn.Module, norm: nn.Module):
        super().__init__()
        self.act = act
        self.main = nn.ModuleDict({"conv1": Conv(width, width), "conv2": Conv(width, width, bias=False, norm=norm)})

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        return x + self.main["conv2"](self.act(self.main["conv1"](x)))


class LinearAttention(nn.Module):
    """x + norm(proj(o)) with o_i = sum_j (q_i k_j) v_j / sum_j q_i k_j over all pixels, q and k through ReLU (arXiv 2205.14756)."""

    def __init__(self, width: int):
        super().__init__()
        qkv, proj = Conv(width, 3 * width, 1, bias=False), Conv(width, width, 1, bias=False, norm=ChannelNorm(width))
        self.main = nn.ModuleDict({"qkv": qkv, "proj": proj})

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        q, k, v = self.main["qkv"](x).unflatten(1, (-1, 3, HEAD)).flatten(4).unbind(2)  # each (N, heads, HEAD, h w)
        q, k = q.relu(), k.relu()
        weighted = (v @ k.transpose(-1, -2)) @ q
        total = k.sum(-1, keepdim=True).transpose(-1, -2) @ q
        return x + self.main["proj"]((weighted / (total + EPS)).flatten(1, 2).unflatten(-1, x.shape[2:]))


class GatedConv(nn.Module):
    """x + norm(point(a * silu(b))) with [a | b] = depth(silu(inverted x))."""

    def __init__(self, width: int):
        super().__init__()
        inner = 8 * width
        self.main = nn.ModuleDict(
            {
                "inverted_conv": Conv(width, inner, 1),
                "depth_conv": Conv(inner, inner, groups=inner),
                "point_conv": Conv(inner // 2, width, 1, bias=False, norm=ChannelNorm(width)),
            }
        )

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        value, gate = self.main["depth_conv"](F.silu(self.main["inverted_conv"](x))).chunk(2, dim=1)
        return x + self.main["point_conv"](value * F.silu(gate))


class AttentionBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.context_module, self.local_module = LinearAttention(width), GatedConv(width)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        return self.local_module(self.context_module(x))


class ConvDown(nn.Module):
    """A convolution, then pixels into channels: half as many rows and columns."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.conv = Conv(width, out // 4)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N _ _ _"]:
        return F.pixel_unshuffle(self.conv(x), 2)


class ConvUp(nn.Module):
    """A convolution, then channels into pixels: twice as many rows and columns."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.conv = Conv(width, 4 * out)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N _ _ _"]:
        return F.pixel_shuffle(self.conv(x), 2)


class Down(nn.Module):
    """`ConvDown` beside a shortcut without parameters."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.out, self.main = out, ConvDown(width, out)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N _ _ _"]:
        return self.main(x) + averaged(F.pixel_unshuffle(x, 2), self.out)


class Up(nn.Module):
    """`ConvUp` beside a shortcut without parameters."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.out, self.main = out, ConvUp(width, out)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N _ _ _"]:
        return self.main(x) + F.pixel_shuffle(repeated(x, 4 * self.out), 2)


class ToTokens(nn.Module):
    def __init__(self, width: int, channels: int):
        super().__init__()
        self.channels, self.main = channels, Chain(Conv(width, channels))

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N D h w"]:
        return self.main(x) + averaged(x, self.channels)


class FromTokens(nn.Module):
    def __init__(self, channels: int, width: int):
        super().__init__()
        self.width, self.main = width, Conv(channels, width)

    def forward(self, x: Float[Tensor, "N D h w"]) -> Float[Tensor, "N C h w"]:
        return self.main(x) + repeated(x, self.width)


def _blocks(stage: int, width: int, depth: int, act: nn.Module, norm: type[nn.Module]) -> list[nn.Module]:
    if stage in CONVOLUTIONAL:
        return [ResBlock(width, act, norm(width)) for _ in range(depth)]
    return [AttentionBlock(width) for _ in range(depth)]


class Encoder(nn.Module):
    def __init__(self, c: DCHTConfig):
        super().__init__()
        self.project_in = ConvDown(3, c.widths[1])
        stages = [Chain()]
        for stage, (width, depth, after) in enumerate(zip(c.widths[1:], c.encoder_depths[1:], (*c.widths[2:], None)), start=1):
            blocks = _blocks(stage, width, depth, nn.SiLU(), ChannelNorm)
            stages.append(Chain(*blocks, *([Down(width, after)] if after else [])))
        self.stages = nn.ModuleList(stages)
        self.project_out = ToTokens(c.widths[-1], c.token_channels)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D h w"]:
        x = self.project_in(images)
        for stage in self.stages:
            x = stage(x)
        return self.project_out(x)


class Decoder(nn.Module):
    def __init__(self, c: DCHTConfig):
        super().__init__()
        self.project_in = FromTokens(c.token_channels, c.widths[-1])
        stages = [Chain()]
        for stage, (width, depth, before) in enumerate(zip(c.widths[1:], c.decoder_depths[1:], (*c.widths[2:], None)), start=1):
            blocks = _blocks(stage, width, depth, nn.ReLU(), RecordedBatchNorm)
            stages.append(Chain(*([Up(before, width)] if before else []), *blocks))
        self.stages = nn.ModuleList(stages)
        self.project_out = Chain(ChannelNorm(c.widths[1]), nn.ReLU(), ConvUp(c.widths[1], 3))

    def forward(self, x: Float[Tensor, "N D h w"]) -> Float[Tensor, "N 3 H W"]:
        x = self.project_in(x)
        for stage in reversed(self.stages):
            x = stage(x)
        return self.project_out(x)


class Quantiser(nn.Module):
    """A codebook of directions: codes and features have length 1."""

    def __init__(self, codes: int, channels: int):
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)

    def vectors(self, codes: Int64[Tensor, "N L"]) -> Float[Tensor, "N L D"]:
        return F.normalize(self.embedding(codes), dim=-1)

    def nearest(self, features: Float[Tensor, "N L D"]) -> Int64[Tensor, "N L"]:
        """Return the codes at the smallest distance; of vectors of length 1 that is the largest product."""
        return (features @ F.normalize(self.embedding.weight, dim=-1).T).argmax(-1)


class DCHT(nn.Module):
    """Encoder, codebook and decoder. An image is codes, and for each token the residual that its code leaves out."""

    def __init__(self, config: DCHTConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantize = Quantiser(config.num_codes, config.token_channels)

    def directions(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N L D"]:
        """Return z = h / |h|, where h is the encoder's output for images in [-1, 1], row by row."""
        return F.normalize(self.encoder(images).flatten(2).transpose(1, 2), dim=-1)

    def picture(self, z: Float[Tensor, "N L D"]) -> Float[Tensor, "N 3 H W"]:
        """Turn vectors of the tokens of square images into images, about [-1, 1], not clamped."""
        side = int(z.shape[1] ** 0.5)
        return self.decoder(z.transpose(1, 2).unflatten(2, (side, side)))

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "N 3 H W"]) -> tuple[Int64[Tensor, "N L"], Float[Tensor, "N L D"]]:
        """Turn images in [-1, 1] into codes and residuals z - z_q, row by row."""
        z = self.directions(images)
        codes = self.quantize.nearest(z)
        return codes, z - self.quantize.vectors(codes)

    def decode(self, codes: Int64[Tensor, "N L"], residual: Float[Tensor, "N L D"]) -> Float[Tensor, "N 3 H W"]:
        """Turn tokens into what `picture` returns; differentiable in the residual."""
        return self.picture(self.quantize.vectors(codes) + residual)
