"""Speed of this tree against a commit's: the core benchmarks of both, in turn, on the same machine.

    python bench/compare.py main
    python bench/compare.py HEAD~3 --rounds 6 --only sampling

Each round runs every benchmark in both trees, one after the other; a figure's change is the mean over rounds of the ratio of the two
sides, and counts where it is more than two standard errors from 1. Exit code 1: something got slower.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from marval_ray import cli
from marval_ray.evaluation.metrics import markdown_table, with_error

HERE = Path(__file__).parent.parent
Figures = dict[str, float]
"""Speeds by name: more is better."""


@dataclass(frozen=True)
class Bench:
    """command: of a script of the tree, whose options may name {out}, a folder. figures: what it left there."""

    command: tuple[str, ...]
    figures: Callable[[Path], Figures]


def sampling(out: Path) -> Figures:
    found = json.loads((out / "speed.json").read_text(encoding="utf-8"))
    return {f"{who}, share of the matmul peak": figures["share"] for who, figures in found.items()}


def updates(out: Path) -> Figures:
    names = {"GSIM": "metrics.jsonl", "RL": "metrics-rl.jsonl"}
    return {f"{stage}, images/s": median_speed(out / "run" / name) for stage, name in names.items()}


def median_speed(metrics: Path) -> float:
    lines = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
    return statistics.median(line["images_per_second"] for line in lines if "images_per_second" in line)


CORE = {
    "sampling": Bench(("bench/sampling.py", "--batch", "4", "--measured", "1", "--steps", "16", "--json", "{out}/speed.json"), sampling),
    "updates": Bench(
        (
            "jobs/distill.py", "--learner.steps", "24", "--learner.log-every", "1", "--rl-learner.steps", "12", "--figures.samples", "20",
            "--figures.sets", "1", "--figures.loops", "8", "--guard.every", "100", "--guard.samples", "20", "--out", "{out}/run",
        ),
        updates,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    base: tyro.conf.Positional[str]
    """A commit of this repository."""
    rounds: int = 4
    only: tuple[Literal["sampling", "updates"], ...] = ("sampling", "updates")

    def __post_init__(self) -> None:
        if self.rounds < 2:
            raise ValueError(f"--rounds must be at least 2, as noise is told from their spread, got {self.rounds}")


@dataclass(frozen=True)
class Change:
    """ratio: this tree's speed over the other's, the geometric mean over rounds. error: relative, a standard error."""

    name: str
    ratio: float
    error: float

    @classmethod
    def of(cls, name: str, before: list[float], now: list[float]) -> "Change":
        logs = [math.log(b / a) for a, b in zip(before, now, strict=True)]
        return cls(name, math.exp(statistics.fmean(logs)), statistics.stdev(logs) / len(logs) ** 0.5)

    @property
    def verdict(self) -> str:
        if abs(math.log(self.ratio)) <= 2 * self.error:
            return "the same"
        return "faster" if self.ratio > 1 else "SLOWER"


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """Check the commit out into a folder of its own for a while. Raises ValueError when there is none."""
    git = ["git", "-C", str(HERE), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        added = subprocess.run([*git, "add", "--detach", str(tree), commit], capture_output=True, text=True)
        if added.returncode:
            raise ValueError(f"{commit}: {added.stderr.strip().splitlines()[-1]}")
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def measured(bench: Bench, tree: Path) -> Figures:
    """Run a benchmark of `tree`. Raises ValueError, with what it said, when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        script, *options = (part.format(out=folder) for part in bench.command)
        environment = os.environ | {"PYTHONPATH": str(tree), "RAY_USAGE_STATS_ENABLED": "0"}
        done = subprocess.run([sys.executable, script, *options], cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{script} of {tree} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        return bench.figures(Path(folder))


def main(config: Config) -> None:
    sides: dict[str, tuple[list[float], list[float]]] = {}
    with tree_of(config.base) as base:
        for turn in range(config.rounds):
            for name in config.only:
                for side, tree in ((0, base), (1, HERE)):
                    for figure, value in measured(CORE[name], tree).items():
                        sides.setdefault(figure, ([], []))[side].append(value)
            print(f"round {turn + 1} of {config.rounds}", file=sys.stderr)
    changes = [Change.of(name, *values) for name, values in sides.items()]
    rows = [(c.name, f"{statistics.median(sides[c.name][0]):.3g}", f"{statistics.median(sides[c.name][1]):.3g}",
             with_error(c.ratio, c.ratio * c.error, ".3f"), c.verdict) for c in changes]  # fmt: skip
    print(markdown_table(["", config.base, "now", "now / before", ""], rows))
    if any(change.verdict == "SLOWER" for change in changes):
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
