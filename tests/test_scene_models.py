"""The models of scenes: tokenizer, text encoder and teacher, each trained for a few updates by its command."""

import json
import re
import string

import pytest
import torch
import torch.nn.functional as F
from commands import refuse, succeed
from PIL import Image
from safetensors.torch import load_file

from jobs.embedded.train_scene_tokenizer import follow
from marval_ray.embedded import assets_index, scene_texts
from marval_ray.families.dcar.codebook import revived, spherical_kmeans
from marval_ray.families.dcar.codec import load_dcht
from marval_ray.families.dcar.encoder import CodeEncoder
from marval_ray.families.dcar.loss import code_loss
from marval_ray.families.dcar.presets import SCENES, SCENES_TOKENIZER
from marval_ray.families.dcar.text import TextEncoder
from marval_ray.families.dcar.tokenizer import DCHT, RecordedBatchNorm
from marval_ray.scenes.scene import BACKGROUNDS, COUNTS, PHRASINGS, SIDES, Scene
from marval_ray.scenes.sprites import sprites
from marval_ray.types import Prompts

TOKENIZER, TEACHER = "jobs/embedded/train_scene_tokenizer.py", "jobs/embedded/train_scene_teacher.py"
FIGURES = "jobs/embedded/scene_teacher_figures.py"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    succeed("jobs/embedded/prepare_scenes.py", "--train", 40, "--test", 1, "--held-out", 1, "--out", folder)
    return folder / "train.parquet"


@pytest.fixture(scope="module")
def tokenizer(scenes, tmp_path_factory):
    """A folder after four updates, two of them with codes, trained in one go."""
    folder = tmp_path_factory.mktemp("tokenizer")
    said = succeed(*tokenizer_job(scenes), "--out", folder)
    assert "updates 1 to 4 took" in said
    return folder


def tokenizer_job(scenes) -> tuple:
    return (TOKENIZER, "--scenes", scenes, "--steps", 4, "--continuous", 2, "--revive-every", 3, "--batch", 4, "--samples", 4)


def teacher_job(scenes, tokenizer) -> tuple:
    return (TEACHER, "--scenes", scenes, "--tokenizer", tokenizer, "--steps", 3, "--batch", 2, "--warmup", 1)


def same(a, b, name: str) -> bool:
    first, second = (load_file(folder / name) for folder in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_residuals_are_encoded_by_the_scale_that_the_tokenizer_names(tokenizer):
    encoder, images = CodeEncoder.read(tokenizer), torch.rand(1, 3, 64, 64) * 2 - 1
    _, residual = encoder.tokenizer.encode(images)
    assert encoder.scale == SCENES.residual_scale
    torch.testing.assert_close(encoder.columns(images)["values"], (residual / SCENES.residual_scale).flatten(1).half())


def test_a_codebook_begins_where_the_vectors_are_and_none_of_it_is_dead():
    generator = torch.Generator().manual_seed(0)
    clusters = F.normalize(torch.randn(6, 8, generator=generator), dim=1).repeat(50, 1)
    vectors = F.normalize(clusters + 0.05 * torch.randn(clusters.shape, generator=generator), dim=1)
    centres = spherical_kmeans(vectors, 24, 20, generator)
    assert torch.allclose(centres.norm(dim=1), torch.ones(24))
    assert (vectors @ centres.T).amax(1).min() > 0.95 and (vectors @ centres.T).argmax(1).unique().numel() > 20
    dead = torch.arange(24) < 3
    after = revived(centres, dead, vectors, generator)
    assert torch.equal(after[3:], centres[3:]) and all((row == vectors).all(1).any() for row in after[:3])


def test_norms_follow_their_inputs_until_that_ends():
    torch.manual_seed(0)
    network = DCHT(SCENES_TOKENIZER)
    norms = [module for module in network.modules() if isinstance(module, RecordedBatchNorm)]
    z = F.normalize(torch.randn(4, 64, 8), dim=-1)
    hooks = follow(network)
    with torch.no_grad():
        for _ in range(120):
            network.picture(z)
    seen = []
    norms[0].register_forward_pre_hook(lambda norm, inputs: seen.append(inputs[0].detach()))
    for hook in hooks:
        hook.remove()
    before = norms[0].running_var.clone()
    network.picture(3 * z)
    assert len(norms) == 2 and torch.equal(norms[0].running_var, before)
    network.picture(z)
    assert torch.allclose(norms[0].running_mean, seen[1].mean((0, 2, 3)), atol=0.01)
    assert torch.allclose(norms[0].running_var, seen[1].var((0, 2, 3)), rtol=0.05)


def test_a_tokenizer_goes_on_to_the_same_numbers(scenes, tokenizer, tmp_path):
    succeed(*tokenizer_job(scenes), "--out", tmp_path, "--stop-after", 1)
    succeed(*tokenizer_job(scenes), "--out", tmp_path, "--resume")
    assert same(tokenizer, tmp_path, "model.safetensors")
    network = load_dcht(tokenizer)
    assert network.config == SCENES_TOKENIZER and network.quantize.embedding.weight.norm(dim=1).std() < 0.1  # k-means', not N(0, 1)
    figures = json.loads((tokenizer / "figures.json").read_text(encoding="utf-8"))
    assert 0 < figures["residual_std"] < 0.36 and 1 < figures["perplexity"] <= 256
    assert figures["judged"].keys() == figures["judged_of_codes"].keys()
    assert "no state to resume" in refuse(*tokenizer_job(scenes), "--out", tmp_path / "absent", "--resume")


def test_every_word_of_a_prompt_is_one_piece(tmp_path):
    encoder = scene_texts.new_encoder(SCENES.text_width)
    scene_texts.save_encoder(tmp_path, encoder.config, encoder.state_dict())
    (tmp_path / "tokenizer_config.json").unlink()  # published encoders are fetched without
    texts = TextEncoder.load(tmp_path, SCENES)
    prompts = [Scene(name, count, side, background).prompt(phrasing) for name in sprites() for count in COUNTS
               for side, background in zip(list(SIDES) * 2, BACKGROUNDS) for phrasing in range(len(PHRASINGS))]  # fmt: skip
    pieces = {piece for prompt in prompts[::7] for piece in texts.tokenizer.encode(prompt).tokens}
    assert not pieces & {"▁", "<unk>", *string.ascii_letters} and {"▁owls", "▁T-shirt", ","} <= pieces
    assert not any(texts.unread(prompt) for prompt in prompts)
    assert texts.tokenizer.encode("a gnu").tokens[:6] == ["▁a", "▁", "g", "n", "u", "</s>"]
    expected = encoder(input_ids=texts.tokens(prompts[:2])).last_hidden_state
    assert torch.allclose(texts(Prompts(tuple(prompts[:2]))).states, expected, atol=1e-4)


def test_hidden_codes_weigh_ten_times_as_much_as_given_ones():
    logits = torch.full((1, 2, 5), -1e4)
    logits[0, :, 3] = 0  # sure of 3, but for the smoothing
    codes, hidden = torch.tensor([[3, 2]]), torch.tensor([[True, False]])
    right, wrong = 0.1 * 0.8 * 1e4, (0.9 + 0.1 * 0.8) * 1e4
    found = code_loss(logits, codes, hidden)
    assert found.value.item() == pytest.approx((right + 0.1 * wrong) / 1.1, rel=1e-4)
    assert code_loss(logits, codes, ~hidden).value.item() == pytest.approx((0.1 * right + wrong) / 1.1, rel=1e-4)
    assert found.metrics["right"] == 1 and code_loss(logits, codes, ~hidden).metrics["right"] == 0


def test_a_teacher_goes_on_to_the_same_numbers_is_measured_and_trains_a_reward(scenes, tokenizer, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    succeed(*teacher_job(scenes, tokenizer), "--out", whole)
    succeed(*teacher_job(scenes, tokenizer), "--out", parts, "--stop-after", 1)
    succeed(*teacher_job(scenes, tokenizer), "--out", parts, "--resume")
    assert same(whole, parts, "teacher.safetensors") and same(whole, parts, "text_encoder/model.safetensors")
    assert same(whole / "codec", tokenizer, "model.safetensors") and not (whole / "codec" / "state.pt").exists()
    assert {"vae": "./codec", "texts": "./text_encoder"}.items() <= json.loads((whole / "config.json").read_text(encoding="utf-8")).items()

    options = ("--choice-samples", 4, "--choice-loops", 2, "--loops", 2, 3, "--steps", 2, "--samples", 3, "--sets", 2, "--batch", 3)
    told = succeed(FIGURES, "--teacher", whole, "--cfg", 1.0, 2.0, *options, "--shown", 2)
    figures = json.loads((whole / "figures.json").read_text(encoding="utf-8"))
    tried = figures["choice"]
    assert [row["cfg"] for row in tried] == [1, 2] and all(0 <= row["accuracy"] <= 1 and row["fd"] > 0 for row in tried)
    assert figures["sampler"]["cfg"] == min(tried, key=lambda row: row["fd"])["cfg"] and len(re.findall("cfg ", told)) == 2
    assert [(row["n_ar"], row["samples"], row["sets"]) for row in figures["rows"]] == [(2, 3, 2), (3, 3, 2)]
    assert all(row["fd_b_se"] > 0 for row in figures["rows"])
    assert Image.open(whole / "samples.png").size == (8 * 136, 172)

    steps = ("--contrastive-steps", 1, "--preference-steps", 7, "--batch", 2, "--samples", 2, "--teacher-samples", 4)
    succeed("jobs/embedded/train_scene_reward.py", "--tokenizer", tokenizer, "--teacher", whole, *steps, "--out", tmp_path / "reward")
    assert "samples" in json.loads((tmp_path / "reward" / "figures.json").read_text(encoding="utf-8"))["pair_accuracy"]


def test_what_is_missing_is_said(scenes, tokenizer, tmp_path):
    assert "prepare_scenes.py` draws scenes" in refuse(TOKENIZER, "--scenes", tmp_path / "no.parquet", "--out", tmp_path / "no")
    assert "config.json is missing" in refuse(TEACHER, "--scenes", scenes, "--tokenizer", tmp_path, "--out", tmp_path / "no")
    assert "--text-drop must be in [0, 1), got 1.0" in refuse(TEACHER, "--text-drop", 1.0)
    assert "holds no scenes: it lacks the column(s)" in refuse(TOKENIZER, "--scenes", assets_index.IMAGES, "--out", tmp_path / "no")
    assert "config.json" in refuse(FIGURES, "--teacher", tmp_path)
    assert not (tmp_path / "no").exists()
