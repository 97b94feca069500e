"""Numbers of the reference implementation of KL-16, replayed: `--vae-fixture=PATH` takes any file of the same layout."""

import pytest
import torch
from reference import Recording, kl_config_from_reference, largest_gap, read_recording
from safetensors.torch import save_file

from marval_ray.families.mar.autoencoder import KL16, load_vae
from marval_ray.families.mar.vae import VAE

ATOL = 1e-4


@pytest.fixture(scope="module")
def recording(vae_fixture_path) -> Recording:
    return read_recording(vae_fixture_path)


@pytest.fixture(scope="module", params=["kl16.ckpt", "kl16.safetensors"])
def vae(request, recording, tmp_path_factory) -> VAE:
    """The recorded autoencoder through a file as it is published, and through safetensors; float16 on disk."""
    path = tmp_path_factory.mktemp("vae") / request.param
    state = recording.group("state")
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state}, path)
    return load_vae(path, kl_config_from_reference(recording.config))


def test_moments(vae, recording):
    posterior = vae.autoencoder.encode(recording["image"]).latent_dist
    mean, log_variance = recording["moments"].chunk(2, dim=1)
    assert largest_gap(posterior.mean, mean) <= ATOL
    assert largest_gap(posterior.logvar, log_variance.clamp(-30, 20)) <= ATOL
    assert largest_gap(posterior.mode(), recording["mode"]) <= ATOL


def test_decoder(vae, recording):
    for latent, image in (("mode", "reconstruction"), ("latent", "decoded")):
        assert largest_gap(vae.autoencoder.decode(recording[latent]).sample, recording[image]) <= ATOL, image


def test_latents_are_scaled_after_encoding_and_before_decoding(vae, recording):
    mean, log_variance = recording["moments"].chunk(2, dim=1)
    latents = vae.encode(recording["image"])
    assert largest_gap(latents.mean, mean * KL16.scaling_factor) <= ATOL
    assert largest_gap(latents.std, (log_variance.clamp(-30, 20) / 2).exp() * KL16.scaling_factor) <= ATOL
    with torch.no_grad():
        assert largest_gap(vae.decode(latents.mean), recording["reconstruction"]) <= ATOL
        assert largest_gap(vae.decode(recording["latent"] * KL16.scaling_factor), recording["decoded"]) <= ATOL


def test_everything_is_float32_and_frozen(vae):
    assert {p.dtype for p in vae.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in vae.parameters())
