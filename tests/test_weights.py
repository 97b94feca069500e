"""Checkpoints: sizes of the presets, published files, and files that must be refused without running what they hold."""

import argparse
import math
import pickle
import re
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from marval_ray.average import EMA
from marval_ray.families.mar.autoencoder import KL16, TINY, KLConfig, ldm_name, load_ldm_state, load_vae
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.model import MAR
from marval_ray.files.fit import load_strictly
from marval_ray.files.tensors import read_state
from marval_ray.hub.layout import load_model, read_config, save_model
from marval_ray.presets import MODELS, PRESETS

SMALL = ModelConfig(
    latent_size=4, latent_channels=4, num_classes=3, buffer_size=2,
    encoder_width=16, encoder_depth=1, encoder_heads=2,
    decoder_width=16, decoder_depth=1, decoder_heads=2,
    head_width=16, head_depth=1,
)  # fmt: skip
SMALL_KL = KLConfig(ch=32, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, attention_levels=(1,))


class Intruder:
    """Unpickling this would create the file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def published(model: MAR, **changes) -> dict:
    """What MAR's training code saves: weights, averaged weights, and its command line."""
    weights = {name: torch.full_like(value, 7.0) for name, value in model.state_dict().items()}
    args = argparse.Namespace(model="mar_base", lr=1e-4, output_dir="out", resume=None, distributed=True)
    return {"model": weights, "model_ema": model.state_dict(), "optimizer": {"state": {}}, "epoch": 399, "args": args} | changes


def same(model, state) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


@pytest.mark.parametrize(("name", "millions"), [("mar-b", 208), ("mar-l", 479), ("mar-h", 943)])
def test_presets_have_the_published_sizes(name, millions):
    """MAR's table rounds up: 207.92, 478.33 and 942.40 million, of models that its checkpoints fit strictly."""
    with torch.device("meta"):
        model = MAR(MODELS[name])
    assert math.ceil(sum(p.numel() for p in model.parameters()) / 1e6) == millions


@pytest.mark.parametrize("zipped", [True, False])
def test_published_checkpoint_gives_its_averaged_weights(tmp_path, zipped):
    model, path = MAR(SMALL), tmp_path / "checkpoint-last.pth"
    torch.save(published(model), path, _use_new_zipfile_serialization=zipped)
    assert same(load_model(path, SMALL), model.state_dict())


@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_other_published_forms(tmp_path, key):
    model, path = MAR(SMALL), tmp_path / "weights.pth"
    torch.save({key: model.state_dict(), "epoch": 1} if key else model.state_dict(), path)
    assert same(load_model(path, SMALL), model.state_dict())


def test_saved_model_is_read_back_with_its_config(tmp_path):
    model = MAR(SMALL)
    save_model(tmp_path / "run", "student", model.state_dict(), SMALL, torch.bfloat16)
    path = tmp_path / "run" / "student.safetensors"
    assert {value.dtype for value in load_file(path).values()} == {torch.bfloat16}
    assert read_config(path.parent) == SMALL
    loaded = load_model(path)
    assert loaded.config == SMALL and {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert same(loaded, {name: value.bfloat16().float() for name, value in model.state_dict().items()})
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".tmp"] == []
    assert path.stat().st_mode == path.with_name("config.json").stat().st_mode  # whoever may read the one may read the other


@pytest.mark.parametrize("place", ["args", "model_ema", "inside args"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, place, zipped):
    marker, path = tmp_path / "ran", tmp_path / "checkpoint.pth"
    intruder = Intruder(marker)
    change = {"args": argparse.Namespace(lr=intruder)} if place == "inside args" else {place: intruder}
    torch.save(published(MAR(SMALL), **change), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="checkpoint.pth cannot be read safely.*open"):
        read_state(path)
    assert not marker.exists()


def test_a_bare_pickle_is_refused(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "checkpoint.pth"
    path.write_bytes(pickle.dumps({"model": Intruder(marker)}))
    with pytest.raises(ValueError, match="cannot be read safely"):
        read_state(path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.9])
def test_truncated_checkpoints_are_refused(tmp_path, zipped, share):
    path = tmp_path / "checkpoint.pth"
    torch.save(published(MAR(SMALL)), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="checkpoint.pth cannot be read safely"):
        read_state(path)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_truncated_safetensors_are_refused(tmp_path, share):
    path = tmp_path / "weights.safetensors"
    save_file(MAR(SMALL).state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="weights.safetensors is not a whole safetensors file"):
        read_state(path)


def test_an_absent_file_is_named(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(ValueError, match=f"no checkpoint at {re.escape(str(path))}"):
            read_state(path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"epoch": 3}, {"model": {"weights": [1, 2]}}, torch.zeros(2)])
def test_content_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth holds no state dict"):
        read_state(tmp_path / "other.pth")


def test_what_does_not_fit_is_named():
    model = MAR(SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    state["z_proj.weight"] = state["z_proj.weight"][:, :2]
    state["surplus"] = state.pop("mask_token")
    with pytest.raises(ValueError) as caught:
        load_strictly(model, state, "some.pth")
    message = str(caught.value)
    assert message.startswith("some.pth does not fit the model")
    assert "missing mask_token" in message and "unexpected surplus" in message
    assert "z_proj.weight is (16, 2), the model needs (16, 4)" in message and "\n" not in message
    assert same(model, before)


def test_many_missing_names_are_counted():
    with pytest.raises(ValueError, match=r"missing class_emb.weight, .* and \d+ more"):
        load_strictly(MAR(SMALL), {}, "empty.pth")


def test_a_checkpoint_of_another_preset_is_refused(tmp_path):
    torch.save(published(MAR(SMALL)), tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="the model needs"):
        load_model(tmp_path / "checkpoint.pth", replace(SMALL, head_width=32))


def test_configs_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(ValueError, match="config.json is missing"):
        read_config(tmp_path)
    fields = str(asdict(SMALL) | {"colour": 1}).replace("'", '"')
    for text in ("{", "{}", f'{{"model": {fields}}}'):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="config.json is not (JSON|a model config)"):
            read_config(tmp_path)


def test_average_of_weights():
    """Two updates by hand: decay (1 + n) / (10 + n), at most the given one."""
    live = {"w": torch.zeros(2)}
    average = EMA(live, decay=0.2)
    average.update({"w": torch.ones(2)})
    torch.testing.assert_close(average.shadow["w"], torch.full((2,), 9 / 11))
    average.update({"w": torch.ones(2)})
    torch.testing.assert_close(average.shadow["w"], torch.full((2,), 1 - 2 / 11 * 0.2))
    plain = EMA(live, decay=0.9, warm_start=0)
    plain.update({"w": torch.ones(2)})
    torch.testing.assert_close(plain.shadow["w"], torch.full((2,), 0.1))
    resumed = EMA(live, decay=0.2)
    resumed.load_state_dict(average.state_dict())
    assert resumed.updates == 2 and torch.equal(resumed.shadow["w"], average.shadow["w"])


def test_the_first_updates_are_averaged_alike_where_a_run_is_long():
    average = EMA({"w": torch.tensor([2.0])}, decay=0.99, warm_start=1)
    for n in range(1, 50):
        average.update({"w": torch.tensor([float(n)])})
    assert average.shadow["w"].item() == pytest.approx((2 * 2 + sum(range(1, 50))) / 51)


@pytest.mark.parametrize("preset", [name for name in PRESETS if not name.startswith("tiny")])
def test_the_momentum_of_a_preset_takes_effect_in_its_run(preset):
    learner = PRESETS[preset].learner
    average = EMA({}, learner.ema, EMA.warm_start_of(learner.steps, learner.ema))
    reached = round(1 / (1 - learner.ema)) - 2
    assert reached < learner.steps / 7
    assert average.decay_at(reached - 1) < learner.ema == average.decay_at(reached + 1)
    assert EMA({}, learner.ema).decay_at(learner.steps) < learner.ema  # as a short run's warm start would not


def test_short_runs_average_over_a_ninth_of_their_updates():
    learner = PRESETS["tiny"].learner
    average = EMA({}, learner.ema, EMA.warm_start_of(learner.steps, learner.ema))
    assert [average.decay_at(n) for n in (1, 100, 250)] == [2 / 11, 101 / 110, 251 / 260]


def ldm_state(autoencoder, levels: int) -> dict[str, torch.Tensor]:
    """A state dict in LDM's format, as KL-16 is published."""
    state = {}
    for name, value in autoencoder.state_dict().items():
        projection = ".attentions." in name and value.ndim == 2
        state[ldm_name(name, levels)] = value[:, :, None, None].clone() if projection else value.clone()
    return state


def test_kl16_has_its_published_layout():
    with torch.device("meta"):
        autoencoder = KL16.build()
    state = ldm_state(autoencoder, len(KL16.ch_mult))
    assert state["encoder.down.4.attn.1.proj_out.weight"].shape == (512, 512, 1, 1)
    assert state["encoder.down.2.block.0.nin_shortcut.weight"].shape == (256, 128, 1, 1)
    assert state["decoder.up.0.block.2.conv2.weight"].shape == (128, 128, 3, 3)
    assert state["decoder.up.4.upsample.conv.weight"].shape == (512, 512, 3, 3)
    assert state["quant_conv.weight"].shape == (32, 32, 1, 1)
    assert autoencoder.config["scaling_factor"] == 0.2325
    assert not [name for name in state if "_blocks" in name or "resnets" in name or "to_" in name]


def test_ldm_checkpoint_is_read_without_its_training_loss(tmp_path):
    autoencoder = SMALL_KL.build()
    state = ldm_state(autoencoder, 2) | {"loss.logvar": torch.zeros(())}
    torch.save({"state_dict": state, "global_step": 1}, tmp_path / "kl.ckpt")
    assert same(load_vae(tmp_path / "kl.ckpt", SMALL_KL).autoencoder, autoencoder.state_dict())


def test_what_does_not_fit_an_autoencoder_is_named_as_in_the_file():
    autoencoder = SMALL_KL.build()
    state = ldm_state(autoencoder, 2)
    state["decoder.up.7.block.0.conv1.bias"] = state.pop("decoder.up.0.block.0.conv1.bias")
    state["decoder.conv_in.weight"] = state["decoder.conv_in.weight"][:, :1]
    with pytest.raises(ValueError) as caught:
        load_ldm_state(autoencoder, state, "kl.ckpt")
    message = str(caught.value)
    assert message.startswith("kl.ckpt does not fit") and "missing decoder.up.0.block.0.conv1.bias" in message
    assert "unexpected decoder.up.7.block.0.conv1.bias" in message
    assert "decoder.conv_in.weight is (64, 1, 3, 3), the model needs (64, 4, 3, 3)" in message


def test_an_autoencoder_folder_is_read_strictly(tmp_path):
    autoencoder = SMALL_KL.build()
    autoencoder.save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    vae = load_vae(tmp_path)
    assert same(vae.autoencoder, autoencoder.state_dict()) and vae.scale.item() == pytest.approx(0.2325)
    state = load_file(weights)
    state.pop("post_quant_conv.bias")
    save_file(state, weights)
    with pytest.raises(ValueError, match="missing post_quant_conv.bias"):
        load_vae(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json is missing"):
        load_vae(tmp_path)


def test_latents_are_normalised_by_their_recorded_statistics(tmp_path):
    from diffusers import AutoencoderKL

    autoencoder = AutoencoderKL(**TINY, latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[0.5, 1.0, 2.0, 4.0])
    autoencoder.save_pretrained(tmp_path)
    vae, images = load_vae(tmp_path), torch.rand(2, 1, 32, 32) * 2 - 1
    posterior = autoencoder.eval().encode(images).latent_dist
    mean, std = (torch.tensor(v).reshape(1, 4, 1, 1) for v in ([1.0, 2.0, 3.0, 4.0], [0.5, 1.0, 2.0, 4.0]))
    latents = vae.encode(images)
    torch.testing.assert_close(latents.mean, (posterior.mean - mean) / std)
    torch.testing.assert_close(latents.std, posterior.std / std)
    torch.testing.assert_close(vae.decode(latents.mean), autoencoder.decode(posterior.mean).sample)
