"""What may be asked for: the fields of OpenAI's Images API, and the images that a request stands for."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from actors.serving.refusals import Refused
from marval_ray.class_names import find_class
from marval_ray.families.base import Wish
from marval_ray.types import Prompts

SEEDS = 2**32
MAX_IMAGES = 16

PROMPT = "Any text; of a model of classes one with the name of a class in it."
CLASS = "Number or name of a class, of a model of classes; it goes before `prompt`."
Ignored = Annotated[str | None, Field(description="Not looked at.")]


class ImageRequest(BaseModel):
    """What to draw. Image i of a request has the seed `seed` + i, and depends on its own seed alone. null is as good as leaving out."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    prompt: Annotated[str, Field(min_length=1, max_length=1000, examples=["an ankle boot"], description=PROMPT)] | None = None
    label: Annotated[int | str | None, Field(alias="class", description=CLASS)] = None
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES, description="Images.")] = 1
    seed: Annotated[int, Field(ge=0, lt=SEEDS, description="By default a random one.")] | None = None
    steps: Annotated[int, Field(ge=1, description="N_AR: auto-regressive loops an image.")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, description="Factor of the noise; training has 1.")] = 1.0
    size: Annotated[str, Field(max_length=20, description="auto, or the size of the model's images.")] = "auto"
    model: Annotated[str, Field(max_length=200)] | None = None
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png"] = "png"
    output_compression: Annotated[Literal[100], Field(description="PNG loses nothing.")] = 100
    background: Literal["auto", "opaque"] = "auto"
    stream: Annotated[bool, Field(description="Server-sent events instead of one answer.")] = False
    partial_images: Annotated[int, Field(ge=0, le=64, description="Looks at each image on the way, with `stream`.")] = 0
    quality: Ignored = None
    style: Ignored = None
    moderation: Ignored = None
    complexity: Ignored = None
    user: Ignored = None
    safety_identifier: Ignored = None

    @model_validator(mode="before")
    @classmethod
    def leave_out_null(cls, body: Any) -> Any:
        """Leave out null, which clients send for what is not set."""
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


@dataclass(frozen=True)
class ModelCard:
    """What is served, for those who ask and for checks. classes: none for models that read texts. size: rows and columns of an image."""

    name: str
    classes: tuple[str, ...]
    max_steps: int
    steps: int
    size: int

    @property
    def shape(self) -> str:
        """The size as OpenAI's API writes it."""
        return f"{self.size}x{self.size}"


def fields_of(card: ModelCard) -> str:
    """Return the names of what clients may send."""
    names = (field.alias or name for name, field in ImageRequest.model_fields.items())
    return ", ".join(name for name in names if card.classes or name != "class")


def wishes_of(request: ImageRequest, card: ModelCard) -> list[Wish]:
    """Return one wish for each image. Raises Refused."""
    if request.model is not None:
        check_model(request.model, card)
    if request.size not in ("auto", card.shape):
        raise Refused(400, f"size {ascii(request.size)} cannot be had: leave it out, or ask for {card.shape}", "size")
    steps = card.steps if request.steps is None else request.steps
    if steps > card.max_steps:
        raise Refused(422, f"steps: {steps} is more than the {card.max_steps} tokens of an image", "steps")
    first = secrets.randbelow(SEEDS) if request.seed is None else request.seed
    prompt = prompt_of(request, card.classes)
    return [Wish(prompt, (first + i) % SEEDS, loops=steps, temperature=request.temperature) for i in range(request.n)]


def check_model(name: str, card: ModelCard) -> None:
    """Raise Refused unless `name` is the model that is served."""
    if name != card.name:
        raise Refused(404, f"model {ascii(name[:200])} is not served here; {card.name!r} is", "model")


def prompt_of(request: ImageRequest, names: Sequence[str]) -> Prompts:
    """Return the prompt of all images: of a model of classes the class. Raises Refused."""
    if names:
        label = label_of(request, names)
        return Prompts((names[label],), torch.tensor([label]))
    if request.label is not None:
        raise Refused(400, "this model has no classes: say with prompt what to draw", "class")
    if request.prompt is None or not request.prompt.strip():
        raise Refused(400, "give prompt: a text that says what to draw", "prompt")
    return Prompts((request.prompt,))


def check_read(unread: str) -> None:
    """Raise Refused unless nothing of the prompt is unread: an image of a part of it would be another than is asked for."""
    if unread:
        raise Refused(400, f"prompt is too long: the model would not read its end, from {ascii(unread[:80])} on", "prompt")


def label_of(request: ImageRequest, names: Sequence[str]) -> int:
    """Return the class that is asked for. Raises Refused."""
    example = f"such as {names[0]!r}; GET /v1/models lists all {len(names)}"
    match request.label, request.prompt:
        case int(label), _ if 0 <= label < len(names):
            return label
        case int(label), _:
            raise Refused(400, f"class {label} is not one of 0 to {len(names) - 1}", "class")
        case str(name), _:
            folded = [known.casefold() for known in names]
            if name.casefold() not in folded:
                raise Refused(400, f"class {ascii(name[:80])} is unknown: give a name {example}", "class")
            return folded.index(name.casefold())
        case _, str(prompt):
            if (found := find_class(prompt, names)) is None:
                raise Refused(400, f"prompt {ascii(prompt[:80])} names no class of this model: name one {example}", "prompt")
            return found
    raise Refused(400, f"give prompt or class: a name {example}", "prompt")
