"""The reward of scenes: what it learns from, that it learns, and the form in which it is written."""

import json
from dataclasses import fields
from random import Random

import pytest
import torch
from commands import refuse, succeed

from jobs.embedded import train_scene_reward, train_scene_tokenizer
from marval_ray.embedded import scene_texts
from marval_ray.embedded.clip_training import Cycle, new_clip, new_tokenizer, show_places
from marval_ray.embedded.scene_pairs import ScenePairs, changed, drawn, neighbour
from marval_ray.families.dcar.presets import SCENES_TOKENIZER
from marval_ray.families.dcar.tokenizer import DCHT
from marval_ray.files.tensors import read_state
from marval_ray.rewards import load_reward
from marval_ray.rewards.clip import CLIPReward
from marval_ray.scenes.scene import SIZE, Scene, attributes

JOB = "jobs/embedded/train_scene_reward.py"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of a tokenizer with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    train_scene_tokenizer.save(folder, DCHT(SCENES_TOKENIZER))
    return folder


def new_reward() -> CLIPReward:
    torch.manual_seed(0)
    return CLIPReward(*new_clip(SIZE, train_scene_reward.VISION, train_scene_reward.TEXT, scene_texts.prompts()))


def test_places_are_as_large_as_what_patches_hold():
    reward, (images, _) = new_reward(), drawn(0, 0, 8, "train")
    parts = reward.model.vision_model.embeddings
    patches, places = parts.patch_embedding(images), parts.position_embedding.weight
    assert patches.std() > 8 * places.std()
    show_places(reward.model)
    assert patches.std() < 2 * places.std()


def differing(a: Scene, b: Scene) -> list[str]:
    return [field.name for field in fields(Scene) if getattr(a, field.name) != getattr(b, field.name)]


def test_one_word_is_changed_and_pictures_stay_among_those_of_training():
    rng, scene = Random(0), drawn(0, 0, 1, "held-out")[1][0]
    for name in attributes():
        assert all(differing(scene, changed(scene, name, rng)) == [name] for _ in range(20))
    others = [neighbour(scene, rng) for _ in range(40)]
    assert all(len(differing(scene, other)) == 1 and other.split == "train" for other in others)
    assert {differing(scene, other)[0] for other in others} == set(attributes())


def test_pairs_are_the_same_again_and_the_preferred_picture_is_clean():
    samples = {"held-out": (torch.zeros(3, 3, SIZE, SIZE), drawn(0, 0, 3, "held-out")[1])}
    pairs = ScenePairs(lambda images: -images, samples)
    clean, scenes = drawn(5, 8, 4, "held-out")
    for kind in pairs.kinds:
        good, other, asked = pairs.draw(kind, 5, 8, 4, "held-out")
        assert all(torch.equal(a, b) for a, b in zip(pairs.draw(kind, 5, 8, 4, "held-out"), (good, other)))
        assert not (good == other).flatten(1).all(1).any() and max(good.abs().max(), other.abs().max()) <= 1
        assert (set(asked) <= set(samples["held-out"][1])) if kind == "samples" else (asked == scenes and torch.equal(good, clean))
    assert torch.equal(pairs.draw("codes", 5, 8, 4, "held-out")[1], -clean)
    assert ScenePairs(lambda images: images, {}).kinds == ("noise", "blur", "texture", "shuffle", "codes", "word")


def test_every_word_is_one_token_of_the_same_number_and_others_are_spelled():
    tokenizer, again = (new_tokenizer(scene_texts.prompts()) for _ in range(2))
    assert tokenizer.get_vocab() == again.get_vocab()
    assert all(token.endswith("</w>") for prompt in scene_texts.prompts()[::5] for token in tokenizer.tokenize(prompt))
    assert tokenizer.tokenize("Two owls, a gnu") == ["two</w>", "owls</w>", ",</w>", "a</w>", "gn", "u</w>"]


def test_a_short_training_tells_backgrounds_apart():
    reward, config = new_reward(), train_scene_reward.Config(batch=16, contrastive_steps=40, lr=2e-3)
    cycle = Cycle(reward, config.lr, config.contrastive_steps)
    losses = []
    for step in range(config.contrastive_steps):
        loss = train_scene_reward.contrastive_step(reward, step, config)
        cycle.update(loss)
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5]) - 5
    assert train_scene_reward.told(reward, 100)["background"] > 0.7


def test_a_reward_goes_on_to_the_same_numbers_in_the_form_that_pickscore_has(tokenizer, tmp_path):
    job = (JOB, "--tokenizer", tokenizer, "--contrastive-steps", 2, "--preference-steps", 6, "--batch", 2, "--samples", 4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    told = succeed(*job, "--out", whole)
    succeed(*job, "--out", parts, "--stop-after", 1)
    succeed(*job, "--out", parts, "--stop-after", 5, "--resume")
    succeed(*job, "--out", parts, "--resume")
    first, second = (read_state(folder / "model.safetensors") for folder in (whole, parts))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    figures = json.loads((whole / "figures.json").read_text(encoding="utf-8"))
    assert figures == json.loads((parts / "figures.json").read_text(encoding="utf-8")) and figures["updates"] == 8
    assert figures["told"].keys() == {*attributes(), "all"} and figures["told"]["all"] <= figures["told"]["object"]
    assert figures["pair_accuracy"].keys() == {"noise", "blur", "texture", "shuffle", "codes", "word"} and "updates 1 to 8 took" in told

    reward, (images, scenes) = load_reward([f"pickscore:{whole}"]), drawn(0, 0, 2, "held-out")
    images.requires_grad_()
    score = reward(images, [scene.prompt() for scene in scenes])
    (gradient,) = torch.autograd.grad(score.sum(), images)
    assert score.shape == (2,) and reward.differentiable and gradient.isfinite().all() and gradient.flatten(1).norm(dim=1).min() > 0


def test_what_is_missing_is_said(tokenizer, tmp_path):
    job = (JOB, "--out", tmp_path / "no")
    assert "config.json is missing" in refuse(*job, "--tokenizer", tmp_path)
    assert "config.json" in refuse(*job, "--tokenizer", tokenizer, "--teacher", tmp_path)
    assert "no state to resume" in refuse(*job, "--resume")
    assert "--teacher-samples must be at least 4, got 3" in refuse(*job, "--teacher-samples", 3)
    assert not (tmp_path / "no").exists()
