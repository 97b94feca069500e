"""Reinforcement learning on real Ray: learner, rollout and reward actors, judge, and what happens when they die."""

import io
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from chaos import alive, disturb
from rich.console import Console
from safetensors.torch import load_file
from small import MODEL, largest_gap, write_random_latents, write_teacher

from actors.crew.pool import Crew
from actors.learning.gsim import Matching
from actors.learning.reinforce import hired
from actors.learning.rl import Plan, RLRun
from actors.learning.trainer import LearnerError, train
from actors.screen import ROWS, live_table
from marval_ray.config import GSIMConfig, GuardConfig, LearnerConfig, RLConfig, RoleConfig
from marval_ray.embedded import assets_index
from marval_ray.embedded.fashion_mnist import CLASS_NAMES
from marval_ray.families.mar.model import MAR
from marval_ray.files.flat import pack, unpack
from marval_ray.files.storage import Storage
from marval_ray.presets import PRESETS
from marval_ray.prompts import class_prompts
from marval_ray.reinforce.requests import requests
from marval_ray.runs.stage import RL, read_metrics
from marval_ray.types import Prompts

ROLE = RoleConfig(count=2, cpus=0.5)
CHAOS_STEPS = 1500


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    variables = {"PYTHONPATH": str(Path(__file__).parent), "HANG_MARKER": str(tmp_path_factory.mktemp("hang") / "hung")}
    with ray.init(num_cpus=8, object_store_memory=300 * 10**6, runtime_env={"env_vars": variables}):
        yield


@pytest.fixture
def plan(tmp_path) -> Plan:
    learner = LearnerConfig(steps=4, batch=6, lr=1e-3, auxiliary_lr=1e-3, ema=0.9, log_every=1, checkpoint_every=2)
    student, latents = write_teacher(tmp_path / "student"), write_random_latents(tmp_path / "latents.parquet")
    rl = RLConfig(rewards=("plugin:small_reward:Brightness",), loops=(4,), last=4, chunk=2, rollout=ROLE, reward=ROLE)
    matching = Matching(GSIMConfig(), student, latents)
    return Plan(MODEL, rl, GuardConfig(), learner, student, matching, assets_index.VAE, Prompts.of_classes(("a", "b", "c")), None)


def with_rl(plan: Plan, **changes) -> Plan:
    return replace(plan, rl=replace(plan.rl, **changes))


def with_learner(plan: Plan, **changes) -> Plan:
    return replace(plan, learner=replace(plan.learner, **changes))


def embedded(learner: LearnerConfig, guard: GuardConfig, **rl) -> Plan:
    """With the embedded models, so that there is a judge; brightness is the reward."""
    tiny = PRESETS["tiny"]
    return Plan(
        tiny.model, replace(tiny.rl, rewards=("plugin:small_reward:Brightness",), **rl), guard, learner, assets_index.GSIM_STUDENT,
        Matching(tiny.gsim, assets_index.TEACHER, assets_index.LATENTS), assets_index.VAE,
        Prompts.of_classes(class_prompts(CLASS_NAMES)), (assets_index.CLASSIFIER, assets_index.REFERENCE),
    )  # fmt: skip


def trained(plan: Plan, folder: Path, crew: Crew | None = None) -> dict[str, torch.Tensor]:
    """The averaged student after training in `folder`, with actors of its own unless there is a `crew`."""
    if crew is None:
        with hired(plan) as crew:
            return trained(plan, folder, crew)
    folder.mkdir(exist_ok=True)
    return load_file(train(RLRun.of(plan, crew), Storage.of(str(folder)), RL) / "ema.safetensors")


def metrics(folder: Path) -> list[dict[str, float]]:
    return read_metrics(folder / "metrics-rl.jsonl")


@pytest.mark.parametrize("lora_rank", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_reward_rises_and_a_resumed_run_equals_the_whole(plan, tmp_path, lora_rank):
    plan = with_rl(
        with_learner(plan, steps=12, checkpoint_every=6, lr=1e-2, batch=12), drift_weight=1e-3, class_drift_weight=1e-3, lora_rank=lora_rank
    )
    with hired(plan) as crew:
        whole = trained(plan, tmp_path / "whole", crew)
        trained(with_learner(plan, steps=6), tmp_path / "parts", crew)
        assert largest_gap(whole, trained(plan, tmp_path / "parts", crew)) == 0
    rows = metrics(tmp_path / "whole")
    assert rows[-1]["reward"] > rows[0]["reward"] + rows[0]["reward_std"]
    assert {row["flow/staleness"] for row in rows} == {0}
    assert {name for names in ROWS.values() for name in names if not name.startswith("held_out")} <= rows[-1].keys()


@pytest.mark.slow
def test_all_options_together_run(plan, tmp_path):
    plan = with_rl(
        plan, gsim_weight=0.1, drift_weight=0.1, class_drift_weight=0.1, saturate=1.0, random_last=True, weight_dtype="bfloat16",
        colocate=True,
    )  # fmt: skip
    rows = trained(plan, tmp_path / "run") and metrics(tmp_path / "run")
    assert {"generator/loss", "drift", "class_drift", "reward", "flow/rollout_ms", "flow/sync_megabytes"} <= rows[-1].keys()


@pytest.mark.slow
def test_policy_gradient_raises_a_reward_without_gradient(plan, tmp_path):
    """With two updates of each batch, from rounded weights that are up to two batches old."""
    plan = with_rl(
        with_learner(plan, steps=18, batch=32, lr=5e-3), rewards=("plugin:small_reward:Darkness",), estimator="policy",
        exploration=0.3, group=8, epochs=2, chunk=16, weight_dtype="bfloat16", max_staleness=2,
    )  # fmt: skip
    trained(plan, tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert rows[-1]["reward"] > rows[0]["reward"] + rows[0]["reward_std"]
    assert {row["flow/staleness"] for row in rows} == {0, 1, 2} and all(row["ratio"] != 1 for row in rows)


@pytest.mark.slow
def test_a_process_that_hangs_and_killed_ones_change_nothing(plan, tmp_path):
    plan = with_learner(plan, steps=30, checkpoint_every=5)
    whole = trained(plan, tmp_path / "whole")
    with ThreadPoolExecutor(1) as background:
        hanging = with_rl(plan, rewards=("plugin:small_reward:HangsOnce",), timeout=20)
        result = background.submit(trained, hanging, tmp_path / "harmed")
        for rows, victim in ((7, "RolloutWorker"), (12, "RewardWorker"), (17, "RayTrainWorker")):
            wait_for_rows(tmp_path / "harmed" / "metrics-rl.jsonl", rows)
            os.kill(alive(victim)[0], signal.SIGKILL)
        assert largest_gap(whole, result.result(timeout=240)) == 0
    rows = metrics(tmp_path / "harmed")
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert rows[6]["flow/replaced_workers"] == 1  # the one that hung; what died is Ray's to restart


def wait_for_rows(path: Path, rows: int, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not path.exists() or len(path.read_text(encoding="utf-8").splitlines()) < rows:
        assert time.monotonic() < end, f"{path} does not get to {rows} rows"
        time.sleep(0.05)


@pytest.mark.slow
def test_stale_rollouts_keep_their_bound_and_do_not_depend_on_timing(plan, tmp_path):
    with hired(plan) as crew:
        for staleness in (1, 2):
            stale = with_rl(with_learner(plan, steps=8), max_staleness=staleness)
            once = trained(stale, tmp_path / f"{staleness}", crew)
            assert max(row["flow/staleness"] for row in metrics(tmp_path / f"{staleness}")) == staleness
        assert largest_gap(once, trained(stale, tmp_path / "again", crew)) == 0


@pytest.mark.slow
def test_two_ranks_with_zero_3_equal_one(plan, tmp_path):
    """Adam divides by the gradient's size, so sums in another order show up where it is near zero: compared with how far
    the weights went."""
    start = load_file(plan.student)
    plan = with_rl(plan, freeze_head=True)
    with hired(plan) as crew:
        one = trained(plan, tmp_path / "one", crew)
        two = trained(with_learner(plan, workers=2, zero_stage=3, batch=3), tmp_path / "two", crew)
    assert distance(one, two) < 0.02 * distance(one, start)
    for name, value in start.items():
        if name.startswith("diffloss."):
            assert torch.equal(one[name], value.float()) and torch.equal(two[name], value.float())


def distance(a: dict, b: dict) -> float:
    return sum((a[name] - b[name]).square().sum() for name in a).sqrt().item()


@pytest.mark.parametrize("end", [{"steps": 3}, {"steps": 1_000, "seconds": 0.01}], ids=["steps", "seconds"])
def test_the_guard_looks_at_the_last_student_too(tmp_path, end):
    """Else a run that ends between two looks would give back an older student than it has."""
    plan = embedded(LearnerConfig(batch=4, lr=1e-9, ema=0.5, log_every=1, **end), GuardConfig(every=2, samples=20, loops=(2,), max_fd=2))
    with hired(plan) as crew:
        trained(plan, tmp_path / "run", crew)
    looks = [row["step"] for row in metrics(tmp_path / "run") if "held_out/fd" in row]
    assert looks == ([2, 3] if "seconds" not in end else [1])
    (state,) = (tmp_path / "run").rglob("guard.json")
    assert json.loads(state.read_text())["best_step"] == looks[-1]


@pytest.mark.slow
def test_a_reward_for_brightness_alone_is_caught_by_the_guard(tmp_path):
    steps = 14
    learner = replace(PRESETS["tiny"].rl_learner, steps=steps, batch=16, lr=1e-3, warmup=0, cpus_per_worker=1)
    plan = embedded(learner, GuardConfig(every=2, samples=100, loops=(8, 2), patience=2), loops=(8,), last=4)
    with hired(plan) as crew:
        stopped, _ = judged(plan, crew, tmp_path / "stop")
        went_on, lr_scale = judged(replace(plan, guard=replace(plan.guard, action="roll_back")), crew, tmp_path / "roll_back")
    assert stopped < went_on == steps and lr_scale < 1


def judged(plan: Plan, crew: Crew, folder: Path) -> tuple[int, float]:
    """Updates and learning rate of a run in which the guard had something to do, whose best student is as good as it says."""
    folder.mkdir()
    last = train(RLRun.of(plan, crew), Storage.of(str(folder)), RL)
    progress, state = (json.loads((last / name).read_text(encoding="utf-8")) for name in ("progress.json", "guard.json"))
    look = ray.get(crew.judge.measure.remote(pack(load_file(last / "best.safetensors"), 0, torch.float32)))
    assert [scores.fd for scores in look.scores] == pytest.approx([scores["fd"] for scores in state["best"]], rel=1e-4)
    assert all(best["fd"] <= start["fd"] for best, start in zip(state["best"], state["start"], strict=True))
    looks = [row for row in metrics(folder) if "held_out/fd" in row]
    assert max(row["held_out/fd"] for row in looks) > state["start"][0]["fd"] and all("held_out/fd/2" in row for row in looks)
    assert progress["done"] == (plan.guard.action == "stop")
    return progress["step"], progress["lr_scale"]


@pytest.mark.chaos
def test_ten_minutes_of_chaos_change_nothing(tmp_path):
    learner = LearnerConfig(steps=CHAOS_STEPS, batch=8, lr=1e-6, log_every=1, checkpoint_every=20, max_failures=1000)
    guard = GuardConfig(every=50, samples=20, loops=(2,), patience=CHAOS_STEPS)
    plan = embedded(learner, guard, loops=(4,), last=2, chunk=2, timeout=10, rollout=ROLE, reward=ROLE)
    whole = trained(plan, tmp_path / "whole")
    with ThreadPoolExecutor(1) as background:
        result = background.submit(trained, plan, tmp_path / "disturbed")
        wait_for_rows(tmp_path / "disturbed" / "metrics-rl.jsonl", 2)
        harm = disturb(seed=0, seconds=600, over=result.done)
        print(harm)
        assert not result.done(), "the run was over before the harm"
        assert largest_gap(whole, result.result(timeout=900)) == 0
    assert len(harm) >= 9, harm
    assert learnt(tmp_path / "disturbed") == learnt(tmp_path / "whole")


def learnt(folder: Path) -> list[dict[str, float]]:
    """What a run's metrics say of the student, and not of time."""
    return [{key: value for key, value in row.items() if not key.startswith("flow/") and "second" not in key} for row in metrics(folder)]


def test_images_without_a_usable_reward_are_dropped_and_end_the_run_when_they_are_all(plan, tmp_path):
    fading = with_rl(plan, rewards=("plugin:small_reward:FadesToNaN",), reward=replace(ROLE, count=1))
    with pytest.raises(LearnerError, match="2 updates in a row were not finite .last: every reward"):
        trained(with_learner(fading, steps=20, max_bad_steps=2), tmp_path / "run")
    rows = metrics(tmp_path / "run")[:2]
    assert [row["dropped"] for row in rows] == [3, 3] and all(row["skipped"] == 0 for row in rows)


def test_requests_cover_the_classes_and_repeat_prompts_for_the_policy_gradient():
    rl, five = RLConfig(chunk=4), Prompts.of_classes("abcde")
    parts = [request for step in range(3) for request in requests(rl, 10, five, 0, step)]
    assert [len(part.draws.indices) for part in parts] == [4, 4, 2] * 3
    assert [i for part in parts for i in part.draws.indices] == list(range(30))
    assert torch.cat([part.prompts.labels for part in parts]).bincount().tolist() == [6] * 5
    assert {request.loops for request in parts} == {64}
    mixed = [{request.loops for request in requests(replace(rl, loops=(4, 16)), 10, five, 0, step)} for step in range(40)]
    assert {frozenset(loops) for loops in mixed} == {frozenset({4}), frozenset({16})} and 10 < mixed.count({4}) < 30
    (request,) = requests(replace(rl, estimator="policy", group=4, chunk=8), 8, five, 0, 0)
    assert request.prompts.labels.unflatten(0, (2, 4)).unique(dim=1).shape == (2, 1)


def test_the_live_table_shows_every_metric_that_there_is():
    metrics = {name: index + 0.5 for index, name in enumerate(name for names in ROWS.values() for name in names)}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(live_table(60, 3, metrics))
    text = console.export_text()
    assert "update 3 of 60" in text and all(f" {value:.4g} " in text for value in metrics.values())
    console.print(live_table(60, 0, {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_arrive_as_they_left_or_not_at_all(dtype):
    torch.manual_seed(0)
    source, target = MAR(MODEL), MAR(MODEL)
    packed = pack(dict(source.named_parameters()), 3, dtype)
    unpack(packed, dict(target.named_parameters()))
    for name, value in source.named_parameters():
        assert torch.equal(dict(target.named_parameters())[name], value.to(dtype).float())
    damaged = packed.buffer.copy()
    damaged[7] = damaged[7] + 1
    with pytest.raises(ValueError, match="version 3 were damaged"):
        unpack(replace(packed, buffer=damaged), dict(target.named_parameters()))
