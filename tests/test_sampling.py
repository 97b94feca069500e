"""The backbone and the auto-regressive loop: what they may see, the order of features, replay and guidance."""

from dataclasses import replace

import pytest
import torch

from marval_ray.diffusion.head import DenoisingHead
from marval_ray.diffusion.samplers import DDIM, Ancestral, OneStep
from marval_ray.diffusion.schedule import cosine_diffusion
from marval_ray.distil.denoising import Noising, context_loss
from marval_ray.draws import Draws
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.loop import Randomness, plan_loops, run_loop, sample_loops, sample_tokens
from marval_ray.families.mar.masking import hidden_after_loops, mask_tokens
from marval_ray.families.mar.model import MAR, patchify, unpatchify

# Encoder and decoder differ in every size, and a token is a patch of 2 x 2.
UNEVEN = ModelConfig(
    latent_size=8, latent_channels=3, patch_size=2, num_classes=5, buffer_size=3,
    encoder_width=24, encoder_depth=1, encoder_heads=3,
    decoder_width=32, decoder_depth=2, decoder_heads=4,
    head_width=16, head_depth=1,
)  # fmt: skip
TEACHER = Ancestral(steps=5, cfg=3.0, clip_x0=3.0)
STUDENT = OneStep(400)


@pytest.fixture(scope="module")
def model() -> MAR:
    """Random weights, also where training starts from zero."""
    torch.manual_seed(0)
    model = MAR(UNEVEN).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def draw(indices, sampler, seed=1) -> Randomness:
    return Randomness.of(Draws(seed, tuple(indices)), UNEVEN.num_tokens, UNEVEN.token_channels, sampler.noise_steps)


def test_tokens_are_row_major_patches_of_channel_row_column():
    channels, side, patch = 3, 4, 2
    latents = torch.arange(2.0 * channels * side * side).reshape(2, channels, side, side)
    tokens = patchify(latents, patch)
    assert tokens.shape == (2, 4, 12)
    for c, row, column in torch.cartesian_prod(torch.arange(channels), torch.arange(side), torch.arange(side)):
        token = row // patch * (side // patch) + column // patch
        feature = c * patch * patch + row % patch * patch + column % patch
        assert torch.equal(tokens[:, token, feature], latents[:, c, row, column])
    assert torch.equal(unpatchify(tokens, patch), latents)


def test_patch_size_one_keeps_channels_together():
    latents = torch.randn(2, 3, 4, 4)
    assert torch.equal(patchify(latents, 1), latents.flatten(2).transpose(1, 2))
    assert torch.equal(unpatchify(patchify(latents, 1), 1), latents)


def test_encoder_and_decoder_may_differ_in_width(model):
    known, wanted = torch.tensor([[0, 5, 9], [1, 2, 3]]), torch.tensor([[1], [15]])
    tokens, labels = torch.randn(2, UNEVEN.num_tokens, UNEVEN.token_channels), torch.tensor([0, 5])
    encoded = model.encode(tokens.gather(1, known[..., None].expand(-1, -1, 12)), known, labels)
    assert encoded.shape == (2, 3 + 3, 24)
    assert model.decode(encoded, known, wanted).shape == (2, 1, 32)


def test_hidden_tokens_are_never_seen(model):
    known, wanted = torch.tensor([[0, 5, 9]]), torch.arange(UNEVEN.num_tokens)[None]
    tokens, labels = torch.randn(1, UNEVEN.num_tokens, UNEVEN.token_channels), torch.tensor([2])
    blinded = torch.full_like(tokens, torch.nan)
    blinded[:, known[0]] = tokens[:, known[0]]
    z = model(tokens, labels, known, wanted)
    assert torch.equal(z, model(blinded, labels, known, wanted))
    assert not torch.equal(z, model(tokens + 1, labels, known, wanted))


def test_null_label_reads_the_null_embedding(model):
    labels = torch.tensor([1, UNEVEN.num_classes])
    assert torch.equal(model.embed_labels(labels), torch.cat([model.class_emb.weight[1:2], model.fake_latent]))


@pytest.mark.parametrize("loops", [1, 4, 16, 50])
def test_every_position_is_predicted_once_and_from_the_end_of_the_order(loops):
    orders = draw(range(3), STUDENT).orders
    plan = list(plan_loops(orders, loops))
    assert len(plan) == min(loops, 16) and plan[0].known.shape == (3, 0)
    done = 0
    for loop in plan:
        count = loop.predicted.shape[1]
        expected = orders[:, 16 - done - count : 16 - done]
        assert torch.equal(loop.predicted, expected.sort(dim=1).values)
        assert torch.equal(loop.known, orders[:, 16 - done :].sort(dim=1).values)
        done += count
        assert loop.revealed == min(done, 15) / 16
    assert done == 16


@pytest.mark.parametrize("sampler", [replace(TEACHER, reveal=2.5), replace(STUDENT, reveal=2.5)], ids=["teacher", "student"])
def test_a_sampler_reveals_tokens_as_it_says(model, sampler):
    states = list(sample_loops(model, sampler, torch.tensor([4]), draw([7], sampler), loops=4))
    assert [int((state == 0).all(-1).sum()) for state in states] == hidden_after_loops(16, 4, 2.5) != hidden_after_loops(16, 4)


@pytest.mark.parametrize("sampler", [TEACHER, STUDENT], ids=["teacher", "student"])
def test_an_image_does_not_depend_on_its_batch(model, sampler):
    labels = torch.arange(8) % 5
    batch = sample_tokens(model, sampler, labels, draw(range(8), sampler), loops=6)
    alone = sample_tokens(model, sampler, labels[3:4], draw([3], sampler), loops=6)
    torch.testing.assert_close(batch[3:4], alone, rtol=0, atol=1e-5)
    assert batch.isfinite().all() and (batch[0] - batch[5]).abs().max() > 0.1


@pytest.mark.parametrize("sampler", [TEACHER, STUDENT], ids=["teacher", "student"])
def test_sampling_is_replayed_also_from_the_middle(model, sampler):
    labels, draws = torch.tensor([4, 0]), draw([7, 8], sampler)
    states = list(sample_loops(model, sampler, labels, draws, loops=6))
    assert torch.equal(states[-1], sample_tokens(model, sampler, labels, draw([7, 8], sampler), loops=6))
    tokens = states[2]
    for loop in list(plan_loops(draws.orders, 6))[3:]:
        assert tokens.gather(1, loop.predicted[..., None]).abs().max() == 0
        tokens = run_loop(model, sampler, tokens, labels, loop, draws)
    assert torch.equal(tokens, states[-1])


def test_draws_depend_on_seed_and_index_alone():
    both, one = draw([4, 5], TEACHER), draw([5], TEACHER)
    assert torch.equal(both.orders[1:], one.orders)
    assert torch.equal(both.initial[1:], one.initial) and torch.equal(both.steps[:, 1:], one.steps)
    assert torch.equal(one.orders.sort(dim=1).values[0], torch.arange(16))
    for other in (draw([6], TEACHER), draw([5], TEACHER, seed=2), draw([4], TEACHER, seed=2)):
        assert not torch.equal(other.initial, one.initial)


class CountingHead(DenoisingHead):
    """A head whose unconditional rows (z = 0) have v = NaN, and that keeps the x it was given."""

    def __init__(self):
        super().__init__(channels=1, condition_width=1, width=8, depth=1)
        self.inputs = []

    def condition(self, z):
        return z

    def denoise(self, x, t, z):
        self.inputs.append(x)
        return 0.1 * x + z, torch.where(z == 0, torch.nan, z)


def test_guidance_reads_only_the_conditional_half():
    """The same x enters both halves at every step, and v is the conditional one."""
    z, generator = torch.tensor([[0.5], [0.7], [0.0], [0.0]]), torch.Generator().manual_seed(0)
    initial, steps = torch.randn(2, 1, generator=generator), torch.randn(4, 2, 1, generator=generator)
    head, sampler = CountingHead(), Ancestral(steps=4, cfg=2.0, cfg_schedule="constant", clip_x0=1.0)
    got = sampler(head, z, initial, steps, revealed=0.5)
    assert len(head.inputs) == 4 and all(torch.equal(x[:2], x[2:]) for x in head.inputs)

    x, diffusion = initial, cosine_diffusion(4)
    for noise, index in zip(steps, (3, 2, 1, 0)):
        x = sampler.reverse_step(x, 0.1 * x + 2.0 * z[:2], z[:2], noise, index, diffusion)
    torch.testing.assert_close(got, x)


def test_a_teacher_takes_fewer_steps_where_more_is_known():
    annealed, head = Ancestral(steps=8, cfg=3.0, last_steps=2), CountingHead()
    assert [annealed.steps_at(revealed) for revealed in (0.0, 0.5, 1.0)] == [8, 5, 2] and annealed.noise_steps == 8
    assert Ancestral(steps=8).steps_at(1.0) == 8
    z, initial, steps = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((4, 1), (2, 1), (8, 2, 1)))
    got = annealed(head, z, initial, steps, revealed=0.5)
    assert len(head.inputs) == 5
    assert torch.equal(got, Ancestral(steps=5, cfg=3.0)(head, z, initial, steps[:5], revealed=0.5))


@pytest.mark.parametrize("last_steps", [0, 9])
def test_last_steps_beyond_the_first_ones_are_refused(last_steps):
    with pytest.raises(ValueError, match=rf"last_steps must be from 1 to steps \(8\), got {last_steps}"):
        Ancestral(steps=8, last_steps=last_steps)


def test_guidance_scale():
    assert Ancestral(cfg=3.0).scale(0.25) == 1.5
    assert Ancestral(cfg=3.0, cfg_schedule="constant").scale(0.25) == 3.0
    assert Ancestral(cfg=2.0).guided and not Ancestral(cfg=1.0).guided


def test_temperature_scales_the_noise_of_steps_but_not_the_last_one():
    x, eps, v, noise = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0)).unbind()
    diffusion = cosine_diffusion(5)
    mean = Ancestral(5, temperature=0.0).reverse_step(x, eps, v, noise, 2, diffusion)
    full, half = (Ancestral(5, temperature=t).reverse_step(x, eps, v, noise, 2, diffusion) for t in (1.0, 0.5))
    torch.testing.assert_close(half - mean, (full - mean) / 2)
    last = [Ancestral(5, temperature=t).reverse_step(x, eps, v, noise, 0, diffusion) for t in (1.0, 0.5)]
    assert torch.equal(*last)


def test_the_student_takes_one_step_from_timestep_400():
    noise, eps = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).unbind()
    asked = []

    class Echo(DenoisingHead):
        def forward(self, x, t, z):
            asked.append((x, t.tolist()))
            return z, torch.zeros_like(z)

    x_0 = OneStep(400)(Echo(channels=3, condition_width=3, width=8, depth=1), eps, noise, torch.empty(0, 5, 3), revealed=1.0)
    assert len(asked) == 1 and torch.equal(asked[0][0], noise) and asked[0][1] == [400]
    torch.testing.assert_close(x_0, 1.244 * noise - 0.740 * eps, rtol=0, atol=5e-3)
    alpha, sigma = cosine_diffusion().alpha_sigma(torch.tensor([400]))
    torch.testing.assert_close(alpha * x_0 + sigma * eps, noise)


@pytest.mark.parametrize("sampler", [OneStep(400), Ancestral(steps=4), DDIM(steps=4)])
def test_loops_look_tables_up_and_build_none(sampler):
    """On a GPU each table that a loop builds and copies would stop the loop."""
    head, rows = DenoisingHead(channels=1, condition_width=1, width=8, depth=1), torch.zeros(2, 1)
    sampler(head, rows, rows, rows.expand(4, -1, -1), revealed=0.5)
    before = cosine_diffusion.cache_info()
    sampler(head, rows, rows, rows.expand(4, -1, -1), revealed=0.5)
    after = cosine_diffusion.cache_info()
    assert after.misses == before.misses and after.hits == before.hits + 1


def test_training_loss_falls_where_the_head_learns():
    """A few steps of plain training on one context; repeats only average over more draws."""
    torch.manual_seed(0)
    model, tokens = MAR(UNEVEN), torch.randn(4, UNEVEN.num_tokens, UNEVEN.token_channels)
    context = mask_tokens(tokens, torch.tensor([0, 1, 2, 3]), "mar", torch.Generator().manual_seed(0))
    hidden = tokens.gather(1, context.hidden[..., None].expand(-1, -1, 12))
    optimiser, diffusion, values = torch.optim.Adam(model.parameters(), 3e-3), cosine_diffusion(), []
    for _ in range(25):
        noising = Noising.draw(4 * context.hidden.numel(), UNEVEN.token_channels, torch.Generator().manual_seed(1))
        loss = context_loss(model, context, hidden, noising, diffusion)
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
        values.append(loss.metrics["mse"].item())
    assert values[0] == pytest.approx(1, abs=0.1)  # an untrained head predicts zero noise
    assert values[-1] < 0.8 * values[0]
