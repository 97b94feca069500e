"""What names an autoencoder's latents."""

import copy

import pytest

from marval_ray.embedded import assets_index
from marval_ray.families.mar.autoencoder import load_vae
from marval_ray.families.mar.vae import VAE, codec_id


@pytest.fixture
def vae() -> VAE:
    return load_vae(assets_index.VAE)


def test_equal_encoders_have_one_name(vae):
    assert codec_id(vae) == codec_id(copy.deepcopy(vae)) and len(codec_id(vae)) == 16


def test_another_decoder_keeps_the_name(vae):
    before = codec_id(vae)
    vae.autoencoder.decoder.conv_out.weight.add_(1)
    vae.autoencoder.post_quant_conv.weight.add_(1)
    assert codec_id(vae) == before


@pytest.mark.parametrize("change", ["shift", "scale", "autoencoder.encoder.conv_in.weight", "autoencoder.quant_conv.bias"])
def test_whatever_changes_latents_changes_the_name(vae, change):
    before = codec_id(vae)
    vae.state_dict()[change].add_(1e-3)
    assert codec_id(vae) != before
