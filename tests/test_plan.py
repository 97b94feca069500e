"""The memory that a plan counts, against what real updates take: peaks of the CPU's allocator, and what one H100 showed."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from commands import succeed
from short import DISTILL
from small import write_random_latents, write_teacher
from torch.profiler import ProfilerActivity, profile
from transformers import CLIPConfig

from actors.learning.gsim import GSIMLearner, GSIMRun, Matching
from marval_ray.config import LearnerConfig
from marval_ray.distil.student import Student
from marval_ray.draws import Draws
from marval_ray.embedded import assets_index
from marval_ray.families.mar.config import ModelConfig
from marval_ray.families.mar.context import MARContext
from marval_ray.files.places import ASSETS
from marval_ray.plan.counting import PRODUCTS, counting
from marval_ray.plan.learners import gsim_learner, rl_learner
from marval_ray.plan.need import Need
from marval_ray.plan.report import GB, Actor, loads
from marval_ray.plan.workers import PICKSCORE, reward_worker, rollout_worker
from marval_ray.presets import PRESETS
from marval_ray.reinforce.objective import Objective
from marval_ray.reinforce.scoring import Scorer
from marval_ray.rewards import load_reward
from marval_ray.types import Prompts, Rollout, Scored, Tokens

TINY = PRESETS["tiny"]
WIDTHS = {
    "tiny": TINY.model,
    "narrow": replace(TINY.model, encoder_width=64, decoder_width=64, head_width=96),
    "wide": replace(TINY.model, encoder_width=256, decoder_width=256, head_width=256, masking="mar"),
}
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture(autouse=True)
def own_linear(monkeypatch):
    """DeepSpeed puts one of its own in the place of F.linear for good, once ZeRO 3 was used in a process."""
    monkeypatch.setattr(torch.nn.functional, "linear", PRODUCTS[0])


def peak(action: Callable[[], object]) -> int:
    """Most bytes that the CPU's allocator had given out at once since the beginning of `action`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        action()
    live = most = 0
    for size in sizes(profiled.profiler.kineto_results.experimental_event_tree()):
        live += size
        most = max(most, live)
    return most


def sizes(events: list) -> list[int]:
    """What was taken, and given back, in its order."""

    def every(events: list) -> Iterator:
        for event in events:
            yield event
            yield from every(event.children)

    allocations = [event for event in every(events) if event.tag.name == "Allocation"]
    return [event.extra_fields.alloc_size for event in sorted(allocations, key=lambda event: event.start_time_ns)]


def storages() -> dict[int, int]:
    """Bytes of the storages of all tensors on the CPU."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.device == CPU]
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


def measured(make: Callable[[], GSIMLearner]) -> tuple[int, int]:
    """(bytes that a learner holds between updates, what the largest of four updates takes on top)."""
    others = storages()
    learner = make()
    learner.step(0)  # Adam makes its moments
    held = sum(size for place, size in storages().items() if place not in others)
    return held, peak(lambda: [learner.step(1 + step) for step in range(4)])


def learner_of(folder, model: ModelConfig, learner: LearnerConfig) -> GSIMLearner:
    teacher, latents = write_teacher(folder / "teacher", model), write_random_latents(folder / "latents.parquet", model)
    return GSIMLearner(GSIMRun(model, Matching(TINY.gsim, teacher, latents), learner), CPU)


@pytest.mark.parametrize("width", WIDTHS)
def test_updates_of_gsim_take_what_was_counted(width, tmp_path):
    model, learner = WIDTHS[width], replace(TINY.learner, batch=16)
    held, working = measured(lambda: learner_of(tmp_path, model, learner))
    need = gsim_learner(model, TINY.gsim, learner, gpu=False)
    assert held == pytest.approx(need.weights + need.optimiser, rel=0.15)
    assert working == pytest.approx(need.working, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_so_do_they_under_zero(stage, tmp_path):
    def two_updates() -> None:
        """From the start: what DeepSpeed frees that was there before would not be seen."""
        made = learner_of(tmp_path, TINY.model, learner)
        for step in range(2):
            made.step(step)

    learner = replace(TINY.learner, batch=4, zero_stage=stage)
    assert peak(two_updates) == pytest.approx(gsim_learner(TINY.model, TINY.gsim, learner, gpu=False).total, rel=0.15)


@pytest.mark.parametrize("last", [1, 4, 8])
@pytest.mark.parametrize("recompute", [True, False])
def test_replays_take_what_was_counted(last, recompute):
    rl, learner = replace(TINY.rl, loops=(8,), last=last, recompute=recompute), LearnerConfig(batch=8)
    student = Student(TINY.model.family.build(TINY.model))
    student.backbone.head.requires_grad_(not rl.freeze_head)
    initial = Student(TINY.model.family.build(TINY.model)).requires_grad_(False)
    objective = Objective(TINY.model, rl, initial, 0, CPU, lambda total: None)
    shape = (learner.batch, TINY.model.num_tokens, TINY.model.token_channels)
    prompts, draws = Prompts.classes_in_turn(10, learner.batch), Draws(0, tuple(range(learner.batch)))
    rollout = Rollout(Tokens(torch.randn(shape)), prompts, draws, 8, 0, 0)
    scored = Scored(torch.randn(learner.batch), torch.randn(shape))
    need = rl_learner(TINY.model, rl, TINY.gsim, learner, gpu=False)
    assert peak(lambda: objective.loss(student, 0, rollout, scored).value.backward()) == pytest.approx(need.working, rel=0.15)


def test_scoring_takes_what_was_counted():
    codec, rl = TINY.model.family.codec(assets_index.VAE, TINY.model), replace(TINY.rl, chunk=16)
    scorer = Scorer(codec, load_reward(rl.rewards))
    tokens, prompts = Tokens(torch.randn(16, 64, 4)), Prompts.classes_in_turn(10, 16)
    scorer(tokens, prompts)  # it keeps the features of the prompts
    need = reward_worker(TINY.model, rl, codec, CLIPConfig.from_pretrained(ASSETS / "reward", local_files_only=True))
    assert peak(lambda: scorer(tokens, prompts)) == pytest.approx(need.working, rel=0.15)


def test_drawing_takes_what_was_counted():
    model, rl = TINY.model.family.build(TINY.model), replace(TINY.rl, chunk=16)
    need = rollout_worker(TINY.model, rl, gpu=False)

    @torch.no_grad()
    def draw() -> None:
        for _ in TINY.model.family.reveal(model, model.one_step, torch.zeros(16, dtype=torch.long), Draws(0, tuple(range(16))), 4):
            pass

    assert peak(draw) == pytest.approx(need.working, rel=0.15)


@pytest.mark.parametrize("bf16", [True, False])
def test_autocast_takes_what_was_counted(bf16):
    def forward_and_back(device: torch.device) -> None:
        """Of the network alone: the tokens' own noise is there before."""
        loss = students[device](contexts[device], noises[device]).square().mean()
        with torch.autocast("cpu", enabled=False):
            loss.backward()

    c, meta = TINY.model, torch.device("meta")
    students = {device: Student(c.family.build(c)).to(device) for device in (CPU, meta)}
    noises = {device: torch.zeros(16 * 40, c.token_channels, device=device) for device in (CPU, meta)}
    known, hidden = torch.arange(24).expand(16, -1), torch.arange(24, 64).expand(16, -1)
    contexts = {device: MARContext(torch.zeros(16, 64, 4), known[:, 0], known, hidden).to(device) for device in (CPU, meta)}
    with counting(bf16) as live:
        forward_and_back(meta)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        assert peak(lambda: forward_and_back(CPU)) == pytest.approx(live.peak, rel=0.15)


@pytest.mark.slow
def test_one_h100_took_what_was_counted():
    """docs/scaling.md: 31 GB for GSIM of MAR-B with 64 images, 29.9 GB for 16 images through KL-16 and CLIP-H, without its text tower."""
    mar_b = PRESETS["mar-b"]
    gsim = gsim_learner(mar_b.model, mar_b.gsim, LearnerConfig(batch=64), gpu=True)
    reward = reward_worker(mar_b.model, replace(mar_b.rl, chunk=16), None, PICKSCORE)
    assert gsim.total / GB == pytest.approx(31, rel=0.15)
    assert reward.total / GB == pytest.approx(29.9, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "size"), [("mar-b-24gb", 24), ("mar-b-80gb", 80)])
def test_presets_for_one_gpu_fit(preset, size):
    out = succeed(DISTILL, "--preset", preset, "--plan", size)
    assert "DOES NOT FIT" not in out and "| gsim | 1 |" in out and "| rl | 1 |" in out


def test_what_does_not_fit_is_said_before_any_file_is_named():
    out = succeed(DISTILL, "--preset", "mar-b", "--stages", "gsim", "--plan", 24)
    assert "DOES NOT FIT: lower --learner.batch" in out


def test_actors_go_where_their_share_is_free():
    need = Need(10 * 10**9, 0, 0)
    actors = [Actor("a", 1, 2, 0.4, need), Actor("b", 1, 1, 0.4, need), Actor("c", 1, 1, 0.0, need), Actor("d", 1, 1, 1.0, need)]
    assert [round(load / GB, 1) for load in loads(actors, 10**9)] == [13.1, 23.0, 11.5]
