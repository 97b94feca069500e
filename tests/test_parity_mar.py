"""Numbers of the reference implementations of MAR and of DeTok's MAR, replayed: `--mar-fixture=PATH` and `--detok-fixture=PATH` take
any file of the same layout."""

import pytest
import torch
from reference import Recording, largest_gap, model_config_from_reference, read_recording

from marval_ray.diffusion.loss import diffusion_terms
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.diffusion.schedule import cosine_diffusion
from marval_ray.families.mar.context import MARContext
from marval_ray.families.mar.loop import Randomness, plan_loops, run_loop, sample_tokens
from marval_ray.families.mar.masking import hidden_after_loops
from marval_ray.families.mar.model import MAR, unpatchify
from marval_ray.files.fit import load_strictly
from marval_ray.positions import gather_tokens, scatter_tokens

ATOL = 1e-5
# At t = 999 the factor 1 / alpha_t is about 2e4 and values reach 6e4: a rounding error of 1e-6 becomes 2e-2.
ATOL_SAMPLE = 0.1
ATOL_TABLE = 1e-10


@pytest.fixture(scope="module", params=["mar", "detok"])
def recording(request) -> Recording:
    return read_recording(request.getfixturevalue(f"{request.param}_fixture_path"))


@pytest.fixture(scope="module")
def model(recording) -> MAR:
    model = MAR(model_config_from_reference(recording.config)).eval().requires_grad_(False)
    load_strictly(model, recording.group("state"), "the recording")
    return model


@pytest.fixture(scope="module")
def context(recording):
    """(group, known positions, hidden positions), both ascending."""
    group = recording.group("context")
    hidden_count = int(group["mask"][0].sum())
    hidden, known = group["orders"].split([hidden_count, group["orders"].shape[1] - hidden_count], dim=1)
    assert torch.equal(torch.zeros_like(group["mask"]).scatter(1, hidden, 1.0), group["mask"])
    return group, known.sort(dim=1).values, hidden.sort(dim=1).values


def test_encoder(model, context):
    group, known, _ = context
    encoded = model.encode(gather_tokens(group["tokens"], known), known, group["labels"])
    assert largest_gap(encoded, group["encoder_out"]) <= ATOL


@pytest.mark.parametrize("name", ["z_cond", "z_uncond"])
def test_conditions_of_all_positions(model, context, name):
    group, known, _ = context
    null = torch.full_like(group["labels"], model.config.num_classes)
    labels = group["labels"] if name == "z_cond" else null
    everywhere = torch.arange(model.config.num_tokens).expand(len(labels), -1)
    assert largest_gap(model(group["tokens"], labels, known, everywhere), group[name]) <= ATOL


def test_conditions_of_hidden_positions(model, context):
    group, known, hidden = context
    z = model(group["tokens"], group["labels"], known, hidden)
    assert largest_gap(z, gather_tokens(group["z_cond"], hidden)) <= ATOL


def test_head(model, recording):
    group = recording.group("head")
    out = torch.cat(model.head(group["x_t"], group["t"], group["z"]), dim=1)
    assert largest_gap(out, group["out"]) <= ATOL


def test_schedule(recording):
    diffusion, group = cosine_diffusion(), recording.group("schedule")
    tables = {name for name in group if not name.startswith("respaced")}
    assert len(tables) == 6
    for name in tables:
        assert largest_gap(getattr(diffusion, name), group[name]) <= ATOL_TABLE, name


def test_respaced_schedule(recording):
    group = recording.group("schedule")
    respaced = cosine_diffusion(_steps(recording))
    assert torch.equal(respaced.timesteps, group["respaced_timesteps"])
    assert largest_gap(respaced.betas, group["respaced_betas"]) <= ATOL_TABLE


def test_loss(model, recording):
    group = recording.group("loss")
    terms = diffusion_terms(model.head, group["x0"], group["z"], group["t"], group["noise"], cosine_diffusion())
    for name in ("mse", "vb", "total"):
        assert largest_gap(getattr(terms, name), group[name]) <= ATOL, name


def test_chain(model, recording):
    group = recording.group("chain")
    sampler = Ancestral(steps=_steps(recording), temperature=recording.sampling["chain_temperature"])
    sample = sampler(model.head, group["z"], group["noise_init"], group["noise_steps"], revealed=1.0)
    assert largest_gap(sample, group["sample"]) <= ATOL_SAMPLE


def test_each_loop_with_guidance(model, recording):
    """Scale, conditions and both halves of the predicted tokens of every loop, then the tokens it writes."""
    group, sampler = recording.group("sample"), _sampler(recording)
    draws, tokens = _draws(model, recording, "sample"), torch.zeros_like(group["tokens"])
    for k, loop in _loops(model, recording, "sample"):
        assert sampler.scale(loop.revealed) == pytest.approx(group[f"iter{k}/cfg"].item(), abs=1e-6)
        context = MARContext(tokens, group["labels"], loop.known, loop.predicted)
        z = model.conditions(context.followed_by(model.unconditional(context)) if sampler.guided else context)
        assert largest_gap(z, group[f"iter{k}/z"]) <= ATOL
        predicted = _both_halves(model, sampler, z, loop, group[f"iter{k}/noise_init"], group[f"iter{k}/noise_steps"])
        assert largest_gap(predicted, group[f"iter{k}/predicted"]) <= ATOL_SAMPLE
        tokens = run_loop(model, sampler, tokens, group["labels"], loop, draws)
        kept = group[f"iter{k}/predicted"][: loop.predicted.numel()]
        assert largest_gap(gather_tokens(tokens, loop.predicted).flatten(0, 1), kept) <= ATOL_SAMPLE


def test_sample_with_guidance(model, recording):
    group, patch = recording.group("sample"), model.config.patch_size
    draws, loops = _draws(model, recording, "sample"), recording.config["ar_iters"]
    tokens = sample_tokens(model, _sampler(recording), group["labels"], draws, loops)
    assert largest_gap(tokens, group["tokens"]) <= ATOL_SAMPLE
    assert largest_gap(unpatchify(tokens, patch), group["latents"]) <= ATOL_SAMPLE
    # The order of features alone, without the sampler's rounding errors.
    assert torch.equal(unpatchify(group["tokens"], patch), group["latents"])


def test_sample_without_guidance(model, recording):
    group, draws = recording.group("sample_nocfg"), _draws(model, recording, "sample_nocfg")
    # This group is recorded at temperature 1; a file with `sampling` settings may have used its own.
    gaps = []
    for temperature in {1.0, recording.sampling["temperature"]}:
        sampler = Ancestral(steps=_steps(recording), temperature=temperature)
        tokens = sample_tokens(model, sampler, recording["sample/labels"], draws, recording.config["ar_iters"])
        gaps.append(largest_gap(unpatchify(tokens, model.config.patch_size), group["latents"]))
    assert min(gaps) <= ATOL_SAMPLE


def _steps(recording: Recording) -> int:
    return int(recording.config["num_sampling_steps"])


def _sampler(recording: Recording) -> Ancestral:
    settings = recording.sampling
    return Ancestral(steps=_steps(recording), cfg=settings["cfg"], temperature=settings["temperature"])


def _loops(model: MAR, recording: Recording, name: str):
    """(number in the recording, loop) of the loops that predict something, which are all that `plan_loops` gives."""
    loops = recording.config["ar_iters"]
    hidden = [model.config.num_tokens, *hidden_after_loops(model.config.num_tokens, loops)]
    numbers = [k for k in range(loops) if hidden[k + 1] < hidden[k]]
    return list(zip(numbers, plan_loops(recording[f"{name}/orders"], loops), strict=True))


def _draws(model: MAR, recording: Recording, name: str) -> Randomness:
    """The recorded noise, one row a predicted token of each loop, moved to the positions of those tokens."""
    orders = recording[f"{name}/orders"]
    initial = torch.zeros(*orders.shape, model.config.token_channels)
    steps = torch.zeros(_steps(recording), *initial.shape)
    for k, loop in _loops(model, recording, name):
        rows, shape = loop.predicted.numel(), loop.predicted.shape
        start, noise = (recording[f"{name}/iter{k}/{part}"] for part in ("noise_init", "noise_steps"))
        assert len(start) == rows, f"loop {k} predicts {rows} tokens here, {len(start)} in the recording"
        initial = scatter_tokens(initial, loop.predicted, start.unflatten(0, shape))
        conditional = noise[:, :rows].unflatten(1, shape)
        steps = torch.stack([scatter_tokens(s, loop.predicted, n) for s, n in zip(steps, conditional)])
    return Randomness(orders, initial, steps)


def _both_halves(model, sampler: Ancestral, z, loop, initial, noises) -> torch.Tensor:
    """Chains of the conditional rows and of the unconditional ones, which the sampler itself does not need.

    Both take eps from the conditional x; each has its own v, noise and x.
    """
    if not sampler.guided:
        return sampler(model.head, z, initial, noises, loop.revealed)
    diffusion, condition = cosine_diffusion(sampler.steps), model.head.condition(z)
    scale, x = sampler.scale(loop.revealed), torch.cat([initial, initial])
    for noise, index in zip(noises, reversed(range(sampler.steps)), strict=True):
        first = x[: len(initial)].repeat(2, 1)
        eps, v = model.head.denoise(first, diffusion.timesteps[index : index + 1], condition)
        conditional, unconditional = eps.chunk(2)
        eps = (unconditional + scale * (conditional - unconditional)).repeat(2, 1)
        x = sampler.reverse_step(x, eps, v, noise, index, diffusion)
    return x
