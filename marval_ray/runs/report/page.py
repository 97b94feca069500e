"""A run as one HTML page that needs no network: pictures are inside it, and it loads nothing else."""

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from marval_ray.evaluation.metrics import ACCURACY, DIVERSITY, FD, KID, SPEED, by_b
from marval_ray.files.atomic import atomic_path
from marval_ray.runs.measured import LOOPS, TITLES, Measured, gain, measured_in
from marval_ray.runs.stage import STAGES

COLUMNS = {
    "model": ("model", ""),
    LOOPS: ("N_AR", "d"),
    **{
        name: (title, metric.form)
        for metric in (FD, KID, ACCURACY)
        for name, title in ((metric.name, metric.title), (by_b(metric.name), f"{metric.title} (B)"))
    },
    DIVERSITY.name: (DIVERSITY.title, ".2f"),  # fewer digits than elsewhere
    SPEED.name: (SPEED.title, SPEED.form),
    "samples": ("samples", "d"),
}
"""Columns of the table by row key: heading and number format."""

TEMPLATE = Path(__file__).with_name("page.html")


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
) -> None:
    """Write the page of a run.

    summary: figures by their names in summary.json; those of `cards` come first, all are listed.
    rows: one for each model and N_AR, with keys of COLUMNS. pictures: captions and PNG files.
    """
    keys = [key for key in COLUMNS if any(key in row for row in rows)]
    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = page.render(
        title=title,
        cards=cards(summary),
        pictures=[(caption, data_uri(picture)) for caption, picture in pictures],
        headings=[COLUMNS[key][0] for key in keys],
        rows=[[format(row[key], COLUMNS[key][1]) if key in row else "" for key in keys] for row in rows],
        figures=[(name, shown(value)) for name, value in summary.items()],
        config=json.dumps(config, indent=2, default=os.fspath) if config else "",
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cards(summary: dict[str, Any]) -> list[KeyFigure]:
    """Return the key figures that `summary` has."""
    has = summary.__contains__
    found = [_score_card(measured) for measured in measured_in(summary).values()]
    if has("reward_after"):
        note = f"from {summary['reward_before']:.3g}, in standard deviations of an image's reward before"
        found.append(KeyFigure("Reward", f"{gain(summary):+.2f}", note))
    if has("fd_ratio"):
        found.append(KeyFigure("FD, student : teacher", f"{summary['fd_ratio']:.2f}", "below 1 the student is better"))
    if has("speed_up"):
        note = f"at N_AR = {summary['speed_up_n_ar']}, with no worse FD" if has("speed_up_n_ar") else "with no worse FD"
        found.append(KeyFigure("Faster than the teacher", f"{summary['speed_up']:.0f} ×", note))
    if has("seconds_total"):
        note = ", ".join(f"{stage.title} {minutes(summary[stage.seconds])}" for stage in STAGES if has(stage.seconds))
        found.append(KeyFigure("Time", minutes(summary["seconds_total"]), note or "in all"))
    return found


def _score_card(measured: Measured) -> KeyFigure:
    """Return FD, with accuracy, and N_AR where it is known."""
    loops = "" if measured.loops is None else f", N_AR = {measured.loops}"
    note = ACCURACY.said(measured.scores[ACCURACY.name]) + loops
    return KeyFigure(TITLES[measured.model, measured.when], FD.said(measured.scores[FD.name]), note)


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def data_uri(picture: Path) -> str:
    """Return the PNG file as an address that holds its content."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
