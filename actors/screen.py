"""One live table of the RL stage, for a driver that writes to a terminal."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from rich.live import Live
from rich.table import Table

from marval_ray.evaluation.metrics import SCORES, SPEED
from marval_ray.runs.stage import RL

ROWS = {
    "reward": ("reward", "reward_std", "dropped", "student/gradient_norm"),
    "held out": tuple(score.held_out for score in SCORES),
    "ms an image": ("flow/rollout_ms", "flow/reward_ms", "flow/learner_ms"),
    "idle share": ("flow/rollout_idle", "flow/reward_idle", "flow/learner_idle"),
    "weights": ("flow/sync_ms", "flow/sync_megabytes", "flow/staleness"),
    "workers": ("flow/queued_batches", "flow/replaced_workers", SPEED.name),
}
"""Metrics by row of the table."""


def live_table(total: int, step: int, metrics: dict[str, float]) -> Table:
    """Return the last value of every metric that there is."""
    table = Table(title=f"{RL.title}, update {step} of {total}", show_header=False)
    for title, names in ROWS.items():
        cells = [f"{name.split('/')[-1].replace('_', ' ')} [bold]{metrics[name]:.4g}[/]" for name in names if name in metrics]
        table.add_row(title, *cells)
    return table


@contextmanager
def watched(recorder: Any, total: int, seconds: float = 1.0) -> Iterator[None]:
    """Show what `recorder` has, every `seconds`, until the block ends."""
    ended = threading.Event()
    with Live(auto_refresh=False) as live:

        def refresh() -> None:
            while not ended.wait(seconds):
                live.update(live_table(total, *ray.get(recorder.latest.remote())), refresh=True)

        thread = threading.Thread(target=refresh)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
