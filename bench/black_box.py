"""Measure what ten minutes of the policy gradient do for a reward that is a black box: the size of an image as JPEG (docs/rl.md).

From the embedded student between the stages, with bands of the guard that let everything pass: with nothing but the reward, and with a
tenth of the default's prices on drifting. Records are kept as by bench/results.py.
"""

from dataclasses import dataclass
from pathlib import Path

import tables
from over_optimisation import OPEN
from records import DEFAULT, Records, Settings, Summary, write_between

from marval_ray import cli
from marval_ray.embedded import assets_index
from marval_ray.evaluation.metrics import BY_JUDGE, markdown_table
from marval_ray.runs.measured import gain, measured_in
from marval_ray.runs.stage import RL

BEGIN, END = "<!-- black box: written by bench/black_box.py -->\n", "<!-- end of black box -->\n"
POLICY: Settings = {
    "rl.rewards": ("plugin:marval_ray.rewards.compressibility:Incompressibility",), "rl.estimator": "policy", "rl.loops": (4,),
    "rl.last": 4, "rl.exploration": 0.3, "rl_learner.lr": 2e-5, "rl_learner.batch": 80, "rl_learner.steps": 1_000, "guard.loops": (4,),
    "guard.every": 100,
} | OPEN  # fmt: skip
VARIANTS: dict[str, Settings] = {
    "nothing but the reward": {"rl.drift_weight": 0.0, "rl.class_drift_weight": 0.0},
    "a tenth of the prices on drifting": {
        "rl.drift_weight": DEFAULT.rl.drift_weight / 10, "rl.class_drift_weight": DEFAULT.rl.class_drift_weight / 10,
    },
}
METRICS = [BY_JUDGE[name] for name in tables.SHORT]


@dataclass(frozen=True)
class Config:
    out: Path = Path("runs/black-box")
    records: Path = Path("docs/black-box.json")
    document: Path = Path("docs/rl.md")
    seconds: float = 540.0
    """Of updates; looks of the guard are among them."""
    samples: int = 500
    """Of a set, and of a look of the guard."""
    sets: int = 3


def main(config: Config) -> None:
    shared = POLICY | {
        "student": assets_index.GSIM_STUDENT, "rl_learner.seconds": config.seconds, "guard.samples": config.samples,
        "figures.teacher": None, "figures.samples": config.samples, "figures.sets": config.sets, "figures.loops": (4,),
    }  # fmt: skip
    runs = Records(config.records, config.out).variants("policy", RL.name, shared, VARIANTS)
    write_between(config.document, BEGIN, END, f"\n{table(runs)}\n\n")


def table(runs: dict[str, Summary]) -> str:
    """Return what each run did to the reward and to what the judges see, in N_AR of its rollouts."""
    before = measured_in(next(iter(runs.values())))["student", "before_rl"]
    rows = [["before RL", "0", *tables.cells([before], METRICS), ""]]
    for title, run in runs.items():
        rows.append([title, f"{gain(run):+.2f}", *tables.cells([measured_in(run)["student", ""]], METRICS), f"{run[RL.seconds]:.0f}"])
    return markdown_table(["", "JPEG size, SD", *(metric.title for metric in METRICS), "seconds"], rows)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
