"""HPSv2 (Wu et al., arXiv 2306.09341): cosine similarity in a CLIP ViT-H-14 of open_clip, tuned on preferences."""

from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor, nn

from marval_ray.files.fit import check_fit, load_strictly
from marval_ray.files.tensors import read_state
from marval_ray.rewards.preprocess import PaddedTransform, cosine


class HPSReward(nn.Module):
    """cosine(image, prompt); about 0.2 to 0.3 for the published weights."""

    differentiable = True

    def __init__(self, model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer):
        super().__init__()
        self.model: open_clip.CLIP = model
        self.tokenizer = tokenizer
        size = open_clip.get_model_preprocess_cfg(model)["size"]
        side = size[0] if isinstance(size, (tuple, list)) else size
        self.transform = PaddedTransform(side)

    @classmethod
    def load(cls, checkpoint: Path, architecture: str = "ViT-H-14") -> "HPSReward":
        """Read a frozen reward from HPS_v2_compressed.pt, HPS_v2.1_compressed.pt or safetensors.

        Raises ValueError when the file cannot be read safely or does not fit.
        """
        model = open_clip.create_model(architecture, pretrained=None, load_weights=False)
        load_strictly(model, read_state(checkpoint), checkpoint)
        return cls(model, open_clip.get_tokenizer(architecture)).eval().requires_grad_(False)

    @staticmethod
    def check(checkpoint: Path, architecture: str = "ViT-H-14") -> None:
        """Raise ValueError unless `load` can read the file, without taking memory for the weights."""
        with torch.device("meta"):
            model = open_clip.create_model(architecture, pretrained=None, load_weights=False, device="meta")
        check_fit(model.state_dict(), read_state(checkpoint), checkpoint)

    def forward(self, images: Float[Tensor, "B C H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
        tokens = self.tokenizer(list(prompts)).to(images.device)
        return cosine(self.model.encode_image(self.transform(images)), self.model.encode_text(tokens))
