"""Train the embedded reward: a small CLIP on (image, prompt), then PickScore's preference loss on pairs of images.

Good images of a pair are real ones of the prompt's class, or samples of distilled students. Bad ones are spoiled
images, latents with noise, images of another class, one-step samples of the undistilled teacher, and, against real
ones, samples of the students, which come three times as often. Held-out pairs (test images, other seeds) measure how well it ranks.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from marval_ray import cli
from marval_ray.config import check_seed
from marval_ray.embedded import assets_index
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

TEMPLATES = (TEMPLATE, "A photo of {}", "{}", "An image of the class {}")
SIDE = 28
from marval_ray.types import Prompts


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
    model, processor = new_clip()
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


def new_clip() -> tuple[CLIPModel, CLIPProcessor]:
    """Make a CLIP of about 0.7 million weights, and a processor with a byte-pair tokenizer made from the prompts."""
    tokenizer = new_tokenizer()
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {
        "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": 4,
    }  # fmt: skip
    text = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": len(tokenizer), "max_position_embeddings": 32, **special,
    }  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))
    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return model, CLIPProcessor(images, tokenizer)


def new_tokenizer() -> CLIPTokenizer:
    start, end = "<|startoftext|>", "<|endoftext|>"
    learned = Tokenizer(models.BPE(unk_token=end, end_of_word_suffix="</w>"))
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[start, end], end_of_word_suffix="</w>",
        initial_alphabet=[chr(c) for c in range(33, 127)], show_progress=False,
    )  # fmt: skip
    prompts = [prompt.lower() for template in TEMPLATES for prompt in class_prompts(CLASS_NAMES, template)]
    learned.train_from_iterator(prompts, trainer)
    learned_model = json.loads(learned.to_str())["model"]
    merges = [tuple(pair) for pair in learned_model["merges"]]
    return CLIPTokenizer(vocab=learned_model["vocab"], merges=merges, model_max_length=32)  # type: ignore[arg-type]


def contrastive(reward: CLIPReward, pairs: Pairs, config: Config) -> None:
    """Train with the contrastive loss of images against one prompt of each class."""
    generator = torch.Generator().manual_seed(config.seed)
    for _, step in updates(reward, "contrastive", config.contrastive_steps, config.lr):
        labels = torch.randint(len(CLASS_NAMES), (config.batch,), generator=generator)
        images = flipped(pairs.real.draw(labels, generator), generator)
        texts = reward.text_features(prompts_of(torch.arange(len(CLASS_NAMES)), generator))
        step(contrastive_loss(reward, reward.image_features(images), texts, labels))


def preference(reward: CLIPReward, pairs: Pairs, config: Config) -> None:
    """Train with PickScore's loss on pairs of a random kind, beside the contrastive loss, which keeps classes apart."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    for index, step in updates(reward, "preference", config.preference_steps, config.preference_lr):
        labels = torch.randint(len(CLASS_NAMES), (config.batch,), generator=generator)
        good, bad = pairs.draw(Pairs.KINDS[index % len(Pairs.KINDS)], labels, generator)
        good_features, bad_features = reward.image_features(torch.cat([good, bad])).chunk(2)
        texts = reward.text_features(prompts_of(torch.arange(len(CLASS_NAMES)), generator))
        loss = preference_loss(reward.similarity(good_features, texts[labels]), reward.similarity(bad_features, texts[labels]))
        step(loss + 0.5 * contrastive_loss(reward, good_features, texts, labels))


def contrastive_loss(reward: CLIPReward, seen: Float[Tensor, "B F"], texts: Float[Tensor, "K F"], labels: Int64[Tensor, " B"]) -> Tensor:
    """Return the cross entropy of each image over the prompts of all classes."""
    logits = reward.model.logit_scale.exp() * F.normalize(seen, dim=-1) @ F.normalize(texts, dim=-1).T
    return F.cross_entropy(logits, labels)


def prompts_of(labels: Tensor, generator: torch.Generator) -> list[str]:
    """Return a prompt of each label, from one random template."""
    template = TEMPLATES[int(torch.randint(len(TEMPLATES), (), generator=generator))]
    prompts = class_prompts(CLASS_NAMES, template)
    return [prompts[label] for label in labels.tolist()]


def updates(reward: CLIPReward, title: str, steps: int, lr: float) -> Iterator[tuple[int, Callable[[Tensor], None]]]:
    """Yield (number, what to do with the loss) of each update of AdamW, with one cycle of the learning rate."""
    optimizer = torch.optim.AdamW(reward.parameters(), lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reward.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)

    bar = tqdm(range(steps), desc=title, mininterval=2)
    for index in bar:
        yield index, step


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
