"""A student as users of diffusers know models:

    pipeline = MarvalPipeline.from_pretrained("models/mine").to("cuda", torch.bfloat16)
    pipeline(class_labels=[3, "ankle boot"], num_loops=8, generator=torch.Generator().manual_seed(0)).images[0].save("one.png")
    pipeline(prompts=["a red apple"])  # of a student that reads texts
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from marval_ray.config import check_seed
from marval_ray.families.generation import Generation, student_generation
from marval_ray.files.images import to_pixels
from marval_ray.hub.exported import Index
from marval_ray.hub.layout import codec_beside, load_model, texts_beside
from marval_ray.runs.students import student_of
from marval_ray.types import Prompts, Tokens

OutputType = Literal["pil", "np", "pt"]
OnLoop = Callable[["MarvalPipeline", int, Tensor], None]


@dataclass(frozen=True)
class PipelineOutput:
    """images: a list of PIL images, or (N, H, W, C) in [0, 1] as an array ("np"), or (N, C, H, W) in [0, 1] as a tensor ("pt")."""

    images: Any


class MarvalPipeline:
    """A one-step student with its codec. `index` is what model_index.json says."""

    def __init__(self, generation: Generation, index: Index):
        self.generation, self.index = generation, index
        self._bar: dict[str, Any] = {}

    @classmethod
    def from_pretrained(cls, folder: str | Path, torch_dtype: torch.dtype = torch.float32) -> "MarvalPipeline":
        """Read the folder of a run or an export onto the CPU. Raises ValueError when something is missing or does not fit.

        Nothing is fetched: `huggingface_hub.snapshot_download(NAME)` gives the folder of a model on the Hub.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder: of a model on the Hub give what huggingface_hub.snapshot_download returns")
        index, weights = Index.read(folder), student_of(folder)
        model = load_model(weights).eval().requires_grad_(False)
        codec = model.config.family.codec(codec_beside(weights), model.config)
        texts = texts_beside(weights)
        model.config.family.conditioner(model.config, model.device, texts)  # one that does not fit is refused here
        return cls(student_generation(model.to(torch_dtype), codec, index.loops, texts=texts), index)

    @property
    def device(self) -> torch.device:
        return self.generation.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the model; the codec's is float32."""
        return self.generation.model.dtype

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "MarvalPipeline":
        """Move the model, and cast it; the codec stays in float32. Returns the pipeline."""
        model, codec = self.generation.model.to(device, dtype), self.generation.codec.to(device)
        self.generation = replace(self.generation, model=model, codec=codec)
        return self

    def set_progress_bar_config(self, **options: Any) -> None:
        """Set options of the bar that counts loops, which are tqdm's; `disable=True` shows none."""
        self._bar = options

    def enable_vae_slicing(self) -> None:
        """Decode the images of a batch one by one: the codec's memory is that of one image, whatever the batch."""
        self.generation = replace(self.generation, decoded=1)

    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] = (),
        num_loops: int | None = None,
        generator: torch.Generator | int = 0,
        temperature: float = 1.0,
        output_type: OutputType = "pil",
        batch_size: int = 64,
        callback_on_loop_end: OnLoop | None = None,
        prompts: str | Sequence[str] = (),
    ) -> PipelineOutput:
        """Draw an image for each label, which is a number or a class name, or of a student that reads texts for each of `prompts`.

        num_loops: N_AR, 1..number of tokens; by default that of model_index.json. generator: its initial seed counts, or a seed
        itself: image i is what `jobs/sample.py --seed` draws as its image i. temperature: factor of the noise, 0..2.
        callback_on_loop_end: called with the pipeline, the loop's number, 0.., and the tokens so far, (B, L, D).
        Raises ValueError when a label or a number is out of range.
        """
        wanted = self._wanted(listed(class_labels), listed(prompts))
        seed = generator if isinstance(generator, int) else generator.initial_seed()
        check_seed(seed, "the seed")
        tokens, loops = self.generation.model.config.num_tokens, num_loops or self.index.loops
        if not 1 <= loops <= tokens:
            raise ValueError(f"num_loops must be in 1..{tokens}, the tokens of an image, got {loops}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= temperature <= 2:
            raise ValueError(f"temperature must be in 0..2, got {temperature}")
        sampler = self.generation.model.one_step.tempered(temperature)
        generation = replace(self.generation, sampler=sampler, loops=loops, batch=batch_size)
        batches = math.ceil(len(wanted) / batch_size)
        with tqdm(**{"total": batches * loops, "unit": "loop"} | self._bar) as bar:

            def on_loop(loop: int, tokens: Tokens) -> None:
                bar.update()
                if callback_on_loop_end is not None:
                    callback_on_loop_end(self, loop, tokens.values)

            return PipelineOutput(shown(generation.images(wanted, seed, on_loop=on_loop), output_type))

    def _wanted(self, labels: list[int | str], texts: list[str]) -> Prompts:
        """Return what to draw. Raises ValueError when nothing is asked for, or labels of a model that reads texts, or texts of another."""
        if self.generation.model.config.num_classes is None:
            if labels or not texts:
                raise ValueError("the model reads texts: give prompts, one for each image, and no class_labels")
            return Prompts(tuple(texts))
        if texts:
            raise ValueError("the model reads classes: give class_labels in the place of prompts")
        if not labels:
            raise ValueError("class_labels is empty: give a number or a class name for each image")
        return Prompts.of_labels(torch.tensor([self._label(one) for one in labels]))

    def _label(self, wanted: int | str) -> int:
        if isinstance(wanted, str):
            if wanted not in self.index.class_names:
                known = ", ".join(self.index.class_names[:20]) or "none: give numbers"
                raise ValueError(f"{wanted!r} is the name of no class; known are {known}")
            return self.index.class_names.index(wanted)
        classes = self.generation.model.config.num_classes
        if not 0 <= wanted < classes:
            raise ValueError(f"class {wanted} is out of range: the model's classes are 0-{classes - 1}")
        return wanted


def listed(wanted: Any) -> list[Any]:
    """Return one label or text, or several, as a list."""
    return [wanted] if isinstance(wanted, (int, str)) else list(wanted)


def shown(images: Tensor, output_type: OutputType) -> Any:
    """Return images in [-1, 1] in the form that was asked for. Raises ValueError when nobody knows it."""
    match output_type:
        case "pil":
            return [Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels) for pixels in to_pixels(images)]
        case "pt":
            return images.add(1).div(2).clamp(0, 1)
        case "np":
            return np.asarray(images.add(1).div(2).clamp(0, 1).permute(0, 2, 3, 1))
    raise ValueError(f"output_type must be pil, np or pt, got {output_type!r}")
