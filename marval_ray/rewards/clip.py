"""Two-tower rewards in the format of transformers' CLIP: PickScore and the CLIP score."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from marval_ray.files.fit import check_finite, check_fit, check_report
from marval_ray.files.tensors import check_no_adapter, no_whole_model, read_state
from marval_ray.files.text import read_json
from marval_ray.rewards.preprocess import ImageTransform, cosine

# transformers reports files that are damaged, or of another kind of model, by whichever of these they lead to.
_UNREADABLE = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, SafetensorError, StrictDataclassError,
)  # fmt: skip


class CLIPReward(nn.Module):
    """scale x cosine(image, prompt).

    scale None is the model's own exp(logit_scale): PickScore (Kirstain et al., arXiv 2305.01569). scale 100 is the
    CLIP score (Hessel et al., arXiv 2104.08718), not cut off at zero.
    """

    differentiable = True

    def __init__(self, model: CLIPModel, processor: CLIPProcessor, scale: float | None = None):
        super().__init__()
        self.model, self.tokenizer = model, processor.tokenizer
        self.transform = ImageTransform.of(processor.image_processor)
        self.scale = scale
        self.texts: dict[str, Tensor] = {}

    @classmethod
    def load(cls, folder: Path, scale: float | None = None) -> "CLIPReward":
        """Read a frozen reward from a folder; safetensors only.

        Raises ValueError when it cannot be read or its weights do not fit. The folder holds the processor's files too;
        PickScore's authors take those of laion/CLIP-ViT-H-14-laion2B-s32B-b79K.
        """
        try:
            loaded: Any = CLIPModel.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, ignore_mismatched_sizes=True, output_loading_info=True
            )
            model, report = loaded
            processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
            check_processor(processor, model)
        except _UNREADABLE as error:
            raise _no_reward(folder, error) from error
        if model._hf_peft_config_loaded:  # transformers adds what lies beside a model, unasked
            raise no_whole_model(folder)
        check_report(report, folder)
        check_finite(model.state_dict(), folder)
        return cls(model, processor, scale).eval().requires_grad_(False)

    @staticmethod
    def check(folder: Path) -> None:
        """Raise ValueError unless `load` can read the local folder, without taking memory for the weights."""
        check_no_adapter(folder)
        path = folder / "config.json"
        if not path.exists():
            raise ValueError(f"{path} is missing: the folder of a CLIP reward holds its config, weights and processor")
        kind = read_json(path).get("model_type")
        if kind != "clip":
            raise ValueError(f"{path} is the config of a {kind}, not of a CLIP")
        try:
            config = CLIPConfig.from_pretrained(folder, local_files_only=True)
            with torch.device("meta"):
                model = CLIPModel(config)
            check_processor(CLIPProcessor.from_pretrained(folder, local_files_only=True), model)
        except _UNREADABLE as error:
            raise _no_reward(folder, error) from error
        whole = folder / "model.safetensors"
        weights = whole if whole.exists() else folder / "model.safetensors.index.json"
        state = read_state(weights if weights.exists() else whole)
        # Older files have the numbers of the positions too.
        check_fit(model.state_dict(), {name: value for name, value in state.items() if not name.endswith("position_ids")}, weights)

    def forward(self, images: Float[Tensor, "B C H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        seen = self.image_features(images)
        return self.similarity(seen, self.cached_text_features(prompts).to(seen))

    def similarity(self, images: Float[Tensor, "B F"], texts: Float[Tensor, "B F"]) -> Float[Tensor, " B"]:
        """Return the scores of features."""
        scale = self.model.logit_scale.exp() if self.scale is None else self.scale
        return scale * cosine(images, texts)

    def image_features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        pixels = self.transform(images).to(self.model.dtype)
        return self.model.get_image_features(pixels).pooler_output.float()

    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "B F"]:
        length = self.model.text_model.embeddings.position_embedding.num_embeddings
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        return self.model.get_text_features(**tokens.to(self.model.device)).pooler_output.float()

    @torch.no_grad()
    def cached_text_features(self, prompts: Sequence[str]) -> Float[Tensor, "B F"]:
        """Return the text features of a frozen model; the prompts of a run are few and come again and again.

        Each is taken alone: in a batch its last bits would depend on the others, and a run's on which worker saw what first.
        """
        for prompt in set(prompts) - self.texts.keys():
            self.texts[prompt] = self.text_features([prompt])[0]
        return torch.stack([self.texts[prompt] for prompt in prompts])


def check_processor(processor: CLIPProcessor, model: CLIPModel) -> None:
    """Raise ValueError unless the processor makes what the model reads."""
    transform, side = ImageTransform.of(processor.image_processor), model.vision_model.embeddings.image_size
    if transform.crop != side:
        raise ValueError(f"its processor makes images of {transform.crop} pixels, its model reads {side}")
    words, known = len(processor.tokenizer), model.text_model.embeddings.token_embedding.num_embeddings
    if not 2 < words <= known:
        raise ValueError(f"its tokenizer has {words} tokens, its model reads {known}: is tokenizer.json (or vocab.json) there?")


def _no_reward(folder: Path, error: Exception) -> ValueError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return ValueError(f"no CLIP reward at {folder}: {reason[0]}")
