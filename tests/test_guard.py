"""The guard: bands around the figures before RL."""

import json

from marval_ray.config import GuardConfig
from marval_ray.evaluation.scores import Scores
from marval_ray.reinforce.guard import Guard


def scores(fd=10.0, accuracy=0.8, diversity=0.9, recall=0.5) -> Scores:
    return Scores(fd=fd, kid=0.0, accuracy=accuracy, diversity=diversity, recall=recall, samples=500)


def test_guard_keeps_the_last_inside_the_bands_and_stops_what_goes_wrong():
    guard = Guard(GuardConfig(patience=2), (scores(),))
    assert guard.take(10, (scores(fd=8.0, accuracy=0.85),))
    assert guard.take(20, (scores(fd=9.5, accuracy=0.84),)) and guard.best[0].fd == 9.5
    assert not guard.take(30, (scores(fd=11.0, accuracy=0.95),)) and not guard.exhausted
    assert guard.take(40, (scores(fd=9.0, accuracy=0.9),)) and guard.outside == 0
    for step in (50, 60):
        assert not guard.take(step, (scores(fd=7.0, accuracy=0.99, diversity=0.5),))
    assert guard.exhausted and guard.best_step == 40
    assert guard.complaints((scores(20.0, 0.7, 0.5),)) == [
        "FD 20.00 is above 1.0 x 10.00 at N_AR = 64",
        "diversity 0.500 is below 0.9 x 0.900 at N_AR = 64",
        "accuracy 0.700 is more than 0.02 below 0.800 at N_AR = 64",
    ]


def test_the_bands_hold_at_every_number_of_loops():
    config = GuardConfig(loops=(8, 64))
    guard = Guard(config, (scores(fd=8.0), scores(fd=6.0)))
    assert guard.complaints((scores(fd=7.0), scores(fd=6.5))) == ["FD 6.50 is above 1.0 x 6.00 at N_AR = 64"]
    assert guard.take(10, (scores(fd=7.0), scores(fd=5.0))) and Guard.of(config, json.loads(json.dumps(guard.state()))) == guard
