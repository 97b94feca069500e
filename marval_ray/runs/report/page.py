"""A run as one HTML page that needs no network: pictures are inside it, and it loads nothing else."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from marval_ray.evaluation.metrics import BY_JUDGE, PROMPTS, REWARD, REWARD_FORM, SPEED, error_of, rewards_in, with_error
from marval_ray.files.atomic import atomic_path
from marval_ray.runs.measured import LOOPS, TITLES, Measured, gain, measured_in
from marval_ray.runs.stage import STAGES

COLUMNS = {
    "model": ("model", ""),
    LOOPS: ("N_AR", "d"),
    **{name: (metric.title, metric.form) for name, metric in BY_JUDGE.items()},
    SPEED.name: (SPEED.title, SPEED.form),
    "samples": ("samples", "d"),
    "sets": ("sets", "d"),
    PROMPTS: ("prompts", "d"),
}
"""Columns of the table by row key: heading and number format."""

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Table:
    headings: list[str]
    lines: list[list[str]]


@dataclass(frozen=True)
class KeyFigure:
    """A key figure at the top of the page."""

    heading: str
    value: str
    note: str


def write_html(
    path: Path,
    title: str,
    summary: dict[str, Any],
    rows: list[dict[str, Any]],
    pictures: Sequence[tuple[str, Path]],
    config: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page of a run, or of a comparison.

    summary: figures by their names in summary.json; those of `cards` come first, all are listed.
    rows: one for each model and N_AR, with keys of COLUMNS, and scores of rewards. pictures: captions and PNG files.
    notes: what follows from the rows, a sentence each.
    """
    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = page.render(
        title=title,
        cards=cards(summary),
        headline=headline(measured_in(summary)),
        pictures=[(caption, data_uri(picture)) for caption, picture in pictures],
        loops=table(rows),
        notes=notes,
        figures=[(name, shown(value)) for name, value in summary.items()],
        config=json.dumps(config, indent=2, default=os.fspath) if config else "",
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cards(summary: dict[str, Any]) -> list[KeyFigure]:
    """Return the key figures that `summary` has."""
    has = summary.__contains__
    found = []
    if has("reward_after"):
        note = f"from {summary['reward_before']:.3g}, in standard deviations of an image's reward before"
        found.append(KeyFigure("Reward", f"{gain(summary):+.2f}", note))
    for name in (key.removesuffix("_before_std") for key in summary if key.startswith("held_out_") and key.endswith("_before_std")):
        title = f"{name.removeprefix('held_out_')}, held out"
        found.append(KeyFigure(title, f"{gain(summary, name):+.2f}", f"from {summary[f'{name}_before']:.3g}; nothing was trained on it"))
    if has("fd_ratio"):
        second = f"; {summary['fd_b_ratio']:.2f} by judge B" if has("fd_b_ratio") else ""
        found.append(KeyFigure("FD, student : teacher", f"{summary['fd_ratio']:.2f}", f"below 1 the student is better{second}"))
    if has("speed_ratio"):
        found.append(KeyFigure("Speed, student : teacher", f"{summary['speed_ratio']:.0f} ×", "images/s, timed in this run"))
    if has("speed_up"):
        note = f"at N_AR = {summary['speed_up_n_ar']}, with a better FD beyond two standard errors by every judge"
        found.append(KeyFigure("Faster than the teacher", f"{summary['speed_up']:.0f} ×", note))
    if has("seconds_total"):
        note = ", ".join(f"{stage.title} {minutes(summary[stage.seconds])}" for stage in STAGES if has(stage.seconds))
        found.append(KeyFigure("Time", minutes(summary["seconds_total"]), note or "in all"))
    return found


def headline(measured: Mapping[tuple[str, str], Measured]) -> Table:
    """Return what was measured of each model, at each moment, by every judge that looked."""
    return table([{"model": TITLES[key], LOOPS: one.loops, **one.scores, SPEED.name: one.speed} for key, one in measured.items()])


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return rows with those of COLUMNS, and the rewards, that some row has, and standard errors where they are known."""
    rewards = rewards_in(key for row in rows for key in row)
    columns = COLUMNS | {key: (key.removeprefix(REWARD), REWARD_FORM) for key in rewards}
    keys = [key for key in columns if any(key in row for row in rows)]
    return Table([columns[key][0] for key in keys], [[_cell(row, key, columns[key][1]) for key in keys] for row in rows])


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    value = row.get(key)
    return "" if value is None else with_error(value, row.get(error_of(key)), form)


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def data_uri(picture: Path) -> str:
    """Return the PNG file as an address that holds its content."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
