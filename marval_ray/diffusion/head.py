"""The denoising head of MAR: a small MLP that predicts (eps, v) for one token from its condition z.

Shape suffixes: N rows (tokens), D token channels, W head width, Z condition width.
Parameter names are those of the published checkpoints (`diffloss.net.*`).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

TIME_FEATURES = 256


def time_features(t: Int64[Tensor, " N"]) -> Float[Tensor, "N 256"]:
    """Return sinusoidal features of raw timesteps: 128 cosines, then 128 sines, periods up to 10000."""
    half = TIME_FEATURES // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Int64[Tensor, " N"]) -> Float[Tensor, "N W"]:
        return self.mlp(time_features(t).to(next(self.parameters()).dtype))


class ResidualBlock(nn.Module):
    """x + gate * MLP(LN(x) (1 + scale) + shift), with (shift, scale, gate) = Linear(SiLU(y))."""

    def __init__(self, width: int):
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x_NW: Float[Tensor, "N W"], y_NW: Float[Tensor, "N W"]) -> Float[Tensor, "N W"]:
        shift, scale, gate = self.adaLN_modulation(y_NW).chunk(3, dim=-1)
        return x_NW + gate * self.mlp(torch.addcmul(shift, self.in_ln(x_NW), 1 + scale))


class FinalLayer(nn.Module):
    def __init__(self, width: int, channels: int):
        super().__init__()
        self.width = width
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x_NW: Float[Tensor, "N W"], y_NW: Float[Tensor, "N W"]) -> Float[Tensor, "N D2"]:
        shift, scale = self.adaLN_modulation(y_NW).chunk(2, dim=-1)
        return self.linear(torch.addcmul(shift, F.layer_norm(x_NW, (self.width,), eps=1e-6), 1 + scale))


class DenoisingHead(nn.Module):
    """eps(x_t, t, z) and the variance value v of one token (MAR, section 3.3)."""

    def __init__(self, channels: int, condition_width: int, width: int, depth: int):
        super().__init__()
        self.channels = channels
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(condition_width, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, 2 * channels)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for name, weight in self.named_parameters():
            if name in ("time_embed.mlp.0.weight", "time_embed.mlp.2.weight"):
                nn.init.normal_(weight, std=0.02)
            # Every block starts as the identity and the head predicts zero (DiT's adaLN-Zero).
            if name.endswith("adaLN_modulation.1.weight") or name == "final_layer.linear.weight":
                nn.init.zeros_(weight)

    def condition(self, z_NZ: Float[Tensor, "N Z"]) -> Float[Tensor, "N W"]:
        """Return the part of the conditioning that does not depend on t: compute it once per chain."""
        return self.cond_embed(z_NZ)

    def denoise(
        self, x_t: Float[Tensor, "N D"], t: Int64[Tensor, " M"], condition_NW: Float[Tensor, "N W"]
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """Return (eps, v) at timesteps `t` in 0..999; one timestep for all rows (M = 1) or one a row (M = N)."""
        y_NW = self.time_embed(t) + condition_NW
        h_NW = self.input_proj(x_t)
        for block in self.res_blocks:
            h_NW = block(h_NW, y_NW)
        eps, v = self.final_layer(h_NW, y_NW).chunk(2, dim=-1)
        return eps, v

    def forward(
        self, x_t: Float[Tensor, "N D"], t: Int64[Tensor, " M"], z_NZ: Float[Tensor, "N Z"]
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """Return (eps, v) as `denoise` does, from the raw condition z; M is 1 or N."""
        return self.denoise(x_t, t, self.condition(z_NZ))


class DiffusionLoss(nn.Module):
    """Holds the head under the name that the published checkpoints give it, `diffloss.net`."""

    def __init__(self, net: DenoisingHead):
        super().__init__()
        self.net = net
