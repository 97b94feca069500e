"""Train the text-to-image teacher of scenes, a small DC-AR, together with the T5 encoder that reads its prompts.

    python jobs/embedded/train_scene_tokenizer.py
    python jobs/embedded/train_scene_teacher.py

OUT becomes a whole folder: teacher.safetensors, text_encoder/ and codec/, with a config.json that names both.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, Int64, UInt8
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from marval_ray import cli
from marval_ray.average import EMA
from marval_ray.config import check_at_least, check_seed, lr_factor
from marval_ray.device import own_device
from marval_ray.diffusion.schedule import cosine_diffusion
from marval_ray.distil.denoising import Noising
from marval_ray.embedded import scene_texts
from marval_ray.embedded.scene_files import load_scenes
from marval_ray.embedded.training_state import Part, load_state, save_state
from marval_ray.families.dcar.codec import DCHTCodec
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.context import DCARContext, TextStates
from marval_ray.families.dcar.loss import teacher_loss
from marval_ray.families.dcar.masking import training_mask
from marval_ray.families.dcar.model import DCAR
from marval_ray.families.dcar.presets import SCENES
from marval_ray.families.dcar.text import PAD
from marval_ray.files.atomic import write_json
from marval_ray.files.fit import save_weights
from marval_ray.files.images import to_tensor
from marval_ray.hub.exported import CODEC
from marval_ray.hub.layout import CONFIG, described
from marval_ray.scenes.scene import PHRASINGS, Scene

Coded = tuple[Int64[Tensor, "N L"], Float16[Tensor, "N L D"]]


@dataclass(frozen=True)
class Config:
    scenes: Path = Path("data/scenes/train.parquet")
    tokenizer: Path = Path("runs/scene-tokenizer")
    out: Path = Path("runs/scene-teacher")
    steps: int = 30000
    batch: int = 64
    repeats: int = 4
    """Draws of (timestep, noise) for each token in an update."""
    lr: float = 1e-3
    warmup: int = 300
    weight_decay: float = 0.02
    ema: float = 0.999
    text_drop: float = 0.1
    """Share of pictures that are learnt without their prompt."""
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
        check_at_least(1, self, "steps", "batch", "repeats", "save_every", prefix="--")
        if not 0 <= self.text_drop < 1:
            raise ValueError(f"--text-drop must be in [0, 1), got {self.text_drop}")


class Reader(nn.Module):
    """A generator and the text encoder that learns with it."""

    def __init__(self, config: DCARConfig):
        super().__init__()
        self.generator, self.texts = DCAR(config), scene_texts.new_encoder(config.text_width)

    def read(self, prompts: Sequence[str]) -> TextStates:
        """Return the states of prompts; padding takes part, as in `TextEncoder`, but gradients flow."""
        padding = {"padding": "max_length", "max_length": self.generator.config.text_length, "return_tensors": "pt"}
        tokens = scene_texts.tokenizer()(list(prompts), **padding).input_ids.to(self.generator.device)
        return TextStates(self.texts(input_ids=tokens).last_hidden_state.float(), tokens != PAD)


def main(config: Config) -> None:
    torch.manual_seed(config.seed)
    device = own_device()
    c = SCENES
    codec = DCHTCodec.read(config.tokenizer, c)
    pictures, scenes = load_scenes(config.scenes)
    reader = Reader(c).to(device)
    ema = EMA(dict(reader.named_parameters()), config.ema, EMA.warm_start_of(config.steps, config.ema))
    optimizer = torch.optim.AdamW(reader.parameters(), config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    parts: dict[str, Part] = {"model": reader, "ema": ema, "optimizer": optimizer}
    start = load_state(config.out, parts) if config.resume else 0
    config.out.mkdir(parents=True, exist_ok=True)  # a wrong place shows before hours of work
    coded = encoded(codec.to(device), pictures, device)
    end = min(config.steps, config.stop_after or config.steps)
    bar, began = tqdm(range(start, end), desc="teacher", initial=start, total=config.steps, mininterval=5), time.monotonic()
    averages: dict[str, float] = {}
    for step in bar:
        metrics = train_step(reader, coded, scenes, step, config)
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = config.lr * lr_factor(step, config.steps, config.warmup, end=0.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(dict(reader.named_parameters()))
        averages = {name: 0.98 * averages.get(name, value.item()) + 0.02 * value.item() for name, value in metrics.items()}
        bar.set_postfix({name: f"{value:.4f}" for name, value in averages.items()}, refresh=False)
        if (step + 1) % config.save_every == 0 or step + 1 == end:
            save_state(config.out, step + 1, parts)
            save_whole(config.out, reader, ema, config.tokenizer)
    print(f"updates {start + 1} to {end} took {time.monotonic() - began:.0f} s")


def encoded(codec: DCHTCodec, pictures: UInt8[np.ndarray, "N 64 64 3"], device: torch.device) -> Coded:
    """Return the codes of all pictures and their values in half precision, on the CPU."""
    codes, values = [], []
    for part in tqdm(torch.from_numpy(pictures).split(64), desc="encode", mininterval=5):
        tokens = codec.encode(to_tensor(part.numpy()).to(device))
        assert tokens.codes is not None  # DC-HT's tokens have them
        codes.append(tokens.codes.cpu())
        values.append(tokens.values.half().cpu())
    return torch.cat(codes), torch.cat(values)


def train_step(reader: Reader, coded: Coded, scenes: Sequence[Scene], step: int, config: Config) -> dict[str, Tensor]:
    """Back-propagate one batch; all draws come from (seed, step)."""
    generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) % 2**63)
    model, device = reader.generator, reader.generator.device
    chosen = torch.randint(len(scenes), (config.batch,), generator=generator)
    phrasings = torch.randint(len(PHRASINGS), (config.batch,), generator=generator)
    prompts = [scenes[index].prompt(phrasing) for index, phrasing in zip(chosen.tolist(), phrasings.tolist())]
    codes, values = coded[0][chosen], coded[1][chosen].float()
    masked = training_mask(torch.rand(len(codes), generator=generator), torch.rand(codes.shape, generator=generator))
    dropped = torch.rand(len(codes), generator=generator) < config.text_drop
    noising = Noising.draw(codes.numel() * config.repeats, model.config.token_channels, generator).to(device)
    # torch's fused attention on CPUs takes 2 to 5 times as long as plain products in bfloat16, and is the fastest in float32.
    attention = sdpa_kernel(SDPBackend.MATH) if config.bf16 else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16), attention:
        context = DCARContext.of(codes.to(device), masked.to(device), reader.read(prompts), values.to(device))
        context = replace(context, left_out=dropped.to(device))
        loss = teacher_loss(model, context, noising.t, noising.noise, cosine_diffusion(device=device))
    loss.value.backward()
    return loss.metrics


def save_whole(out: Path, reader: Reader, ema: EMA, tokenizer: Path) -> None:
    """Write the averaged generator and text encoder, a copy of the tokenizer, and what names all three."""
    averaged = reader.state_dict() | ema.shadow  # buffers are not averaged
    generator, texts = ({name.removeprefix(f"{part}."): value for name, value in averaged.items() if name.startswith(f"{part}.")}
                        for part in ("generator", "texts"))  # fmt: skip
    shutil.copytree(tokenizer, out / CODEC, dirs_exist_ok=True, ignore=shutil.ignore_patterns("state.pt"))
    scene_texts.save_encoder(out / scene_texts.FOLDER, reader.texts.config, texts)
    save_weights(out / "teacher.safetensors", generator, torch.float32)
    write_json(out / CONFIG, described(reader.generator.config) | {"vae": f"./{CODEC}", "texts": f"./{scene_texts.FOLDER}"})


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
