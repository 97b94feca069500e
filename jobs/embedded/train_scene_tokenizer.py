"""Train the tokenizer of scenes, a small DC-HT: 64 x 64 pixels to 8 x 8 tokens, each a code and a residual.

    python jobs/embedded/prepare_scenes.py
    python jobs/embedded/train_scene_tokenizer.py

As DC-AR's is trained (arXiv 2507.04947), without its last stage: first the decoder reads the encoder's output alone; then k-means makes a
codebook of that output, and about half of the pictures are decoded from codes alone. With
--decoder-of the decoder of one that is there learns on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from marval_ray import cli
from marval_ray.config import check_at_least, check_seed, lr_factor
from marval_ray.device import own_device
from marval_ray.embedded import assets_index
from marval_ray.embedded.reconstruction import reconstruction
from marval_ray.embedded.scene_files import load_scenes
from marval_ray.embedded.training_state import Part, load_state, save_state
from marval_ray.evaluation.evaluators import load_evaluator
from marval_ray.evaluation.features import SCENE_ARCHITECTURES, load_features
from marval_ray.families.dcar.codebook import revived, spherical_kmeans
from marval_ray.families.dcar.codec import load_dcht
from marval_ray.families.dcar.presets import SCENES, SCENES_TOKENIZER
from marval_ray.families.dcar.tokenizer import DCHT, RecordedBatchNorm
from marval_ray.files.atomic import write_json
from marval_ray.files.fit import save_weights
from marval_ray.files.images import to_tensor
from marval_ray.loss import Loss
from marval_ray.scenes.drawing import draw
from marval_ray.types import Prompts

COMMITMENT = 0.25
FOLLOWING = 0.05
"""How far a norm's statistics go towards those of a batch in an update."""
KMEANS_PICTURES, KMEANS_ROUNDS = 512, 20
DEAD = 0.03
"""A code is dead when fewer tokens have it than this share of the mean."""

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Config:
    scenes: Path = Path("data/scenes/train.parquet")
    out: Path = Path("runs/scene-tokenizer")
    decoder_of: Path | None = None
    """A tokenizer of which the encoder and the codes stay, as models have learnt them: the decoder alone learns on."""
    perceptual: Path | None = None
    """Plain judge (jobs/embedded/train_scene_judge.py) whose feature maps join the loss: neither A nor B, which measure."""
    perceptual_weight: float = 1.0
    steps: int = 6000
    continuous: int = 800
    """Updates without codes. The statistics of batch norms follow their inputs till then, and stay."""
    batch: int = 32
    lr: float = 2e-3
    warmup: int = 100
    revive_every: int = 200
    """Updates after which dead codes are replaced by outputs of the encoder."""
    samples: int = 1000
    """Held-out scenes to measure it on."""
    bf16: bool = False
    """Networks in bfloat16: faster where the CPU has instructions for it."""
    seed: int = 0
    save_every: int = 250
    stop_after: int | None = None
    """End after this update, on the learning-rate schedule of `steps`; --resume goes on."""
    resume: bool = False
    """Continue from OUT/state.pt."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_at_least(1, self, "steps", "batch", "revive_every", "save_every", prefix="--")
        check_at_least(2, self, "samples", prefix="--")


class Uses(nn.Module):
    """How many tokens had each code since codes were last revived."""

    counts: Int64[Tensor, " K"]

    def __init__(self, codes: int):
        super().__init__()
        self.register_buffer("counts", torch.zeros(codes, dtype=torch.int64))


def main(config: Config) -> None:
    torch.manual_seed(config.seed)
    device = own_device()
    distance = distance_of(config, device)
    pictures, _ = load_scenes(config.scenes)
    tokenizer = tokenizer_of(config).to(device).to(memory_format=torch.channels_last)
    learning = [value for value in tokenizer.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learning, config.lr, betas=(0.9, 0.95), weight_decay=0)
    uses = Uses(tokenizer.config.num_codes).to(device)
    parts: dict[str, Part] = {"model": tokenizer, "optimizer": optimizer, "uses": uses}
    start = load_state(config.out, parts) if config.resume else 0
    config.out.mkdir(parents=True, exist_ok=True)  # a wrong place shows before minutes of work
    end = min(config.steps, config.stop_after or config.steps)
    new = config.decoder_of is None
    hooks = follow(tokenizer) if new and start < config.continuous else []
    bar, began = tqdm(range(start, end), desc="tokenizer", initial=start, total=config.steps, mininterval=5), time.monotonic()
    for step in bar:
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % 2**63)
        if new and step == config.continuous:
            for hook in hooks:
                hook.remove()
            begin_codebook(tokenizer, some(pictures, KMEANS_PICTURES, generator).to(device), generator)
        images = some(pictures, config.batch, generator).to(device)
        quantised = not new or step >= config.continuous
        loss, z, codes = train_step(tokenizer, images, quantised, distance, generator, config.bf16)
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.param_groups[0]["lr"] = config.lr * lr_factor(step, config.steps, config.warmup, end=0.0)
        optimizer.step()
        optimizer.zero_grad()
        uses.counts += torch.bincount(codes.flatten(), minlength=len(uses.counts))
        if new and (step + 1) % config.revive_every == 0:
            revive(tokenizer, uses, z.flatten(0, 1), generator)
        bar.set_postfix({name: f"{value.item():.4f}" for name, value in loss.metrics.items()}, refresh=False)
        if (step + 1) % config.save_every == 0 or step + 1 == end:
            save_state(config.out, step + 1, parts)
            save(config.out, tokenizer)
    print(f"updates {start + 1} to {end} took {time.monotonic() - began:.0f} s")
    figures = measure(tokenizer.to("cpu").eval(), config.samples)
    write_json(config.out / "figures.json", {"updates": end, "samples": config.samples} | figures)
    print(f"{config.out}:", figures)


def tokenizer_of(config: Config) -> DCHT:
    """Return a new tokenizer, or one of which the decoder alone is trained."""
    if config.decoder_of is None:
        return DCHT(SCENES_TOKENIZER)
    tokenizer = load_dcht(config.decoder_of).train()
    tokenizer.decoder.requires_grad_()
    return tokenizer


def distance_of(config: Config, device: torch.device) -> Distance:
    classifier = load_features(config.perceptual, SCENE_ARCHITECTURES.values()).to(device) if config.perceptual else None
    return partial(reconstruction, classifier=classifier, weight=config.perceptual_weight)


def some(pictures: UInt8[np.ndarray, "N 64 64 3"], count: int, generator: torch.Generator) -> Float[Tensor, "M 3 64 64"]:
    """Draw pictures."""
    return to_tensor(pictures[torch.randint(len(pictures), (count,), generator=generator).numpy()])


def follow(tokenizer: DCHT) -> list[Any]:
    """Let the statistics of the norms, by which they normalise in training too, follow their inputs; return what ends it.

    Gradients take them for constants, and so they are from then on.
    """
    return [m.register_forward_pre_hook(record) for m in tokenizer.decoder.modules() if isinstance(m, RecordedBatchNorm)]


@torch.no_grad()
def record(norm: RecordedBatchNorm, inputs: tuple[Tensor]) -> None:
    assert norm.running_mean is not None and norm.running_var is not None  # a DC-HT's have both
    variance, mean = torch.var_mean(inputs[0].float(), (0, 2, 3))
    norm.running_mean.lerp_(mean, FOLLOWING)
    norm.running_var.lerp_(variance, FOLLOWING)


def train_step(
    tokenizer: DCHT, images: Float[Tensor, "N 3 64 64"], quantised: bool, distance: Distance, generator: torch.Generator, bf16: bool
) -> tuple[Loss, Float[Tensor, "N L D"], Int64[Tensor, "N L"]]:
    """Back-propagate one batch; return its loss, the vectors z of its tokens and their codes."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        z = tokenizer.directions(images)
    z = F.normalize(z.float(), dim=-1)
    codes = tokenizer.quantize.nearest(z.detach())
    z_q = tokenizer.quantize.vectors(codes)
    from_codes = (torch.rand(len(images), generator=generator) < 0.5 * quantised).to(z.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        decoded = tokenizer.picture(torch.where(from_codes[:, None, None], z + (z_q - z).detach(), z))
    value = distance(decoded.float(), images)
    of_codes = F.mse_loss(z_q, z.detach()) + COMMITMENT * F.mse_loss(z, z_q.detach())
    (value + quantised * of_codes).backward()
    metrics = {"image": value.detach(), "codes": of_codes.detach()}
    return Loss(value, metrics), z.detach(), codes


@torch.no_grad()
def begin_codebook(tokenizer: DCHT, images: Float[Tensor, "N 3 64 64"], generator: torch.Generator) -> None:
    z = torch.cat([tokenizer.directions(part) for part in images.split(64)]).flatten(0, 1)
    tokenizer.quantize.embedding.weight.copy_(spherical_kmeans(z, tokenizer.config.num_codes, KMEANS_ROUNDS, generator))


@torch.no_grad()
def revive(tokenizer: DCHT, uses: Uses, vectors: Float[Tensor, "M D"], generator: torch.Generator) -> None:
    """Put some of `vectors` in the place of dead codes, and count uses anew."""
    weight = tokenizer.quantize.embedding.weight
    weight.copy_(revived(weight, uses.counts < DEAD * uses.counts.float().mean(), vectors, generator))
    uses.counts.zero_()


def save(folder: Path, tokenizer: DCHT) -> None:
    """Write a folder as the published one, which `DCHTCodec.read` reads."""
    c = tokenizer.config
    kind = {"model_type": "dc_ht", "model_name": "dc-ae-f32-in-1.0", "quantizer_type": "hybrid_vq", "codebook_l2_norm": True}
    sizes = {"widths": c.widths, "encoder_depths": c.encoder_depths, "decoder_depths": c.decoder_depths}
    scale = {"residual_scale": SCENES.residual_scale}  # by which jobs/encode.py divides
    write_json(folder / "config.json", kind | sizes | {"codebook_size": c.num_codes, "codebook_embed_dim": c.token_channels} | scale)
    save_weights(folder / "model.safetensors", tokenizer.state_dict(), torch.float32)


@torch.no_grad()
def measure(tokenizer: DCHT, samples: int) -> dict[str, Any]:
    """Return what judge A sees in held-out scenes, decoded with residuals and without, and figures of their codes and residuals."""
    _, pictures, texts = zip(*(draw(0, index, "held-out") for index in range(samples)))
    images, prompts = to_tensor(np.stack(pictures)), Prompts(texts)
    judge = load_evaluator(assets_index.SCENE_CLASSIFIER, assets_index.SCENE_REFERENCE)
    tokens = [tokenizer.encode(part) for part in images.split(64)]
    codes, residuals = (torch.cat(parts) for parts in zip(*tokens))
    whole = torch.cat([tokenizer.decode(*part).clamp(-1, 1) for part in tokens])
    coarse = torch.cat([tokenizer.decode(part, 0 * residual).clamp(-1, 1) for part, residual in tokens])
    shares = torch.bincount(codes.flatten(), minlength=tokenizer.config.num_codes) / codes.numel()
    return {
        "residual_std": residuals.std().item(),
        "residual_std_of_channels": residuals.flatten(0, 1).std(0).tolist(),
        "perplexity": torch.special.entr(shares).sum().exp().item(),
        "mse": F.mse_loss(whole, images).item(),
        "mse_of_codes": F.mse_loss(coarse, images).item(),
        "judged": judge.score(whole, prompts).known(),
        "judged_of_codes": judge.score(coarse, prompts).known(),
    }


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
