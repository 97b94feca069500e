"""Autoencoders as people have them: folders of diffusers of any age, files of LDM with attention elsewhere."""

import json

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from test_weights import SMALL_KL, ldm_state, same

from marval_ray.families.mar.autoencoder import TINY, KLConfig, load_vae
from marval_ray.families.mar.vae import WEIGHTS

OLD = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    AutoencoderKL(**TINY).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def weights(folder):
    """Where the folder's weights lie."""
    return folder / f"{WEIGHTS}.safetensors"


def test_old_names_of_attention_are_read_as_diffusers_reads_them(folder, weights):
    state = load_file(weights)
    old = dict(state)
    for ours, theirs in OLD:
        old = {name.replace(f".{ours}.", f".{theirs}."): value for name, value in old.items()}
    assert old.keys() != state.keys()
    save_file(old, weights)
    assert same(load_vae(folder).autoencoder, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_variants_of_half_precision_become_float32(folder, weights, dtype):
    state = {name: value.to(dtype) for name, value in load_file(weights).items()}
    weights.unlink()
    save_file(state, folder / f"{WEIGHTS}.fp16.safetensors")
    loaded = load_vae(folder).autoencoder
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert same(loaded, {name: value.float() for name, value in state.items()})


@pytest.mark.parametrize("name", [f"{WEIGHTS}.bin", f"{WEIGHTS}.fp16.bin"])
def test_pickled_weights_are_read_safely(folder, weights, name):
    state = load_file(weights)
    weights.unlink()
    torch.save(state, folder / name)
    assert same(load_vae(folder).autoencoder, state)
    (folder / name).write_text("<!DOCTYPE html><p>", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name} is no checkpoint: it begins with <!DOCTYPE html>"):
        load_vae(folder)


def test_shards_are_read(tmp_path):
    autoencoder = AutoencoderKL(**TINY)
    autoencoder.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert same(load_vae(tmp_path).autoencoder, autoencoder.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_of_an_autoencoder_must_be_finite(folder, weights, dtype):
    state = {name: value.to(dtype) for name, value in load_file(weights).items()}
    state["decoder.conv_in.bias"][0] = float("nan")
    save_file(state, weights)
    with pytest.raises(ValueError, match="1 of the 32 numbers of decoder.conv_in.bias are NaN or infinite"):
        load_vae(folder)


def test_what_is_wrong_with_a_folder_is_said(folder, weights):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for change, message in (
        ({"latent_channels": 3}, r"decoder.conv_in.weight is \(32, 4, 3, 3\), the model needs \(32, 3, 3, 3\)"),
        ({"_class_name": "VQModel"}, "is the config of a VQModel, not of an AutoencoderKL"),
        ({"norm_num_groups": 7}, "config.json is not a config of an autoencoder"),
        ({"use_quant_conv": False}, "unexpected quant_conv.bias"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
        with pytest.raises(ValueError, match=message) as caught:
            load_vae(folder)
        assert "\n" not in str(caught.value)
    weights.unlink()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{WEIGHTS}.safetensors is missing"):
        load_vae(folder)


def test_the_folder_of_a_pipeline_names_its_autoencoder(tmp_path):
    AutoencoderKL(**TINY).save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match="config.json is missing.*/vae has both"):
        load_vae(tmp_path)


def test_an_adapter_is_no_autoencoder(folder):
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{folder} is an adapter .LoRA., not a whole model"):
        load_vae(folder)


def test_shift_and_scale_are_those_of_diffusers(tmp_path):
    """As in Stable Diffusion 3 and Flux: latents = (z - shift_factor) scaling_factor, without convolutions around z."""
    options = {"shift_factor": 0.0609, "scaling_factor": 1.5305, "use_quant_conv": False, "use_post_quant_conv": False}
    autoencoder = AutoencoderKL(**TINY, **options).eval()
    autoencoder.save_pretrained(tmp_path)
    vae, images = load_vae(tmp_path), torch.rand(2, 1, 32, 32) * 2 - 1
    latents = vae.encode(images)
    posterior = autoencoder.encode(images).latent_dist
    torch.testing.assert_close(latents.mean, (posterior.mean - 0.0609) * 1.5305)
    torch.testing.assert_close(latents.std, posterior.std * 1.5305)
    torch.testing.assert_close(vae.decode(latents.mean), autoencoder.decode(posterior.mean).sample)


@pytest.mark.parametrize(
    ("levels", "decoder_levels", "convolutions"), [((1,), (1,), True), ((1,), (), False), ((0, 1), (0,), True), ((), (), True)]
)
def test_a_file_of_ldm_tells_where_it_has_attention(tmp_path, levels, decoder_levels, convolutions):
    sizes = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "z_channels": 4}
    autoencoder = KLConfig(
        **sizes, attention_levels=levels, decoder_attention_levels=decoder_levels, quant_conv=convolutions
    ).build()
    state = ldm_state(autoencoder, 2)
    places = {f"decoder.up.{level}.attn.{block}.proj_out.weight" for level in decoder_levels for block in (0, 1)}
    assert places == {name for name in state if ".up." in name and name.endswith("proj_out.weight")}
    torch.save({"state_dict": state}, tmp_path / "kl.ckpt")
    assert same(load_vae(tmp_path / "kl.ckpt", SMALL_KL).autoencoder, autoencoder.state_dict())
