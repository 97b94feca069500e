"""Train a reward of scenes: a small CLIP on pictures and their prompts, then PickScore's preference loss on pairs of pictures.

    python jobs/embedded/train_scene_tokenizer.py
    python jobs/embedded/train_scene_reward.py

Each picture learns its own prompt among those of other pictures and those with one word changed. Preferred pictures of a pair are clean
ones. It reads neither judge. OUT is a folder that `--rl.rewards pickscore:OUT` reads.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPModel, CLIPProcessor

from marval_ray import cli
from marval_ray.config import check_at_least, check_seed
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.embedded import scene_texts
from marval_ray.embedded.clip_training import Cycle, contrastive_loss, new_clip, show_places
from marval_ray.embedded.preference import preference_loss
from marval_ray.embedded.scene_pairs import Images, ScenePairs, changed, drawn
from marval_ray.embedded.training_state import Part, load_state, save_state
from marval_ray.evaluation.scene_scores import places_of
from marval_ray.families.dcar.codec import DCHTCodec, load_dcht
from marval_ray.families.generation import Generation
from marval_ray.files.atomic import write_json
from marval_ray.hub.exported import CODEC
from marval_ray.hub.layout import load_model
from marval_ray.rewards.clip import CLIPReward
from marval_ray.scenes.drawing import pick
from marval_ray.scenes.scene import PHRASINGS, SIZE, Scene, Split, attributes
from marval_ray.types import Prompts

VISION = {"hidden_size": 160, "intermediate_size": 320, "num_hidden_layers": 4, "num_attention_heads": 5, "patch_size": 8}
TEXT = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3}
"""Sizes of a CLIP of about 1.2 million weights."""
GUIDANCE, LOOPS, STEPS = 2.0, 12, 32
"""With which the teacher's samples are drawn."""


@dataclass(frozen=True)
class Config:
    tokenizer: Path = Path("runs/scene-tokenizer")
    """Whose pictures of codes alone are the worse ones of some pairs."""
    teacher: Path | None = None
    """Folder of jobs/embedded/train_scene_teacher.py, whose samples are the worse ones of others."""
    out: Path = Path("runs/scene-reward")
    contrastive_steps: int = 2000
    preference_steps: int = 400
    batch: int = 64
    lr: float = 1.5e-3
    preference_lr: float = 3e-4
    teacher_samples: int = 400
    """Pictures of the teacher for training, and a quarter as many for the held-out pairs."""
    samples: int = 1000
    """Held-out scenes to measure it on, and pairs of each kind."""
    bf16: bool = False
    """Network of pictures in bfloat16: faster where the CPU has instructions for it."""
    seed: int = 0
    save_every: int = 200
    stop_after: int | None = None
    """End after this update, on the learning rates of all; --resume goes on."""
    resume: bool = False
    """Continue from OUT/state.pt."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_at_least(1, self, "contrastive_steps", "preference_steps", "samples", "save_every", prefix="--")
        check_at_least(2, self, "batch", prefix="--")
        check_at_least(4, self, "teacher_samples", prefix="--")


def main(config: Config) -> None:
    torch.manual_seed(config.seed)
    model, processor = new_clip(SIZE, VISION, TEXT, scene_texts.prompts())
    show_places(model)
    reward = CLIPReward(model, processor)
    words, quality = Cycle(model, config.lr, config.contrastive_steps), Cycle(model, config.preference_lr, config.preference_steps)
    parts: dict[str, Part] = {"model": model, "words": words, "quality": quality}
    start = load_state(config.out, parts) if config.resume else 0
    pairs = pairs_of(config)
    config.out.mkdir(parents=True, exist_ok=True)  # a wrong place shows before minutes of work
    whole = config.contrastive_steps + config.preference_steps
    end = min(whole, config.stop_after or whole)
    bar, began = tqdm(range(start, end), desc="scene reward", initial=start, total=whole, mininterval=5), time.monotonic()
    for step in bar:
        contrastive = step < config.contrastive_steps
        loss = contrastive_step(reward, step, config) if contrastive else preference_step(reward, pairs, step, config)
        (words if contrastive else quality).update(loss)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % config.save_every == 0 or step + 1 == end:
            save_state(config.out, step + 1, parts)
            save(config.out, model, processor)
    print(f"updates {start + 1} to {end} took {time.monotonic() - began:.0f} s")
    figures = {"told": told(reward, config.samples), "pair_accuracy": ranked(reward, pairs, config.samples)}
    write_json(config.out / "figures.json", {"updates": end, "samples": config.samples} | figures)
    for name, value in figures.items():
        print(name, value)


def pairs_of(config: Config) -> ScenePairs:
    """Read the models of which the worse pictures are. Raises ValueError when a file is missing or does not fit."""
    tokenizer = load_dcht(config.tokenizer)

    @torch.no_grad()
    def coarse(images: Images) -> Images:
        codes, residuals = tokenizer.encode(images)
        return tokenizer.decode(codes, 0 * residuals).clamp(-1, 1)

    counts: dict[Split, int] = {"train": config.teacher_samples, "held-out": config.teacher_samples // 4}
    return ScenePairs(coarse, samples_of(config.teacher, counts) if config.teacher else {})


def samples_of(teacher: Path, counts: dict[Split, int]) -> dict[Split, tuple[Images, list[Scene]]]:
    """Draw a teacher's pictures of so many scenes of each split."""
    model = load_model(teacher / "teacher.safetensors")
    model.config = replace(model.config, code_guidance=GUIDANCE)
    sampler = Ancestral(steps=STEPS, cfg=GUIDANCE, cfg_schedule="constant", clip_x0=1.0)
    generation = Generation(model, DCHTCodec.read(teacher / CODEC, model.config), sampler, LOOPS, 50, teacher / scene_texts.FOLDER)
    samples = {}
    for split, count in counts.items():
        scenes = drawn(0, 0, count, split)[1]
        prompts = Prompts(tuple(scene.prompt() for scene in scenes))
        samples[split] = (generation.images(prompts, 0, f"{split} samples").clamp(-1, 1), scenes)
    return samples


def contrastive_step(reward: CLIPReward, step: int, config: Config) -> Tensor:
    """Return the loss of update `step`: how well fresh pictures find their prompts."""
    images, scenes = drawn(config.seed, step * config.batch, config.batch, "train")
    rng = Random(f"prompts {config.seed} {step}")
    return finding(reward, look(reward, images, config.bf16), prompted(reward, scenes, rng), scenes, rng)


def preference_step(reward: CLIPReward, pairs: ScenePairs, step: int, config: Config) -> Tensor:
    """Return PickScore's loss on pairs of one kind, in turn, beside half of the loss before, which keeps words apart."""
    kind = pairs.kinds[step % len(pairs.kinds)]
    good, other, scenes = pairs.draw(kind, config.seed, step * config.batch, config.batch, "train")
    rng = Random(f"prompts {config.seed} {step}")
    seen, seen_other = look(reward, torch.cat([good, other]), config.bf16).chunk(2)
    texts = prompted(reward, scenes, rng)
    preferred, refused = (reward.similarity(features, texts[: len(scenes)]) for features in (seen, seen_other))
    return preference_loss(preferred, refused) + 0.5 * finding(reward, seen, texts, scenes, rng)


def look(reward: CLIPReward, images: Images, bf16: bool) -> Float[Tensor, "N F"]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return reward.image_features(images)


def prompted(reward: CLIPReward, scenes: Sequence[Scene], rng: Random) -> Float[Tensor, "K F"]:
    """Return the features of the scenes' prompts, then of those with another object, count, side and background."""
    phrasings = [pick(rng, range(len(PHRASINGS))) for _ in scenes]
    asked = [scenes, *([changed(scene, name, rng) for scene in scenes] for name in attributes())]
    return reward.text_features([scene.prompt(phrasing) for group in asked for scene, phrasing in zip(group, phrasings)])


def finding(
    reward: CLIPReward, seen: Float[Tensor, "N F"], texts: Float[Tensor, "K F"], scenes: Sequence[Scene], rng: Random
) -> Float[Tensor, ""]:
    """Return the contrastive loss of pictures among `texts`, whose first N are their own, and with each attribute alone.

    For an attribute the prompts are those of the first scene with all of its values.
    """
    scale, phrasing = reward.model.logit_scale.exp(), pick(rng, range(len(PHRASINGS)))
    loss = contrastive_loss(scale, seen, texts, torch.arange(len(scenes)))
    for (name, values), place in zip(attributes().items(), places_of(scenes).T):
        alone = reward.text_features([replace(scenes[0], **{name: value}).prompt(phrasing) for value in values])
        loss = loss + contrastive_loss(scale, seen, alone, place)
    return loss


def save(folder: Path, model: CLIPModel, processor: CLIPProcessor) -> None:
    """Write what `CLIPReward.load` reads."""
    model.save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)


@torch.no_grad()
def told(reward: CLIPReward, samples: int) -> dict[str, float]:
    """Return the share of held-out scenes whose prompt scores higher than with each word changed, by attribute, and than `all` four."""
    images, scenes = drawn(0, 0, samples, "held-out")
    seen, rng = torch.cat([reward.image_features(part) for part in images.split(100)]), Random("told")
    own = reward.similarity(seen, reward.text_features([scene.prompt() for scene in scenes]))
    better = {}
    for name in attributes():
        other = reward.text_features([changed(scene, name, rng).prompt() for scene in scenes])
        better[name] = own > reward.similarity(seen, other)
    better["all"] = torch.stack(list(better.values())).all(0)
    return {name: right.float().mean().item() for name, right in better.items()}


@torch.no_grad()
def ranked(reward: CLIPReward, pairs: ScenePairs, samples: int) -> dict[str, float]:
    """Return the share of held-out pairs of each kind in which the preferred picture scores higher."""
    shares = {}
    for kind in pairs.kinds:
        good, other, scenes = pairs.draw(kind, 0, 0, samples, "held-out")
        texts = reward.text_features([scene.prompt() for scene in scenes])
        scores = [torch.cat([reward.similarity(reward.image_features(a), b) for a, b in zip(side.split(100), texts.split(100))])
                  for side in (good, other)]  # fmt: skip
        shares[kind] = (scores[0] > scores[1]).float().mean().item()
    return shares


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
