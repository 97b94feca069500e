"""What a run of jobs/distill.py or jobs/train_teacher.py is doing, read from its folder: any machine that sees the folder will do.

    python jobs/status.py runs/demo
    python jobs/status.py /shared/runs/b --watch 5
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from marval_ray import cli
from marval_ray.files.storage import Storage
from marval_ray.runs.folder import RECORDS, settings_in
from marval_ray.runs.stage import TEACHER, Stage, rows_of, stages_of

QUIET = 300.0
"""Seconds without news after which a run looks dead."""


@dataclass(frozen=True)
class Config:
    run: Annotated[str, tyro.conf.Positional]
    """Where the run lies: its --out."""
    watch: float | None = None
    """Seconds between looks, until Ctrl-C; by default one look."""


def main(config: Config) -> None:
    run = Storage.of(config.run, "status")
    if config.watch is None:
        Console().print(look(run))
        return
    with Live(look(run), auto_refresh=False) as live:
        while True:
            time.sleep(config.watch)
            live.update(look(run), refresh=True)


def look(run: Storage) -> Group:
    """Return what there is now."""
    run.pull(*RECORDS)
    return summary(run, settings_in(run), time.time())


def summary(run: Storage, settings: dict[str, Any], now: float) -> Group:
    """Return a line about the run and a table for each stage that has begun."""
    stages = [stage for stage in stages_of(settings.get("stages", TEACHER.name)) if (run.folder / stage.metrics).exists()]
    return Group(f"{run}: {state(run.folder, stages, now)}", *(stage_table(run, stage, settings) for stage in stages))


def state(run: Path, stages: Sequence[Stage], now: float) -> str:
    """Say in words how the run fares, of whose stages `stages` have begun."""
    if (run / "summary.json").exists():
        return "finished, see report.html"
    if not stages:
        return "no update yet"
    last = max((run / stage.metrics).stat().st_mtime for stage in stages)
    teacher = run / TEACHER.student
    if TEACHER in stages and teacher.exists() and teacher.stat().st_mtime >= last:
        return f"finished, see {TEACHER.student} and samples.png"
    quiet = now - last
    age = f"last news {quiet:.0f} s ago"
    return f"running, {age}" if quiet < QUIET else f"{age}: ended, or waiting; --resume goes on from the last checkpoint"


def stage_table(run: Storage, stage: Stage, settings: dict[str, Any]) -> Table:
    """Return the last value of each metric."""
    step, metrics = newest((run.folder / stage.metrics).read_text(encoding="utf-8"))
    title = f"{stage.name}: update {step} of {settings[stage.learner]['steps']}"
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4g}")
    names = run.listing(stage.checkpoints)  # beside them Ray keeps checkpoint_manager_snapshot.json
    checkpoints = [name for name in names if name.startswith("checkpoint_") and not name.endswith(".json")]
    table.add_row("last checkpoint", checkpoints[-1] if checkpoints else "none yet")
    return table


def newest(lines: str) -> tuple[int, dict[str, float]]:
    """Return (updates, last value of each metric) of the lines of a metrics file; the last line may be half written."""
    metrics: dict[str, float] = {}
    for row in rows_of(lines):
        metrics |= row
    return int(metrics.pop("step", 0)), metrics


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
