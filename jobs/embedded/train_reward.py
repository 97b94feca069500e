"""Train the embedded reward: a small CLIP on (image, prompt), then PickScore's preference loss on pairs of images.

Good images of a pair are real ones of the prompt's class, or samples of distilled students. Bad ones are spoiled
images, latents with noise, images of another class, one-step samples of the undistilled teacher, and, against real
ones, samples of the students, which come three times as often. Held-out pairs (test images, other seeds) measure how well it ranks.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from marval_ray import cli
from marval_ray.config import check_seed
from marval_ray.embedded import assets_index
from marval_ray.embedded.clip_training import Cycle, contrastive_loss, new_clip
from marval_ray.embedded.fashion_mnist import CLASS_NAMES
from marval_ray.embedded.preference import Pairs, Pool, flipped, preference_loss
from marval_ray.families.generation import student_generation
from marval_ray.families.mar.autoencoder import load_vae
from marval_ray.families.mar.codec import KLCodec
from marval_ray.families.mar.vae import VAE
from marval_ray.files.atomic import write_json
from marval_ray.files.images import crop_to, read_images, to_tensor
from marval_ray.files.latents import LatentDataset
from marval_ray.hub.layout import load_model
from marval_ray.prompts import TEMPLATE, class_prompts
from marval_ray.rewards.clip import CLIPReward
from marval_ray.types import Prompts

TEMPLATES = (TEMPLATE, "A photo of {}", "{}", "An image of the class {}")
SIDE = 28
VISION = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4, "patch_size": 4}
TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
"""Sizes of a CLIP of about 0.7 million weights."""


@dataclass(frozen=True)
class Config:
    train: Path = Path("data/fashion-mnist/train.parquet")
    test: Path = Path("data/fashion-mnist/test.parquet")
    latents: Path = assets_index.LATENTS
    vae: Path = assets_index.VAE
    teacher: Path = assets_index.TEACHER
    students: tuple[Path, ...] = (assets_index.GSIM_STUDENT, assets_index.STUDENT)
    loops: tuple[int, ...] = (8, 16)
    """Each student draws with each of these N_AR."""
    out: Path = Path("runs/reward")
    samples: int = 2000
    """Generated images of each kind for training, and half as many for the held-out pairs."""
    contrastive_steps: int = 1500
    preference_steps: int = 700
    batch: int = 128
    lr: float = 1e-3
    preference_lr: float = 3e-4
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)


def main(config: Config) -> None:
    torch.manual_seed(config.seed)
    vae = load_vae(config.vae)
    train = make_pairs(config, vae, config.train, config.samples, seed=10)
    test = make_pairs(config, vae, config.test, config.samples // 2, seed=11)
    prompts = [prompt for template in TEMPLATES for prompt in class_prompts(CLASS_NAMES, template)]
    model, processor = new_clip(SIDE, VISION, TEXT, prompts)
    reward = CLIPReward(model, processor)
    contrastive(reward, train, config)
    preference(reward, train, config)
    figures = {"contrastive_accuracy": class_accuracy(reward, test.real), "pair_accuracy": ranked(reward, test)}
    for name, value in figures.items():
        print(name, value)
    reward.model.save_pretrained(config.out, safe_serialization=True)
    processor.save_pretrained(config.out)
    write_json(config.out / "figures.json", figures)


def make_pairs(config: Config, vae: VAE, images: Path, samples: int, seed: int) -> Pairs:
    pixels, targets = read_images(images)
    latents, classes = LatentDataset(config.latents, load_model(config.teacher).config.latent_shape).batch(seed, 0, samples)
    return Pairs(
        Pool(to_tensor(pixels), torch.from_numpy(targets.copy())),
        samples_of(config.students, config.loops, vae, samples, seed),
        samples_of((config.teacher,), config.loops[:1], vae, samples, seed),
        Pool(decode(vae, spoiled(latents, seed)), classes),
    )


def samples_of(models: tuple[Path, ...], loops: tuple[int, ...], vae: VAE, samples: int, seed: int) -> Pool:
    """Draw about `samples` images in one step a token, as many by each model with each N_AR."""
    painters = [student_generation(model, KLCodec(vae, model.config), n) for model in map(load_model, models) for n in loops]
    asked = torch.arange(samples // len(painters)) % len(CLASS_NAMES)
    prompts = Prompts.of_labels(asked)
    drawn = [painter.images(prompts, seed + 100 * number, f"model {number}") for number, painter in enumerate(painters)]
    return Pool(torch.cat(drawn), asked.repeat(len(painters)))


def spoiled(latents: Float[Tensor, "B C h w"], seed: int) -> Float[Tensor, "B C h w"]:
    """Return latents with noise of standard deviation 0.3 to 0.9 of their own."""
    generator = torch.Generator().manual_seed(seed)
    level = 0.3 + 0.6 * torch.rand(len(latents), 1, 1, 1, generator=generator)
    return latents + level * torch.randn(latents.shape, generator=generator)


@torch.inference_mode()
def decode(vae: VAE, latents: Tensor) -> Tensor:
    parts = [vae.decode(part).clamp(-1, 1) for part in tqdm(latents.split(100), desc="noisy latents")]
    return crop_to(torch.cat(parts), SIDE)


def contrastive(reward: CLIPReward, pairs: Pairs, config: Config) -> None:
    """Train with the contrastive loss of images against one prompt of each class."""
    generator = torch.Generator().manual_seed(config.seed)
    cycle = Cycle(reward, config.lr, config.contrastive_steps)
    for _ in (bar := tqdm(range(config.contrastive_steps), desc="contrastive", mininterval=2)):
        labels = torch.randint(len(CLASS_NAMES), (config.batch,), generator=generator)
        images = flipped(pairs.real.draw(labels, generator), generator)
        texts = reward.text_features(prompts_of(torch.arange(len(CLASS_NAMES)), generator))
        loss = contrastive_loss(reward.model.logit_scale.exp(), reward.image_features(images), texts, labels)
        cycle.update(loss)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def preference(reward: CLIPReward, pairs: Pairs, config: Config) -> None:
    """Train with PickScore's loss on pairs of a random kind, beside the contrastive loss, which keeps classes apart."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    cycle = Cycle(reward, config.preference_lr, config.preference_steps)
    for index in (bar := tqdm(range(config.preference_steps), desc="preference", mininterval=2)):
        labels = torch.randint(len(CLASS_NAMES), (config.batch,), generator=generator)
        good, bad = pairs.draw(Pairs.KINDS[index % len(Pairs.KINDS)], labels, generator)
        good_features, bad_features = reward.image_features(torch.cat([good, bad])).chunk(2)
        texts = reward.text_features(prompts_of(torch.arange(len(CLASS_NAMES)), generator))
        preferred = preference_loss(reward.similarity(good_features, texts[labels]), reward.similarity(bad_features, texts[labels]))
        loss = preferred + 0.5 * contrastive_loss(reward.model.logit_scale.exp(), good_features, texts, labels)
        cycle.update(loss)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def prompts_of(labels: Tensor, generator: torch.Generator) -> list[str]:
    """Return a prompt of each label, from one random template."""
    template = TEMPLATES[int(torch.randint(len(TEMPLATES), (), generator=generator))]
    prompts = class_prompts(CLASS_NAMES, template)
    return [prompts[label] for label in labels.tolist()]


@torch.no_grad()
def class_accuracy(reward: CLIPReward, pool: Pool) -> float:
    """Return the share of images whose own prompt scores best."""
    texts = F.normalize(reward.text_features(class_prompts(CLASS_NAMES)), dim=-1)
    seen = torch.cat([reward.image_features(part) for part in pool.images.split(500)])
    return (seen @ texts.T).argmax(-1).eq(pool.labels).float().mean().item()


@torch.no_grad()
def ranked(reward: CLIPReward, pairs: Pairs) -> dict[str, float]:
    """Return the share of 1,000 held-out pairs of each kind in which the preferred image scores higher."""
    labels = torch.arange(1000) % len(CLASS_NAMES)
    texts = reward.text_features([class_prompts(CLASS_NAMES)[label] for label in labels.tolist()])
    shares = {}
    for kind in Pairs.KINDS:
        good, bad = pairs.draw(kind, labels, torch.Generator().manual_seed(0))
        margin = reward.similarity(reward.image_features(good), texts) - reward.similarity(reward.image_features(bad), texts)
        shares[kind] = (margin > 0).float().mean().item()
    return shares


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
