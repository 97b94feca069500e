"""Tables of docs/results.md and the README, from summaries of runs."""

from collections.abc import Iterable, Mapping
from statistics import mean, median, stdev

from records import Summary

from marval_ray.evaluation.claims import better
from marval_ray.evaluation.metrics import ACCURACY, BY_JUDGE, DIVERSITY, FD, SPEED, Metric, by_b, error_of, markdown_table, with_error
from marval_ray.evaluation.sweep import Row
from marval_ray.presets import SAMPLERS
from marval_ray.runs.measured import LOOPS, Measured, gain, measured_in
from marval_ray.runs.stage import GSIM, RL


def over(values: Iterable[float], form: str, error: float | None = None) -> str:
    """Mean ± standard error over runs, or that of the one value that all of them have."""
    values = list(values)
    if len(set(values)) > 1:
        error = stdev(values) / len(values) ** 0.5
    return with_error(mean(values), error, form)


def told(runs: Iterable[Measured]) -> list[Metric]:
    """What both judges measured of all of them."""
    runs = list(runs)
    return [metric for name, metric in BY_JUDGE.items() if all(name in measured.scores for measured in runs)]


def cells(runs: Iterable[Measured], metrics: Iterable[Metric]) -> list[str]:
    """Each figure over runs; of a single one with the error over its sets of samples."""
    found = [measured.scores for measured in runs]
    return [over((scores[metric.name] for scores in found), metric.form, found[0].get(error_of(metric.name))) for metric in metrics]


def student_rows(run: Summary) -> dict[int, Row]:
    """By number of loops."""
    return {row["n_ar"]: row for row in run["loops"] if row["model"] == "student"}


ROWS = {
    ("teacher", ""): ("Teacher, its best setting", "{loops} loops x {steps} steps"),
    ("student", "before"): ("One step, before training", "{loops} loops x 1 step"),
    ("student", "before_rl"): ("One step, after GSIM", "{loops} loops x 1 step"),
    ("student", ""): ("One step, after RL", "{loops} loops x 1 step"),
}
"""What the headline shows, by model and moment: name and sampling."""
FDS = (FD.name, by_b(FD.name))
SHORT = (*FDS, ACCURACY.name, by_b(ACCURACY.name), DIVERSITY.name)
"""Metrics of the README's table."""
STEPS = SAMPLERS["tiny"].steps
"""Of the teacher."""


def headline(runs: list[Summary], metrics: Iterable[str] | None = None) -> str:
    """Each moment of both models by both judges, with speed; of several runs the mean, and the median speed."""
    found = [measured_in(run) for run in runs]
    shown = [metric for metric in told_of_all(found) if metrics is None or metric.name in metrics]
    lines = []
    for key, (title, sampling) in ROWS.items():
        at = [one[key] for one in found]
        loops = " / ".join(dict.fromkeys(str(each.loops) for each in at))
        speed = median(each.speed for each in at)
        lines.append([title, sampling.format(loops=loops, steps=STEPS), *cells(at, shown), f"{speed:.3g}"])
    return markdown_table(["", "sampling", *(metric.title for metric in shown), SPEED.title], lines)


def claims(runs: list[Summary]) -> str:
    """What the figures allow to be said, as a list."""
    found = [measured_in(run) for run in runs]
    distances = [metric for metric in told_of_all(found) if metric.name in FDS]
    said = [f"* {metric.title} of the student over the teacher's best: {ratio(found, metric)}." for metric in distances]
    for metric in (FD, ACCURACY, DIVERSITY):
        said.append(f"* {metric.title[0].upper()}{metric.title[1:]} against the teacher's: {verdict(found, metric)}.")
    times = median(map(pace, found))
    reward = over(map(gain, runs), ".2f")
    said += [
        f"* {times:.0f} times the images/s of the teacher at its best setting (batch 64, timed one after the other).",
        f"* RL raised the reward by {reward} standard deviations of an image's reward before.",
        f"* GSIM took {median(run[GSIM.seconds] for run in runs):.0f} s, RL {median(run[RL.seconds] for run in runs):.0f} s.",
    ]
    return "\n".join(said)


def pace(one: dict[tuple[str, str], Measured]) -> float:
    """How many times as fast as the teacher the student is: before training, where it is as fast as after, it was timed next to it."""
    student, before = one["student", ""], one.get(("student", "before"))
    timed = before if before is not None and before.loops == student.loops else student
    return timed.speed / one["teacher", ""].speed


def verdict(found: list[dict[tuple[str, str], Measured]], metric: Metric) -> str:
    """Say which of the two is better in every run, where their errors are known."""
    pairs = [(one["student", ""].scores, one["teacher", ""].scores) for one in found]
    return compared(pairs, metric)


def compared(pairs: list[tuple[Mapping[str, float], Mapping[str, float]]], metric: Metric) -> str:
    """Say whether the first of each pair is better than the second in all of them, where their errors are known."""
    if any(error_of(metric.name) not in scores for pair in pairs for scores in pair):
        return "no claim, since one set of its samples has no standard error"
    if all(better(one, other, metric) for one, other in pairs):
        return "better, by both judges and two standard errors"
    if all(better(other, one, metric) for one, other in pairs):
        return "worse, by both judges and two standard errors"
    return "neither better nor worse by both judges and two standard errors"


def told_of_all(found: list[dict[tuple[str, str], Measured]]) -> list[Metric]:
    """What both judges measured of both models at each moment of all runs."""
    return told(each for one in found for each in one.values())


def ratio(found: list[dict[tuple[str, str], Measured]], metric: Metric) -> str:
    """Of student and teacher; over several runs with its standard error, of one with that of its sets."""
    pairs = [(one["student", ""].scores, one["teacher", ""].scores) for one in found]
    student, teacher = pairs[0]
    parts = [scores.get(error_of(metric.name), 0.0) / scores[metric.name] for scores in (student, teacher)]
    own = student[metric.name] / teacher[metric.name] * (parts[0] ** 2 + parts[1] ** 2) ** 0.5
    return over((student[metric.name] / teacher[metric.name] for student, teacher in pairs), ".2f", own)


def loop_table(runs: list[Summary]) -> str:
    """Both models by number of loops; the teacher's speed is in the first run's terms."""
    by_seed = [student_rows(run) for run in runs]
    teacher = {row[LOOPS]: row for row in runs[0]["loops"] if row["model"] == "teacher"}
    metrics = [metric for metric in (BY_JUDGE[name] for name in SHORT) if metric.name in next(iter(by_seed[0].values()))]
    lines = []
    for n in sorted({*by_seed[0], *teacher}):
        t, students = teacher.get(n), [rows[n] for rows in by_seed if n in rows]
        left = [*(metric.text(t[metric.name]) for metric in metrics), f"{t[SPEED.name]:.3g}"] if t else [""] * (len(metrics) + 1)
        right = [over((row[metric.name] for row in students), metric.form) for metric in metrics]
        lines.append([str(n), *left, *right, f"{median(row[SPEED.name] for row in students):.3g}"])
    heads = [*(metric.title for metric in metrics), SPEED.title]
    return markdown_table(["N_AR", f"teacher {heads[0]}", *heads[1:], f"student {heads[0]}", *heads[1:]], lines)


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("s" if number != 1 else "")


def gsim_table(variants: dict[str, list[Summary]], loops: tuple[int, ...]) -> str:
    """Of runs of one variant the mean ± standard error, of a single one the error over its sets."""
    found = {title: {n: [Measured.of(student_rows(run)[n], "student") for run in runs] for n in loops} for title, runs in variants.items()}
    shown = told(each for by_loops in found.values() for at in by_loops.values() for each in at)
    lines = [[title, *(cell for n in loops for cell in cells(found[title][n], shown))] for title in variants]
    heads = [head for n in loops for head in (f"{shown[0].title}, {n} loops", *(metric.title for metric in shown[1:]))]
    return markdown_table(["change", *heads], lines)


def rl_table(variants: dict[str, list[Summary]]) -> str:
    """Of runs of one variant the mean ± standard error; the reward in standard deviations of the scores before RL."""
    found = {title: [measured_in(run)["student", ""] for run in runs] for title, runs in variants.items()}
    start = measured_in(next(iter(variants.values()))[0])["student", "before_rl"]
    shown = told([start, *(at for runs in found.values() for at in runs)])
    lines = [
        [title, over(map(gain, runs), ".2f"), *cells(found[title], shown), over((run[RL.seconds] for run in runs), ".0f")]
        for title, runs in variants.items()
    ]
    before = ["before RL", "0", *cells([start], shown), ""]
    return markdown_table(["change", "reward", *(metric.title for metric in shown), "RL seconds"], [before, *lines])
