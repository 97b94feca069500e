"""Tokens at positions, which differ from image to image."""

from jaxtyping import Float, Int64
from torch import Tensor


def gather_tokens(tokens: Float[Tensor, "B L D"], positions: Int64[Tensor, "B P"]) -> Float[Tensor, "B P D"]:
    """Return tokens[b, positions[b, p]]."""
    return tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[-1]))


def scatter_tokens(
    tokens: Float[Tensor, "B L D"], positions: Int64[Tensor, "B P"], values: Float[Tensor, "B P D"]
) -> Float[Tensor, "B L D"]:
    """Return a copy of `tokens` with `values` written at `positions`."""
    return tokens.scatter(1, positions[..., None].expand(-1, -1, tokens.shape[-1]), values)
