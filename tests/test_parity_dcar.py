"""Numbers of DC-AR's own code, replayed: `--dcar-fixture=PATH` takes any file of the same layout."""

import pytest
import torch
from reference import Recording, largest_gap, read_recording

from marval_ray.families.dcar.tokenizer import DCHT, DCHTConfig
from marval_ray.files.fit import load_strictly

ATOL_IMAGE = 1e-3


@pytest.fixture(scope="module")
def recording(dcar_fixture_path) -> Recording:
    return read_recording(dcar_fixture_path)


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
