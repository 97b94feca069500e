"""Measure docs/ablations.md: the default of each stage with one setting at a time changed.

Records are kept and runs resumed as by bench/results.py; the section of each stage is written once it is whole. Runs of the RL stage
start from the embedded student between the stages.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tables
from records import DEFAULT, Records, Settings, Summary, write_between

from marval_ray import cli
from marval_ray.embedded import assets_index

GSIM: dict[str, Settings] = {
    "default": {},
    "w = 2.5, linear": {"gsim.w": 2.5},
    "w = 1": {"gsim.w": 1.0},
    "w = 1.5 for all": {"gsim.w": 1.5, "gsim.w_schedule": "constant"},
    "k = 1": {"gsim.k": 1.0},
    "k = 0": {"gsim.k": 0.0},
    "MAR's cosine": {"model.student_reveal": None},
    "t* = 200": {"model.student_timestep": 200},
    "t* = 600": {"model.student_timestep": 600},
    "2 auxiliary updates": {"gsim.auxiliary_updates": 2},
    "lambda = sigma": {"gsim.weighting": "sigma"},
    "lambda = 1": {"gsim.weighting": "constant"},
    "half the learning rates": {"learner.lr": 1.25e-4, "learner.auxiliary_lr": 2.5e-4},
    "twice the learning rates": {"learner.lr": 5e-4, "learner.auxiliary_lr": 1e-3},
    "learning rates to zero": {"learner.lr_end": 0.0},
    "constant learning rates": {"learner.lr_end": 1.0},
}
"""Changes of the first stage, one at a time."""


def _drawn_in(loops: int) -> Settings:
    return {"rl.loops": (loops,), "guard.loops": (loops,)}


RL: dict[str, Settings] = {
    "default": {},
    "K = 2": {"rl.last": 2},
    "K = all 6": {"rl.last": 6},
    "N_AR = 4": _drawn_in(4),
    "N_AR = 8": _drawn_in(8),
    "N_AR = 16": _drawn_in(16),
    "N_AR = 16, K = 8": _drawn_in(16) | {"rl.last": 8},
    "N_AR = 64, K = 8": _drawn_in(64) | {"rl.last": 8},
    "MAR's cosine, N_AR = 8, K = 4": _drawn_in(8) | {"model.student_reveal": None, "rl.last": 4},
    "N_AR = 4 or 8": {"rl.loops": (4, 8), "guard.loops": (4,)},
    "GSIM weight 10": {"rl.gsim_weight": 10.0},
    "saturating at 1": {"rl.saturate": 1.0},
    "staleness 1": {"rl.max_staleness": 1},
    "staleness 2": {"rl.max_staleness": 2},
    "no price on drifting": {"rl.drift_weight": 0.0, "rl.class_drift_weight": 0.0},
    "the head too": {"rl.freeze_head": False},
    "policy gradient": {"rl.estimator": "policy", "rl.exploration": 0.3, "rl_learner.lr": 2e-5},
}
"""Changes of the second stage, one at a time, for as many updates."""

QUICK: Settings = {"figures.teacher": None, "figures.per_class": 1, "figures.grid_classes": 1}
"""Nobody looks at the teacher, nor at pictures."""


@dataclass(frozen=True)
class Config:
    out: Path = Path("runs/ablations")
    records: Path = Path("docs/ablations.json")
    document: Path = Path("docs/ablations.md")
    stages: tuple[Literal["gsim", "rl"], ...] = ("gsim", "rl")
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the default and its rivals; other variants have the first."""
    steps: int = 100
    """Updates of a GSIM run."""
    samples: int = 500
    """Of a set, and of a look of the guard."""
    sets: int = 4
    loops: tuple[int, ...] = DEFAULT.rl.loops
    """At which students of GSIM are measured."""
    rivals: tuple[str, ...] = ("k = 1", "t* = 600")
    """Variants of GSIM that are run with all seeds, like the default."""
    rl_steps: int = 26
    """Updates of an RL run; its guard looks at half of them and at the end."""
    rl_rivals: tuple[str, ...] = ("K = all 6",)
    """Those of RL."""


def main(config: Config) -> None:
    records = Records(config.records, config.out)
    for stage in config.stages:
        text = {"gsim": gsim_section, "rl": rl_section}[stage](config, records)
        write_between(config.document, f"<!-- {stage}: written by bench/ablations.py -->\n", f"<!-- end of {stage} -->\n", f"\n{text}\n")


def gsim_section(config: Config, records: Records) -> str:
    shared = {
        "learner.steps": config.steps, "figures.samples": config.samples, "figures.loops": config.loops,
        "figures.loop_sets": config.sets, "figures.sets": 1, **QUICK,
    }  # fmt: skip
    runs = with_rivals(records, "gsim", shared, GSIM, config.rivals, config.seeds)
    return GSIM_TEXT.format(
        steps=config.steps, whole=DEFAULT.learner.steps, samples=config.samples, sets=config.sets, errors=errors(config.seeds),
        table=tables.gsim_table(runs, config.loops),
    )


def rl_section(config: Config, records: Records) -> str:
    shared = {
        "student": assets_index.GSIM_STUDENT, "rl_learner.steps": config.rl_steps, "guard.every": config.rl_steps // 2,
        "guard.samples": config.samples, "figures.samples": config.samples, "figures.sets": config.sets,
        "figures.loops": DEFAULT.rl.loops, **QUICK,
    }  # fmt: skip
    runs = with_rivals(records, "rl", shared, RL, config.rl_rivals, config.seeds)
    return RL_TEXT.format(
        steps=config.rl_steps, samples=config.samples, sets=config.sets, errors=errors(config.seeds), table=tables.rl_table(runs)
    )


def errors(seeds: tuple[int, ...]) -> str:
    """What the standard errors are over."""
    if len(seeds) == 1:
        return "All have one seed, and the standard errors over its sets."
    return f"The default and its rivals have {len(seeds)} seeds and the standard errors over them, others one seed and those over its sets."


def with_rivals(
    records: Records, stage: str, shared: Settings, variants: dict[str, Settings], rivals: tuple[str, ...], seeds: tuple[int, ...]
) -> dict[str, list[Summary]]:
    """Summaries of each variant at the first seed, of the default and its rivals at all, by the variant's title."""
    runs: dict[str, list[Summary]] = {title: [] for title in variants}
    for seed in seeds:
        wanted = variants if seed == seeds[0] else {title: variants[title] for title in ("default", *rivals)}
        for title, run in records.variants(f"{stage}-{seed}", stage, shared | {"seed": seed}, wanted).items():
            runs[title].append(run)
    return runs


GSIM_TEXT = """## What the settings of GSIM do

One change at a time, {steps} updates each, where the default takes {whole}; {samples} samples in each of {sets} sets. {errors}
Two auxiliary updates take longer than one. What is better after {steps} updates need not be so at the end.

{table}
"""

RL_TEXT = """## What the settings of RL do

One change of the default at a time, {steps} updates each, from the embedded student between the stages; {samples} samples with the
variant's own N_AR in each of {sets} sets. {errors}
The student is the last inside the guard's bands (looks at half of the updates and at the end, {samples} samples), so "before RL" again
where no look was inside. Reward: rise of its mean over 500 images, in standard deviations of the scores before. Seconds: of the stage,
looks and start of its actors included.

{table}
"""


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
