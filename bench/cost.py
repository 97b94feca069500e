"""Time and cost of both stages of MARVAL on many GPUs, by a model: counted FLOPs, assumed speeds.

    python bench/cost.py
    python bench/cost.py --gpu.tflops 989 --gpu.price 3

Nothing here was run on a GPU. docs/scaling.md says what is assumed, and what the model leaves out.
"""

import math
from dataclasses import dataclass, field, replace

from marval_ray import cli
from marval_ray.config import RLConfig
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.plan.cost import GPU, gsim_seconds, rl_seconds
from marval_ray.plan.counting import parameters_of
from marval_ray.plan.kinds import kind_of
from marval_ray.plan.workers import scorer_of
from marval_ray.presets import MAR_MODELS, PRESETS

IMAGES = 1_281_167
"""Of ImageNet's training set."""
GSIM_EPOCHS, RL_EPOCHS = 30, 5
"""MARVAL, supplement, Tables 1 and 2."""


@dataclass(frozen=True)
class Config:
    gpu: GPU = field(default_factory=GPU)
    gpus: tuple[int, ...] = (8, 64, 256)
    batch: int = 64
    """Images an update and GPU in GSIM."""
    chunk: int = 16
    """Images a request to a rollout worker."""
    last: int = 64
    """K: loops that the learner replays."""


def split(seconds: dict[str, float], gpus: int) -> dict[str, int]:
    """GPUs of each role, of which `seconds` are those of an image: as many of each as keep the slowest fastest."""
    total = sum(seconds.values())
    counts = {role: max(1, math.floor(gpus * need / total)) for role, need in seconds.items()}
    while sum(counts.values()) < gpus:
        counts[max(counts, key=lambda role: seconds[role] / counts[role])] += 1
    return counts


def rl_split(seconds: dict[str, float], gpus: int) -> tuple[dict[str, int], float]:
    """(GPUs of each role, hours). At staleness 1 the roles work at the same time."""
    counts = split(seconds, gpus)
    return counts, IMAGES * RL_EPOCHS * max(seconds[role] / counts[role] for role in counts) / 3600


def main(config: Config) -> None:
    rows, notes = [], []
    for preset in ("mar-b", "mar-l", "mar-h"):
        p, model = PRESETS[preset], MAR_MODELS[preset]
        rl: RLConfig = replace(p.rl, last=config.last, chunk=config.chunk)
        kind = kind_of(model)
        work = kind.work(model, p.gsim, rl, scorer_of(model, None))
        for gpus in config.gpus:
            updates = IMAGES * GSIM_EPOCHS / (config.batch * gpus)
            hours = updates * gsim_seconds(config.gpu, work, parameters_of(model), config.batch, gpus) / 3600
            counts, more = rl_split(rl_seconds(config.gpu, work, kind.blocks(model), rl), gpus)
            roles = f"{counts['learner']} + {counts['rollout']} + {counts['reward']}"
            cost = [f"{gpus * h * config.gpu.price:,.0f}" for h in (hours, more)]
            rows.append([preset, str(gpus), f"{hours:.1f}", cost[0], roles, f"{more:.1f}", cost[1]])
        notes.append([preset, *(f"{tflop:.2f}" for tflop in (work.gsim, work.rollout, work.reward, work.replay))])
    print(markdown_table(["model", "GPUs", "GSIM, hours", "$", "RL: learner + rollout + reward GPUs", "hours", "$"], rows), end="\n\n")
    print(markdown_table(["TFLOP an image", "GSIM", "rollout", "decoder and reward", "replay"], notes))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
