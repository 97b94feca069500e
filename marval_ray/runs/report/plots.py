"""Plots of a run as PNG: losses against updates, quality and speed against the number of AR loops.

Figures are made without pyplot, which keeps state and looks for a display.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from marval_ray.evaluation.metrics import BY_JUDGE, FD, SPEED, by_b
from marval_ray.files.atomic import atomic_path

ACCELERATED = "teacher, accelerated"
COLOURS = {"teacher": "#d1600a", ACCELERATED: "#8a5cb8", "student": "#1668b3"}
DPI = 110
PER_ROW = 3
"""Small plots side by side."""
OBJECTIVE = "Objective"
GROUPS = {"held_out": "Held out", "flow": "Flow of work"}
"""Headings of plots by the first part of a metric's name; all others belong to the objective."""


def plot_losses(path: Path, groups: dict[str, dict[str, np.ndarray]]) -> None:
    """Draw a small plot of each series, as `grouped` returns them, under the headings: raw values and running mean."""
    rows = [-(-len(members) // PER_ROW) for members in groups.values()]
    figure = Figure((4.2 * PER_ROW, 2.6 * sum(rows) + 0.4 * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=[2.6 * count + 0.4 for count in rows]).flatten()
    for part, (title, members), count in zip(parts, groups.items(), rows):
        part.suptitle(title, fontsize=13, x=0.01, ha="left")
        axes = part.subplots(count, PER_ROW, squeeze=False).flatten()
        for (name, points), axis in zip(members.items(), axes):
            _plot_metric(axis, name, points)
        for axis in axes[len(members) :]:
            axis.set_visible(False)
    _save(path, figure)


def grouped(metrics: list[dict[str, float]]) -> dict[str, dict[str, np.ndarray]]:
    """Turn rows of a metrics file (`step` and numbers by name) into series by heading and name: (N, 2), steps and finite values.

    A metric that never moves has no series.
    """
    groups: dict[str, dict[str, np.ndarray]] = {title: {} for title in (OBJECTIVE, *GROUPS.values())}
    for name in dict.fromkeys(name for row in metrics for name in row if name != "step"):
        points = np.array([(row["step"], row[name]) for row in metrics if name in row], dtype=float)
        points = points[np.isfinite(points[:, 1])]
        if len(np.unique(points[:, 1])) > 1:
            groups[GROUPS.get(name.split("/")[0], OBJECTIVE)][name] = points
    return {title: series for title, series in groups.items() if series}


def _plot_metric(axis: Axes, name: str, points: np.ndarray) -> None:
    """Plot `points`, (N, 2): steps and finite values. A few extreme values do not set the scale."""
    steps, values = points.T
    axis.plot(steps, values, color="#9db8d2", linewidth=0.8)
    axis.plot(steps, running_mean(values, max(1, len(values) // 12)), color=COLOURS["student"], linewidth=1.8)
    axis.set_title(name, fontsize=10, loc="left")
    axis.set_xlabel("update", fontsize=8)
    _tidy(axis)
    low, high = np.percentile(values, (1, 99))
    if high > low:
        margin = 0.08 * (high - low)
        axis.set_ylim(low - margin, high + margin)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of each value and up to `window` - 1 before it."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - window)
    return (total[end] - total[start]) / (end - start)


def plot_loops(path: Path, rows: list[dict[str, Any]]) -> None:
    """Plot FD and images/s against N_AR, one line for each model.

    rows: dicts with `model` ("teacher" or "student"), `n_ar`, `fd` and `images_per_second`, in any order.
    """
    figure = Figure((9.6, 3.8), layout="constrained")
    quality, speed = figure.subplots(1, 2)
    for axis, key in ((quality, FD.name), (speed, SPEED.name)):
        for model, colour in COLOURS.items():
            points = sorted((row["n_ar"], row[key]) for row in rows if row["model"] == model)
            if points:
                axis.plot(*zip(*points), "o-", color=colour, label=model, markersize=5)
        _loop_axis(axis, sorted({row["n_ar"] for row in rows}))
    quality.set_title(f"{FD.title} to the reference images ({FD.better} is better)", fontsize=10, loc="left")
    speed.set_title(f"{SPEED.title} ({SPEED.better} is better)", fontsize=10, loc="left")
    _scale(quality, [row[FD.name] for row in rows])
    speed.set_yscale("log")
    speed.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    quality.legend(frameon=False, fontsize=9)
    _save(path, figure)


def plot_frontier(path: Path, rows: list[dict[str, Any]], unit: float = 1.0) -> None:
    """Plot FD by each judge against speed, one line for each model, N_AR beside each point.

    rows: as for `plot_loops`, with `fd_b` where there is a judge B. unit: images/s that count as 1.
    """
    judges = [name for name in (FD.name, by_b(FD.name)) if any(name in row for row in rows)]
    figure = Figure((4.8 * len(judges), 3.8), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(judges), squeeze=False)[0], judges):
        for model, colour in COLOURS.items():
            points = sorted((row[SPEED.name] / unit, row["n_ar"], row[name]) for row in rows if row["model"] == model and name in row)
            if not points:
                continue
            axis.plot([speed for speed, *_ in points], [fd for *_, fd in points], "o-", color=colour, label=model, markersize=5)
            for speed, loops, fd in points:
                axis.annotate(f"{loops}", (speed, fd), textcoords="offset points", xytext=(4, 4), fontsize=7, color=colour)
        axis.set_title(f"{BY_JUDGE[name].title} ({FD.better} is better)", fontsize=10, loc="left")
        axis.set_xlabel("speed, teacher's best setting = 1" if unit != 1 else SPEED.title, fontsize=9)
        axis.set_xscale("log")
        _plain_ticks(axis.xaxis)
        _scale(axis, [row[name] for row in rows if name in row])
        _tidy(axis)
    figure.axes[0].legend(frameon=False, fontsize=9)
    _save(path, figure)


def _loop_axis(axis: Axes, loops: list[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(loops))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_xlabel("N_AR: auto-regressive loops", fontsize=9)
    _tidy(axis)


def _scale(axis: Axes, values: list[float]) -> None:
    """Scale from zero, or logarithmically when one line would flatten the other."""
    if max(values) < 8 * min(values):
        axis.set_ylim(0, 1.08 * max(values))
        return
    axis.set_yscale("log")
    _plain_ticks(axis.yaxis)


def _plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each decade, as people write numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _tidy(axis: Axes) -> None:
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _save(path: Path, figure: Figure) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
