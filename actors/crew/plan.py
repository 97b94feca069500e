"""What an RL stage is to do, as jobs hand it to actors."""

from dataclasses import dataclass
from pathlib import Path

from actors.learning.gsim import GSIMRun
from marval_ray.config import GuardConfig, LearnerConfig, ModelConfig, RLConfig
from marval_ray.diffusion.samplers import Exploring, OneStep, TokenSampler


@dataclass(frozen=True)
class Plan:
    """An RL stage. `judge` is a classifier and reference statistics, or None without held-out figures."""

    model: ModelConfig
    rl: RLConfig
    guard: GuardConfig
    learner: LearnerConfig
    student: Path
    gsim: GSIMRun
    """Where the GSIM loss comes from when it has a weight."""
    vae: Path
    prompts: tuple[str, ...]
    judge: tuple[Path, Path] | None
    measured: int = 500
    """Images on which the reward is measured before and after."""
    seed: int = 0

    def __post_init__(self) -> None:
        rl, batch = self.rl, self.learner.batch
        if rl.estimator == "policy" and batch % rl.group:
            raise ValueError(f"rl_learner.batch {batch} is not a multiple of rl.group {rl.group}, which the policy gradient needs")


def rollout_sampler(model: ModelConfig, rl: RLConfig) -> TokenSampler:
    """How rollouts are drawn: with exploration for the policy gradient."""
    if rl.estimator == "policy":
        return Exploring(model.student_timestep, rl.exploration)
    return OneStep(model.student_timestep)
