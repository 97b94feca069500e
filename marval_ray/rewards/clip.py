"""Two-tower rewards in the format of transformers' CLIP: PickScore and the CLIP score."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPModel, CLIPProcessor

from marval_ray.rewards.preprocess import ImageTransform, cosine


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
    def load(cls, folder: str, scale: float | None = None) -> "CLIPReward":
        """A frozen reward from a local folder or a name on the Hugging Face hub; safetensors only.

        Raises ValueError when it cannot be read. The folder holds the processor's files too; PickScore's authors take
        those of laion/CLIP-ViT-H-14-laion2B-s32B-b79K.
        """
        local = Path(folder).is_dir()
        try:
            model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=local)
            processor = CLIPProcessor.from_pretrained(folder, local_files_only=local)
        except OSError as error:
            raise ValueError(f"no CLIP reward at {folder}: {str(error).splitlines()[0]}") from error
        return cls(model, processor, scale).eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "B C H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        seen = self.image_features(images)
        return self.similarity(seen, self.cached_text_features(prompts).to(seen))

    def similarity(self, images: Float[Tensor, "B F"], texts: Float[Tensor, "B F"]) -> Float[Tensor, " B"]:
        """Scores of features."""
        scale = self.model.logit_scale.exp() if self.scale is None else self.scale
        return scale * cosine(images, texts)

    def image_features(self, images: Tensor) -> Float[Tensor, "B F"]:
        pixels = self.transform(images).to(self.model.dtype)
        return self.model.get_image_features(pixels).pooler_output.float()

    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "B F"]:
        length = self.model.text_model.embeddings.position_embedding.num_embeddings
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        return self.model.get_text_features(**tokens.to(self.model.device)).pooler_output.float()

    @torch.no_grad()
    def cached_text_features(self, prompts: Sequence[str]) -> Float[Tensor, "B F"]:
        """Text features of a frozen model; the prompts of a run are few and come again and again.

        Each is taken alone: in a batch its last bits would depend on the others, and a run's on which worker saw what first.
        """
        for prompt in set(prompts) - self.texts.keys():
            self.texts[prompt] = self.text_features([prompt])[0]
        return torch.stack([self.texts[prompt] for prompt in prompts])
