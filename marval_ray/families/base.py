"""The seam: what GSIM, RL, evaluation, serving and export ask of a family of models. They know nothing else of it.

A family says how its images become tokens, what a model is told of them (its context and condition), and in which order the
tokens of an image are revealed. One token's diffusion is the same for all (`marval_ray.diffusion`).

Shape suffixes: B images, L tokens an image, P tokens hidden in a context, N = B P, D token channels, W condition width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import pyarrow as pa
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from marval_ray.diffusion.head import DenoisingHead
from marval_ray.diffusion.samplers import OneStep, TokenSampler
from marval_ray.draws import Draws
from marval_ray.files.fit import check_fit
from marval_ray.files.tensors import StateDict, read_state
from marval_ray.types import Prompts, Rollout, Tokens

Condition = Any
"""What a family's models read in the place of prompts; the family's own business."""
Conditioner = Callable[[Prompts], Condition]
Predict = Callable[..., Tensor]
"""G(n, c): the one-step prediction of the hidden tokens of a context, row by row, or log pi of choices: as `Student.forward` gives it."""


@runtime_checkable
class FamilyConfig(Protocol):
    """Sizes of a model: a frozen dataclass of plain values, which config.json holds."""

    @property
    def family(self) -> "Family": ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def token_channels(self) -> int: ...
    @property
    def num_classes(self) -> int | None:
        """How many classes the model knows; None for one that reads texts."""

    @property
    def image_size(self) -> int:
        """Pixels a side."""

    @property
    def one_step(self) -> OneStep:
        """How a one-step student draws."""


@runtime_checkable
class Context(Protocol):
    """What a model is told of a batch of images: everything but the tokens at `hidden`."""

    @property
    def hidden(self) -> Int64[Tensor, "B P"]: ...
    def to(self, device: torch.device | str) -> Self: ...
    def hidden_values(self) -> Float[Tensor, "B P D"]:
        """Return the values of the tokens at `hidden`, which are the real ones in the contexts of training."""

    def with_values(self, values: Float[Tensor, "B L D"]) -> Self:
        """Return the same context with other values of all tokens, of which those at `hidden` are not looked at."""


class Backbone(nn.Module, ABC):
    """Turns contexts into the conditions z from which its head denoises tokens."""

    config: Any
    """A FamilyConfig."""

    @property
    @abstractmethod
    def head(self) -> DenoisingHead: ...

    @abstractmethod
    def conditions(self, context: Any) -> Float[Tensor, "N W"]:
        """Return z of the hidden tokens, row by row: the one place where z is made."""

    @abstractmethod
    def unconditional(self, context: Any) -> Any:
        """Return the same context without its prompt, for guidance."""

    def head_alone(self) -> Self:
        """Freeze all but the head."""
        self.requires_grad_(False).head.requires_grad_()
        return self

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def one_step(self) -> OneStep:
        """How a student with these sizes draws."""
        return self.config.one_step


@runtime_checkable
class Codec(Protocol):
    """Between tokens and images; frozen."""

    @property
    def id(self) -> str:
        """Names the encoder: equal for equal tensors, and for no others."""

    def to(self, device: torch.device | str) -> "Codec": ...

    def decode(self, tokens: Tokens) -> Float[Tensor, "B C H W"]:
        """Return images in [-1, 1]; differentiable in the values of the tokens."""


@dataclass(frozen=True)
class CodecSizes:
    """image_size: pixels a side that it was trained on, None where that is not known. stride: pixels a side of one latent."""

    image_size: int | None
    image_channels: Literal[1, 3]
    stride: int
    latent_channels: int


class ImageEncoder(Protocol):
    """From images to rows of stage 1's data; frozen. reads_texts: its rows end with prompts in the place of class numbers."""

    reads_texts: bool

    @property
    def id(self) -> str:
        """That of its codec."""

    @property
    def sizes(self) -> CodecSizes: ...
    def to(self, device: torch.device | str) -> "ImageEncoder": ...
    def schema(self, size: int) -> pa.Schema:
        """Return the columns of images of `size` pixels a side, with what made them."""

    def columns(self, images: Float[Tensor, "N C H W"]) -> dict[str, Tensor]:
        """Turn images in [-1, 1] into all columns but the last one, a row each."""


@runtime_checkable
class Contexts(Protocol):
    """The training contexts of stage 1, of one rank's share of the data."""

    def batch(self, seed: int, step: int, size: int, generator: torch.Generator, drop: float = 0.0) -> Any:
        """Return batch number `step` on the CPU: a Context of `size` images with some tokens hidden.

        drop: share of the images whose prompt is left out, so that a teacher learns to do without (for guidance).
        """


@dataclass(frozen=True)
class RecordedLoop:
    """One loop of a rollout: its context, with all tokens of the image in it, and the noise n of the tokens that it predicted.

    drawn: what the rollout has in these places. explored: N(0, 1) that went into it, where the sampler explores.
    """

    context: Any
    noise: Float[Tensor, "N D"]
    drawn: Float[Tensor, "N D"]
    explored: Float[Tensor, "N D"] | None = None


@runtime_checkable
class Choices(Protocol):
    """Codes that a rollout drew in one loop, and in what it drew them."""

    @property
    def codes(self) -> Int64[Tensor, " N"]:
        """Those that were kept."""

    @property
    def images(self) -> Int64[Tensor, " N"]:
        """The row of the batch that each is of."""

    def log_probs(self, backbone: Any) -> Float[Tensor, "N V"]:
        """Return log pi of every code in each one's place, with gradient."""


@dataclass(frozen=True)
class Wish:
    """One image of a student. temperature: factor of its noise, 1 as in training."""

    prompt: Prompts
    seed: int
    index: int = 0
    loops: int = 64
    temperature: float = 1.0

    @property
    def draws(self) -> Draws:
        return Draws(self.seed, (self.index,))


@runtime_checkable
class Drawing(Protocol):
    """A wish under way. done: loops; a drawing ends when it is `finished`."""

    done: int

    @property
    def finished(self) -> bool: ...
    @property
    def tokens(self) -> Tokens:
        """What is drawn so far, a batch of one image."""


class Family(ABC):
    """One kind of model."""

    name: str
    """As config.json has it."""
    loops = 64
    """N_AR unless told otherwise."""
    hides_all = False
    """Whether all values are hidden in its contexts, so that the share of known ones tells guidance nothing."""

    def explores_codes(self, config: Any) -> bool:
        """Tell whether a rollout draws discrete codes at random, whose likelihood a policy gradient can weigh."""
        return False

    @abstractmethod
    def config(self, fields: dict[str, Any]) -> FamilyConfig:
        """Return the config of what config.json holds. Raises TypeError for other fields and ValueError for wrong values."""

    @abstractmethod
    def build(self, config: Any) -> Backbone:
        """Return a backbone with random weights, in float32."""

    @abstractmethod
    def codec(self, path: Path, config: Any) -> Codec:
        """Read the codec at `path`. Raises ValueError when it does not fit."""

    @abstractmethod
    def check_data(self, path: Path, config: Any, codec: str | None = None) -> None:
        """Raise ValueError unless `contexts` can read `path`. codec: id of the one that will decode."""

    @abstractmethod
    def contexts(self, path: Path, config: Any, rank: int, world: int, texts: Path | None = None) -> Contexts:
        """Open the data of stage 1. texts: the text encoder of a model that reads texts."""

    @abstractmethod
    def conditioner(self, config: Any, device: torch.device, texts: Path | None = None) -> Conditioner:
        """Return what turns prompts into conditions on `device`. texts: as of `contexts`.

        Raises ValueError when a model that reads texts has no text encoder, or one that does not fit.
        """

    @abstractmethod
    def reveal(
        self, backbone: Any, sampler: TokenSampler, condition: Condition, draws: Draws, loops: int
    ) -> Iterator[Tokens]:
        """Run the auto-regressive loops, and yield the tokens after each; hidden ones are zero."""

    @abstractmethod
    def recorded(
        self, rollout: Rollout, condition: Condition, sampler: TokenSampler, loops: int
    ) -> Iterator[RecordedLoop]:
        """Yield the loops in which `sampler` drew a rollout in `loops` loops; those that revealed nothing are left out."""

    def choices(self, rollout: Rollout, config: Any, condition: Condition) -> Iterator[Choices]:
        """Yield what was drawn of discrete codes in each loop of a rollout: nothing, where there are none."""
        return iter(())

    def read(self, path: Path, config: Any) -> Backbone:
        """Read weights into a backbone in float32. Raises ValueError when they cannot be read or do not fit."""
        return self._around(read_state(path), config, path)

    def load(self, state: StateDict, config: Any, source: Path | str) -> Backbone:
        """Return a backbone with copies of the weights `state`, which come from `source`. Raises ValueError when they do not fit."""
        return self._around({name: value.clone() for name, value in state.items()}, config, source)

    def _around(self, state: StateDict, config: Any, source: Path | str) -> Backbone:
        """Return a backbone whose weights are those of `state` themselves, so that memory never holds them twice."""
        with torch.device("meta"):
            backbone = self.build(config)
        own = backbone.state_dict()
        check_fit(own, state, source)
        for name, value in own.items():
            state[name] = state[name].to(value.dtype)
        backbone.load_state_dict(state, assign=True)
        return backbone

    def unread(self, text: str, backbone: Any, texts: Path | None = None) -> str:
        """Return the end of a prompt that the model does not read, "" of one that it reads whole. texts: as of `contexts`."""
        return ""

    def begin(self, wish: Wish, backbone: Any, texts: Path | None = None) -> Drawing:
        """Begin an image for the endpoint. texts: as of `contexts`."""
        return OneByOne(wish, backbone, texts)

    def advance(self, drawings: Sequence[Any]) -> None:
        """Run one loop of each; all are of one backbone and none is finished. Families that can share a call of it do."""
        for drawing in drawings:
            drawing.advance()


class OneByOne:
    """A drawing of a family whose images do not share calls of the backbone. It is one loop ahead, to know which is the last."""

    @torch.inference_mode()
    def __init__(self, wish: Wish, backbone: Backbone, texts: Path | None = None):
        c = backbone.config
        sampler = backbone.one_step.tempered(wish.temperature)
        condition = c.family.conditioner(c, backbone.device, texts)(wish.prompt)
        self._steps = c.family.reveal(backbone, sampler, condition, wish.draws, wish.loops)
        self.tokens = Tokens(torch.zeros(1, c.num_tokens, c.token_channels, device=backbone.device))
        self.done, self.finished = 0, False
        self._next: Tokens | None = next(self._steps)

    @torch.inference_mode()
    def advance(self) -> None:
        assert self._next is not None  # it is not finished
        self.tokens, self._next = self._next, next(self._steps, None)
        self.done, self.finished = self.done + 1, self._next is None
