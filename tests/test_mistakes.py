"""A user's mistake in a real job ends it in one line, also when it shows only in a process of Ray's."""

import shutil
from pathlib import Path

import pytest
import torch
from commands import ROOT, refuse, run, succeed
from short import DISTILL, QUICK, QUICK_RL, SHORT

from marval_ray.embedded import assets_index
from marval_ray.presets import MODELS
from marval_ray.reinforce.scoring import Scorer
from marval_ray.rewards import load_reward
from marval_ray.runs.stage import read_metrics
from marval_ray.types import Prompts, Tokens

THREADS = ("--rl.rollout.threads", 1, "--rl.reward.threads", 1, "--rl.judge.threads", 1, "--rl-learner.threads-per-worker", 1)
RL = ("--stages", "rl", "--student", assets_index.GSIM_STUDENT, *QUICK, *QUICK_RL, "--rl-learner.steps", 3, *THREADS)
HERE = {"PYTHONPATH": str(ROOT / "tests")}


def fail(*arguments: object) -> str:
    """The one line with which a job ends that starts Ray, after no traceback of its own (Ray's actors write some on a busy machine)."""
    done = run(*arguments, env=HERE)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    printed = done.stdout + done.stderr
    assert not any(line.startswith("Traceback") for line in printed.splitlines()), printed[-5000:]
    return done.stderr[done.stderr.rindex("error: ") :].splitlines()[0]  # what is left of a progress bar may stand before it


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("late", "stage rl failed: RuntimeError: reward model exploded (rewards: plugin:bad_rewards:late) (more in"),
        ("constructor", "reward-0 cannot start: RuntimeError: cannot load my model"),
    ],
)
def test_a_plugin_that_fails_ends_a_run_once(tmp_path, plugin, message):
    out = tmp_path / "run"
    assert message in fail(DISTILL, "--out", out, *RL, "--rl.rewards", f"plugin:bad_rewards:{plugin}")
    assert "Traceback" in (out / "error.log").read_text(encoding="utf-8")
    assert (out / "report.html").exists() and not (out / "summary.json").exists()  # what there was to see until then


@pytest.mark.slow
def test_a_reward_that_fails_ends_a_run_of_both_stages_before_the_first(tmp_path):
    both = ("--stages", "gsim,rl", *QUICK, *QUICK_RL, "--learner.steps", 2, "--out", tmp_path / "run")
    assert "scores have no gradient" in fail(DISTILL, *both, "--rl.rewards", "plugin:bad_rewards:detached")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("columns", r"gave torch.float32 \(2, 3\) for 2 images: scores are a floating-point tensor \(2,\)"),
        ("detached", "calls itself differentiable, but its scores have no gradient"),
        ("nothing", "gave NoneType for 2 images"),
        ("ends", "ends its process with 3"),
        ("number", "returns 42: a reward can be called and has `differentiable`"),
    ],
)
def test_what_is_no_reward_is_refused_by_name(plugin, message):
    c = MODELS["tiny"]
    with pytest.raises(ValueError, match=message) as caught:
        reward = load_reward([f"plugin:bad_rewards:{plugin}"])
        Scorer(c.family.codec(assets_index.VAE, c), reward)(Tokens(torch.zeros(2, c.num_tokens, c.token_channels)), Prompts(("x", "x")))
    assert f"bad_rewards:{plugin}" in str(caught.value)


def test_a_plugin_that_is_not_there_is_refused_before_ray_starts(tmp_path):
    rl = (DISTILL, "--out", tmp_path / "run", *RL, "--rl.rewards")
    assert "No module named 'no_such_module'; write plugin:MODULE:FUNCTION" in refuse(*rl, "plugin:no_such_module:f")
    assert "has no attribute 'nobody'" in refuse(*rl, "plugin:bad_rewards:nobody")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way_to_the_one_before(run_folder, tmp_path):
    out, hopeless = (shutil.copytree(run_folder, tmp_path / name) for name in ("run", "hopeless"))
    before, last = sorted((out / "train").glob("checkpoint_2*"))
    cut(last)
    told = succeed(DISTILL, "--out", out, "--resume", "--learner.steps", 5, *SHORT)
    assert f"{last}: " in told and "going on from the checkpoint before it" in told
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    for folder in (hopeless / "train").glob("checkpoint_2*"):
        cut(folder)
    message = fail(DISTILL, "--out", hopeless, "--resume", "--learner.steps", 5, *SHORT)
    assert "no checkpoint is whole" in message and "start anew with --overwrite" in message


def cut(checkpoint: Path) -> None:
    """Leave 100 bytes of each file."""
    for file in [path for path in checkpoint.rglob("*") if path.is_file()]:
        file.write_bytes(file.read_bytes()[:100])
