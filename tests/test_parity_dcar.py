"""Numbers of DC-AR's own code, replayed: `--dcar-fixture=PATH` takes any file of the same layout."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from reference import Recording, largest_gap, read_recording
from small_dcar import recorded_model, recorded_tokenizer, write_t5
from transformers import T5Tokenizer

from marval_ray.diffusion.loss import diffusion_terms
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.diffusion.schedule import cosine_diffusion, respaced_timesteps
from marval_ray.draws import Draws
from marval_ray.families.dcar.codec import DCHTCodec
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.context import DCARContext, TextStates
from marval_ray.families.dcar.loop import draw_codes, sample_loops, sharpened_logits
from marval_ray.families.dcar.masking import hidden_after_loops, training_mask
from marval_ray.families.dcar.model import DCAR, positions
from marval_ray.families.dcar.presets import FEW_STEPS, LOOPS, SAMPLERS
from marval_ray.families.dcar.text import TextEncoder
from marval_ray.families.dcar.tokenizer import DCHT, DCHTConfig
from marval_ray.files.fit import load_strictly
from marval_ray.types import Prompts, Tokens

ATOL, ATOL_STATES, ATOL_CHAIN, ATOL_IMAGE = 1e-5, 1e-4, 1e-3, 1e-3


@dataclass(frozen=True)
class Recorded(Draws):
    """The noise of a recorded generation in the place of drawn noise."""

    noises: dict[str, torch.Tensor] = field(default_factory=dict)
    starts = property(lambda self: self)

    def uniform(self, purpose, step, shape):
        return self.noises[{"codes": "gumbel_u_ids", "confidences": "gumbel_u_conf"}[purpose]][step]

    def noise(self, purpose, step, shape):
        rows = self.noises["diff_step"][step - 1] if step else self.noises["diff_init"]
        return rows.unflatten(0, (len(self), -1))


@pytest.fixture(scope="module")
def recording(dcar_fixture_path) -> Recording:
    return read_recording(dcar_fixture_path)


@pytest.fixture(scope="module")
def config(recording) -> DCARConfig:
    return recorded_model(recording)


@pytest.fixture(scope="module")
def t5_folder(recording, tmp_path_factory) -> Path:
    return write_t5(tmp_path_factory.mktemp("t5"), recording)


@pytest.fixture(scope="module")
def text_encoder(t5_folder, config) -> TextEncoder:
    return TextEncoder.load(t5_folder, config)


@pytest.fixture(scope="module")
def model(recording, config) -> DCAR:
    model = DCAR(config).requires_grad_(False)
    load_strictly(model, recording.group("state/dcar"), "the recording")
    return model


@pytest.fixture(scope="module")
def text(recording) -> TextStates:
    return TextStates(recording["outputs/text/hidden"], recording["outputs/text/mask"])


@pytest.fixture(scope="module")
def tokenizer(recording) -> DCHT:
    network = DCHT(recorded_tokenizer(recording))
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


def test_values_are_residuals_divided_by_their_scale(tokenizer, config, recording):
    codec = DCHTCodec(tokenizer, config)
    tokens = codec.encode(recording["inputs/encode/image"])
    assert torch.equal(tokens.codes, recording["outputs/encode/ids"])
    assert largest_gap(0.107 * tokens.values, recording["outputs/encode/residual"]) <= ATOL
    drawn = Tokens(recording["outputs/generate/residual"][:1] / 0.107, recording["outputs/generate/ids"][:1])
    assert largest_gap(codec.decode(drawn), recording["outputs/decode/image"].clamp(-1, 1)) <= ATOL_IMAGE


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
    assert [text_encoder.unread(text) for text in ("a dog " * 4, "the dog " * 5, " ")] == ["", "dog", ""]
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


@pytest.mark.parametrize("kind", ["", "uncond_"])
def test_logits_and_conditions(model, recording, text, kind):
    group, codes = recording.group("outputs/forward"), recording["inputs/forward/ids"]
    masked = codes == model.config.mask_code
    context = DCARContext.of(codes.masked_fill(masked, 0), masked, text, torch.zeros(*codes.shape, model.config.token_channels))
    context = model.unconditional(context) if kind else context
    z = model.conditions(context).unflatten(0, codes.shape)
    assert largest_gap(z, group[f"{kind}latents"]) <= ATOL_STATES
    assert largest_gap(model.logits(z), group[f"{kind}logits"]) <= ATOL_STATES


def test_positions(recording, config):
    assert largest_gap(positions(config.side, config.width), recording["state/dcar/pos_embed"]) <= ATOL


def test_head_and_its_gradients(model, recording):
    x, z = (recording[f"inputs/head/{name}"].clone().requires_grad_() for name in "xz")
    eps, v = model.head(x, recording["inputs/head/t"], z)
    assert largest_gap(torch.cat([eps, v], dim=1).detach(), recording["outputs/head/out"]) <= ATOL
    for got, name in zip(torch.autograd.grad(0.5 * eps.square().sum(), (x, z)), "xz"):
        assert largest_gap(got, recording[f"outputs/head/grad_{name}"]) <= ATOL


def test_guided_head(model, recording):
    x, expected = recording["inputs/head_cfg/x"], recording["outputs/head_cfg/out"]
    condition, sampler = model.head.condition(recording["inputs/head/z"]), Ancestral(cfg=5.5, cfg_schedule="constant")
    eps, v = sampler.guided_noise(model.head, x, torch.tensor([400]), condition, revealed=1.0)
    assert largest_gap(torch.cat([eps, v], dim=1), expected[: len(x)]) <= ATOL
    assert torch.equal(*expected[:, : x.shape[1]].chunk(2))  # the other half has the same eps


def test_schedule(recording):
    group = recording.group("outputs/schedule")
    assert largest_gap(cosine_diffusion().alphas_cumprod, group["alphas_cumprod"]) <= 1e-10
    for steps in (20, 32):
        assert torch.equal(respaced_timesteps(steps), group[f"timestep_map{steps}"])


def test_each_step_of_the_ancestral_chain(model, recording):
    group, noises = recording.group("outputs/ddpm"), recording["inputs/ddpm/step"]
    x, condition, diffusion = recording["inputs/ddpm/init"], model.head.condition(recording["inputs/ddpm/z"]), cosine_diffusion(32)
    sampler = Ancestral(steps=32, clip_x0=1.0)
    for done, index in enumerate(reversed(range(32))):
        eps, v = sampler.guided_noise(model.head, x, diffusion.timesteps[index : index + 1], condition, revealed=1.0)
        x = sampler.reverse_step(x, eps, v, noises[done], index, diffusion)
        assert largest_gap(x, group["x"][done]) <= ATOL_CHAIN, done
    whole = sampler(model.head, recording["inputs/ddpm/z"], recording["inputs/ddpm/init"], noises, revealed=1.0)
    assert torch.equal(whole, x) and largest_gap(whole, group["x0"][-1]) <= ATOL_CHAIN


def test_the_chain_without_noise(model, recording):
    group = recording.group("inputs/ddim20")
    sampler = FEW_STEPS["dc-ar-512"]
    z, noises = torch.cat([group["z_cond"], group["z_null"]]), group["init"].new_empty(sampler.noise_steps, *group["init"].shape)
    assert largest_gap(sampler(model.head, z, group["init"], noises, revealed=1.0), recording["outputs/ddim20/x"]) <= ATOL_CHAIN


def test_loss_of_residuals(model, recording):
    group = recording.group("inputs/difftrain")
    x_0 = group["target"] / model.config.residual_scale
    terms = diffusion_terms(model.head, x_0, group["z"], group["t"], group["noise"], cosine_diffusion())
    for name, value in (("mse", terms.mse), ("vb", terms.vb), ("loss", terms.total)):
        torch.testing.assert_close(value, recording[f"outputs/difftrain/{name}"], rtol=1e-3, atol=ATOL)


def test_masks_of_training(recording):
    inputs, outputs = recording.group("inputs/trainmask"), recording.group("outputs/trainmask")
    mask = training_mask(inputs["u"], inputs["r"])
    assert torch.equal(mask, outputs["mask"])
    assert torch.equal(inputs["tokens"].masked_fill(mask, recording.config["tokenizer"]["codebook_size"]), outputs["ids"])


def test_how_many_codes_are_hidden_after_each_loop(recording):
    assert hidden_after_loops(64, 12)[:-1] == recording["outputs/generate/mask_len"].tolist()[:-1]
    assert hidden_after_loops(256, 12) == [242, 228, 214, 200, 185, 170, 154, 137, 117, 95, 67, 0]
    assert hidden_after_loops(3, 5) == [2, 1, 1, 1, 0]


def test_codes_of_each_loop(model, recording, text):
    """From the recorded codes before it: logits, codes drawn, codes hidden again."""
    c, group, noise = model.config, recording.group("outputs/generate"), Recorded(0, (0, 1), noises=recording.group("inputs/generate"))
    both, loops = text.followed_by(model.without_text(text)), len(group["ids_in"])
    after = [*group["ids_in"][1:], group["ids"]]
    for loop, (before, count) in enumerate(zip(group["ids_in"], hidden_after_loops(c.num_tokens, loops))):
        hidden, done = before == c.mask_code, (loop + 1) / loops
        latents = model(before.repeat(2, 1), both)
        logits = sharpened_logits(model, latents, done)
        if loop in (0, 6, 11):
            assert largest_gap(logits, group["logits"][(0, 6, 11).index(loop)]) <= ATOL_CHAIN, loop
        codes, again = draw_codes(logits, before, hidden, count, c.code_temperature * (1 - done), noise, loop)
        assert torch.equal(codes, group["sampled"][loop]), loop
        assert torch.equal(codes.masked_fill(again, c.mask_code), after[loop]), loop
    assert largest_gap(latents, group["latents"]) <= ATOL_STATES


def test_whole_images(model, recording, text):
    group, noise = recording.group("outputs/generate"), Recorded(0, (0, 1), noises=recording.group("inputs/generate"))
    loops = list(sample_loops(model, SAMPLERS["dc-ar-512"], text, noise, LOOPS))
    for before, tokens in zip(group["ids_in"][1:], loops):
        known = before != model.config.mask_code
        assert torch.equal(tokens.revealed >= 0, known) and torch.equal(tokens.codes, before * known) and not tokens.values.any()
    assert torch.equal(loops[-1].codes, group["ids"])
    assert largest_gap(loops[-1].values * model.config.residual_scale, group["residual"]) <= ATOL_STATES
