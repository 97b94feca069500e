"""Numbers of DC-AR's own code, replayed: `--dcar-fixture=PATH` takes any file of the same layout."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference import Recording, largest_gap, read_recording
from transformers import T5Config, T5Model, T5Tokenizer

from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.text import TextEncoder
from marval_ray.families.dcar.tokenizer import DCHT, DCHTConfig
from marval_ray.files.fit import load_strictly
from marval_ray.types import Prompts

ATOL, ATOL_LOGITS, ATOL_IMAGE = 1e-5, 1e-4, 1e-3
WORDS = ("<pad>", "</s>", "<unk>", "▁", "▁a", "▁cat", "▁dog", "▁on", "▁the", "▁mat")


@pytest.fixture(scope="module")
def recording(dcar_fixture_path) -> Recording:
    return read_recording(dcar_fixture_path)


@pytest.fixture(scope="module")
def config(recording) -> DCARConfig:
    c = recording.config["generator"]["model"]
    generator, head = c["generator"], c["generator"]["diffusion"]
    return DCARConfig(
        side=int(generator["image_seq_len"] ** 0.5), num_codes=c["vq_model"]["codebook_size"], token_channels=c["vq_model"]["token_size"],
        residual_scale=head["vae_scale"], text_length=c["text_token_length"], text_width=c["context_dim"], width=generator["hidden_size"],
        depth=generator["num_hidden_layers"], heads=generator["num_attention_heads"], mlp_width=generator["intermediate_size"],
        head_width=head["width"], head_depth=head["depth"], code_guidance=1 + recording.config["sampling"]["guidance_scale"],
        code_temperature=recording.config["sampling"]["randomize_temperature"], image_size=256,
    )  # fmt: skip


@pytest.fixture(scope="module")
def t5_folder(recording, tmp_path_factory) -> Path:
    """As it is published: the whole T5, decoder too, and a tokenizer."""
    folder = tmp_path_factory.mktemp("t5")
    model = T5Model(T5Config(**recording.config["text"]))
    report = model.load_state_dict(recording.group("state/t5"), strict=False)
    assert not report.unexpected_keys
    model.save_pretrained(folder)
    T5Tokenizer([(word, -1.0) for word in WORDS], extra_ids=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_encoder(t5_folder, config) -> TextEncoder:
    return TextEncoder.load(t5_folder, config)


@pytest.fixture(scope="module")
def tokenizer(recording) -> DCHT:
    c = recording.config["tokenizer"]
    network = DCHT(
        DCHTConfig(
            *(tuple(c[name]) for name in ("width_list", "enc_depth_list", "dec_depth_list")), c["latent_channels"], c["codebook_size"]
        )
    )
    load_strictly(network, recording.group("state/dcht"), "the recording")
    return network.train().requires_grad_(False)  # its norms do not care


@torch.no_grad()
def test_each_stage_of_the_encoder(tokenizer, recording):
    group = recording.group("outputs/encode")
    x = tokenizer.encoder.project_in(recording["inputs/encode/image"])
    for number, stage in enumerate(tokenizer.encoder.stages):
        x = stage(x)
        assert number == 0 or largest_gap(x, group[f"stage{number}"]) <= ATOL_IMAGE, number
    assert largest_gap(tokenizer.encoder.project_out(x), group["h"]) <= ATOL_IMAGE


def test_codes_and_residual_of_an_image(tokenizer, recording):
    group = recording.group("outputs/encode")
    codes, residual = tokenizer.encode(recording["inputs/encode/image"])
    assert torch.equal(codes, group["ids"])
    assert largest_gap(residual, group["residual"]) <= ATOL_IMAGE
    z_q = tokenizer.quantize.vectors(codes)
    for got, name in ((z_q, "z_quantized"), (z_q + residual, "features")):
        assert largest_gap(got, group[name].flatten(2).transpose(1, 2)) <= ATOL_IMAGE, name


@torch.no_grad()
def test_each_stage_of_the_decoder(tokenizer, recording):
    group = recording.group("outputs/decode4")
    x = tokenizer.decoder.project_in(recording["outputs/encode/features"])
    for number, stage in reversed(list(enumerate(tokenizer.decoder.stages))):
        x = stage(x)
        assert number == 0 or largest_gap(x, group[f"stage{number}"]) <= ATOL_IMAGE, number
    assert largest_gap(tokenizer.decoder.project_out(x), group["continuous"]) <= ATOL_IMAGE


def test_images_of_codes_and_residual_with_their_gradient(tokenizer, recording):
    group, codes = recording.group("outputs/decode4"), recording["outputs/encode/ids"]
    residual = recording["outputs/encode/residual"].clone().requires_grad_()
    image = tokenizer.decode(codes, residual)
    assert largest_gap(image.detach(), group["continuous"]) <= ATOL_IMAGE
    assert largest_gap(tokenizer.decode(codes, torch.zeros_like(residual)), group["discrete"]) <= ATOL_IMAGE
    (gradient,) = torch.autograd.grad(0.5 * image.square().mean(), residual)
    assert gradient.abs().max() > 1e-3 and largest_gap(gradient, group["grad_residual"]) <= 1e-5
    drawn = tokenizer.decode(recording["outputs/generate/ids"][:1], recording["outputs/generate/residual"][:1])
    assert largest_gap(drawn, recording["outputs/decode/image"]) <= ATOL_IMAGE


def test_statistics_of_the_decoder_do_not_drift_in_training(tokenizer, recording):
    before = {name: value.clone() for name, value in tokenizer.state_dict().items() if "running" in name or "batches" in name}
    tokenizer.train().decode(recording["outputs/encode/ids"], recording["outputs/encode/residual"])
    assert len(before) == 6 and all(torch.equal(tokenizer.state_dict()[name], value) for name, value in before.items())


def test_the_tokenizer_has_the_published_size():
    with torch.device("meta"):
        network = DCHT(DCHTConfig())
    parts = {name: sum(value.numel() for value in part.state_dict().values()) for name, part in network.named_children()}
    assert {name: round(count / 1e6, 1) for name, count in parts.items()} == {"encoder": 123.2, "decoder": 200.2, "quantize": 0.5}
    assert len(network.state_dict()) == 339 and round(sum(parts.values()) / 1e6, 1) == 323.9


def test_states_of_texts(text_encoder, recording):
    text = text_encoder.encode(recording["inputs/text/input_ids"])
    assert largest_gap(text.states, recording["outputs/text/hidden"]) <= ATOL
    assert torch.equal(text.real, recording["outputs/text/mask"])


def test_prompts_are_padded_and_cut_to_one_length(text_encoder):
    short, empty, long = text_encoder.tokens(("the cat on the mat", "", "a dog " * 9)).tolist()
    assert short == [8, 5, 7, 8, 9, 1, 0, 0, 0, 0] and empty == [1, *[0] * 9] and long == [*[4, 6] * 4, 4, 1]
    text = text_encoder(Prompts(("the cat", "the dog")))
    assert text.real.sum(1).tolist() == [3, 3] and (text.states[0, :2] != text.states[1, :2]).any()


def test_another_text_encoder_is_refused(t5_folder, config, tmp_path):
    with pytest.raises(ValueError, match="is a t5 of width 24, the model reads texts of a t5 of width 32"):
        TextEncoder.load(t5_folder, replace(config, text_width=32))
    folder = shutil.copytree(t5_folder, tmp_path / "t5")
    T5Tokenizer(extra_ids=50).save_pretrained(folder)
    with pytest.raises(ValueError, match="its tokenizer is not that of its model, which knows 40 tokens"):
        TextEncoder.load(folder, config)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer.json is missing: `python jobs/fetch.py t5-base`"):
        TextEncoder.load(folder, config)
