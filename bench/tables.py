"""Tables of docs/results.md and the README, from summaries of runs."""

from collections.abc import Iterable
from statistics import mean, median, stdev

from records import Summary

from marval_ray.evaluation.metrics import ACCURACY, BY_JUDGE, FD, SPEED, Metric, error_of, with_error
from marval_ray.evaluation.sweep import Row
from marval_ray.runs.measured import LOOPS, Measured, gain, measured_in
from marval_ray.runs.stage import GSIM


def table(heads: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [heads, ["--"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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


def fewest_loops(seeds: list[Summary], slack: float = 1.02) -> int:
    """The fewest loops whose mean FD is at most `slack` times the lowest."""
    by_seed = [student_rows(run) for run in seeds]
    fd = {n: mean(rows[n]["fd"] for rows in by_seed) for n in by_seed[0]}
    return min(n for n in fd if fd[n] <= slack * min(fd.values()))


def headline(seeds: list[Summary]) -> str:
    n, found = fewest_loops(seeds), [measured_in(run) for run in seeds]
    teacher, before, after = ([run[key] for run in found] for key in (("teacher", ""), ("student", "before"), ("student", "")))
    fewest = [Measured.of(student_rows(run)[n], "student") for run in seeds]
    most = after[0].loops
    shown = told([*teacher, *before, *after, *fewest])
    rows = [
        ["Teacher, its best setting", f"{teacher[0].loops} loops x 100 steps", *cells(teacher, shown)],
        ["Student before GSIM", f"{most} loops x 1 step", *cells(before, shown)],
        ["Student", f"{most} loops x 1 step", *cells(after, shown)],
        ["Student, fewest loops of about that FD", f"{n} loops x 1 step", *cells(fewest, shown)],
    ]
    ratios = (few.scores[FD.name] / best.scores[FD.name] for few, best in zip(fewest, teacher))
    return "\n".join(
        [
            table(["", "sampling", *(metric.title for metric in shown)], rows),
            "",
            f"* FD of the student over the teacher's best: {over((run['fd_ratio'] for run in seeds), '.2f')} with {most} loops, "
            f"{over(ratios, '.2f')} with {n}.",
            f"* Speed-up of the fastest student of no worse FD over the teacher's best setting: {speed_up(seeds, fewest, teacher)}",
            f"* GSIM took {median(run[GSIM.seconds] for run in seeds):.0f} s.",
        ]
    )


def speed_up(runs: list[Summary], fewest: list[Measured], teacher: list[Measured]) -> str:
    reached = [run for run in runs if "speed_up" in run]
    if not reached:
        times = median(few.speed / best.speed for few, best in zip(fewest, teacher))
        return f"none is as good as that; with {fewest[0].loops} loops the student is {times:.0f} times as fast (batch 64)."
    loops = ", ".join(str(run["speed_up_n_ar"]) for run in reached)
    note = "" if len(reached) == len(runs) else f"; {len(runs) - len(reached)} of {len(runs)} seeds have none"
    return f"{over((run['speed_up'] for run in reached), '.0f')} times, at N_AR = {loops}{note} (batch 64, timed in the same run)."


def loop_table(teacher_rows: list[Row], seeds: list[Summary]) -> str:
    teacher = {row[LOOPS]: row for row in teacher_rows}
    by_seed = [student_rows(run) for run in seeds]
    lines = []
    for n in by_seed[0]:
        rows, t = [rows[n] for rows in by_seed], teacher.get(n)
        left = [FD.text(t[FD.name]), ACCURACY.text(t[ACCURACY.name]), f"{t[SPEED.name]:.1f}"] if t else [""] * 3
        right = [over((row[score.name] for row in rows), score.form) for score in (FD, ACCURACY)]
        lines.append([str(n), *left, *right, f"{median(row[SPEED.name] for row in rows):.0f}"])
    more = [ACCURACY.title, SPEED.title]
    return table(["N_AR", f"teacher {FD.title}", *more, f"student {FD.title}", *more], lines)


def gsim_table(variants: dict[str, Summary], loops: tuple[int, ...]) -> str:
    found = {title: [Measured.of(student_rows(run)[n], "student") for n in loops] for title, run in variants.items()}
    shown = told(at for runs in found.values() for at in runs)
    lines = [
        [title, *(cell for at in found[title] for cell in cells([at], shown)), f"{run[GSIM.seconds]:.0f}"]
        for title, run in variants.items()
    ]
    heads = [head for n in loops for head in (f"{shown[0].title}, {n} loops", *(metric.title for metric in shown[1:]))]
    return table(["change", *heads, "GSIM seconds"], lines)


def rl_table(variants: dict[str, list[Summary]]) -> str:
    """Of runs of one variant the mean ± standard error; the reward in standard deviations of the scores before RL."""
    found = {title: [measured_in(run)["student", ""] for run in runs] for title, runs in variants.items()}
    start = measured_in(next(iter(variants.values()))[0])["student", "before_rl"]
    shown = told([start, *(at for runs in found.values() for at in runs)])
    lines = [
        [title, over(map(gain, runs), ".2f"), *cells(found[title], shown), over((run["rl_updates"] for run in runs), ".0f")]
        for title, runs in variants.items()
    ]
    before = ["before RL", "0", *cells([start], shown), "0"]
    return table(["change", "reward", *(metric.title for metric in shown), "updates"], [before, *lines])
