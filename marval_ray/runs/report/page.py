"""A run as one HTML page that needs no network: pictures are inside it, and it loads nothing else."""

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment

from marval_ray.files.atomic import atomic_path

COLUMNS = {
    "model": ("model", "{}"),
    "n_ar": ("N_AR", "{:d}"),
    "fd": ("FD", "{:.2f}"),
    "accuracy": ("accuracy", "{:.3f}"),
    "diversity": ("diversity", "{:.2f}"),
    "images_per_second": ("images/s", "{:.4g}"),
    "samples": ("samples", "{:d}"),
}
"""Columns of the table by row key: heading and number format."""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
:root { --paper: #fbfbfa; --card: #fff; --ink: #1d2126; --soft: #5c6670; --line: #dfe3e7; --accent: #1668b3; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --card: #1d2125; --ink: #e6e9ec; --soft: #9aa5b0; --line: #343a41; --accent: #6fb1ee; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; }
.card b { display: block; font-size: 1.7rem; line-height: 1.25; color: var(--accent); }
.card span, .note, figcaption { color: var(--soft); font-size: .9rem; }
figure { margin: 0 0 1.6rem; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: .4rem; }
figcaption { margin-top: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 600; }
details { margin-top: 1.2rem; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .8rem;
  font-size: .8rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% if cards %}
<div class="cards">
{% for card in cards %}<div class="card">{{ card.heading }}<b>{{ card.value }}</b><span>{{ card.note }}</span></div>
{% endfor %}</div>
<p class="note">FD: Fr&eacute;chet distance between samples and reference images in a classifier's features, 0 at best; it
falls with the number of samples, so compare equal numbers only. Accuracy: share of samples that the classifier gives
the class that was asked for. N_AR: auto-regressive loops an image.</p>
{% endif %}
{% for caption, source in pictures %}
<figure><img src="{{ source }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% if rows %}
<h2>Quality and speed by number of loops</h2>
<div class="wide"><table>
<thead><tr>{% for name in headings %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
<p class="note">Diversity: mean feature distance between two samples of a class over that of real images. Images/s
count decoding too.</p>
{% endif %}
{% if figures %}
<details><summary>All figures</summary>
<div class="wide"><table>
{% for name, value in figures %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</table></div>
</details>
{% endif %}
{% if config %}<details><summary>Configuration</summary><pre>{{ config }}</pre></details>{% endif %}
</body>
</html>
"""


@dataclass(frozen=True)
class Card:
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
    page = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    text = page.render(
        title=title,
        cards=cards(summary),
        pictures=[(caption, data_uri(picture)) for caption, picture in pictures],
        headings=[COLUMNS[key][0] for key in keys],
        rows=[[COLUMNS[key][1].format(row[key]) if key in row else "" for key in keys] for row in rows],
        figures=[(name, shown(value)) for name, value in summary.items()],
        config=json.dumps(config, indent=2, default=os.fspath) if config else "",
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cards(summary: dict[str, Any]) -> list[Card]:
    """The key figures that `summary` has."""
    has = summary.__contains__
    found = [
        _score_card("Teacher, best setting", summary, "teacher", ""),
        _score_card("Student before", summary, "student", "_before"),
        _score_card("Student before RL", summary, "student", "_before_rl"),
        _score_card("Student after RL", summary, "student", "_after_rl"),
        _score_card("Final student", summary, "student", ""),
        _score_card("Final student, best N_AR", summary, "student_best", ""),
    ]
    if has("reward_after"):
        gain = (summary["reward_after"] - summary["reward_before"]) / summary["reward_before_std"]
        note = f"from {summary['reward_before']:.3g}, in standard deviations of an image's reward before"
        found.append(Card("Reward", f"{gain:+.2f}", note))
    if has("fd_ratio"):
        found.append(Card("FD, student : teacher", f"{summary['fd_ratio']:.2f}", "below 1 the student is better"))
    if has("speed_up"):
        note = f"at N_AR = {summary['speed_up_n_ar']}, with no worse FD" if has("speed_up_n_ar") else "with no worse FD"
        found.append(Card("Faster than the teacher", f"{summary['speed_up']:.0f} ×", note))
    if has("seconds_total"):
        stages = {"seconds_gsim": "distillation", "seconds_rl": "RL"}
        note = ", ".join(f"{title} {minutes(summary[key])}" for key, title in stages.items() if key in summary)
        found.append(Card("Time", minutes(summary["seconds_total"]), note or "in all"))
    return [card for card in found if card]


def _score_card(heading: str, summary: dict[str, Any], model: str, when: str) -> Card | None:
    """FD, with accuracy and N_AR where they are known."""
    if f"{model}_fd{when}" not in summary:
        return None
    notes = {f"{model}_accuracy{when}": "accuracy {:.3f}", f"{model}_n_ar{when}": "N_AR = {}"}
    note = ", ".join(form.format(summary[key]) for key, form in notes.items() if key in summary)
    return Card(heading, f"FD {summary[f'{model}_fd{when}']:.2f}", note)


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def data_uri(picture: Path) -> str:
    """The PNG file as an address that holds its content."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
