"""Draw docs/images/reference-curves.png: how the metrics that tell most went in a run of the default command.

    python bench/curves.py runs/demo
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from marval_ray import cli
from marval_ray.evaluation.metrics import ACCURACY, DIVERSITY, FD
from marval_ray.runs.report.plots import grouped, plot_losses
from marval_ray.runs.stage import GSIM, RL, read_metrics

SHOWN = (
    ("GSIM", GSIM, ("auxiliary/mse", "generator/l1", "generator/l2")),
    ("RL", RL, ("reward", "drift", "class_drift", FD.held_out, ACCURACY.held_out, DIVERSITY.held_out)),
)
"""Heading, stage and metrics."""


@dataclass(frozen=True)
class Config:
    run: Annotated[Path, tyro.conf.Positional]
    """A run's folder, with both stages."""
    out: Path = Path("docs/images/reference-curves.png")


def main(config: Config) -> None:
    groups = {}
    for heading, stage, names in SHOWN:
        series = {name: points for group in grouped(read_metrics(config.run / stage.metrics)).values() for name, points in group.items()}
        groups[heading] = {name: series[name] for name in names if name in series}
    plot_losses(config.out, groups)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
