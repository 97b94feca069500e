"""Tables of docs/results.md and the README, from summaries of runs."""

from statistics import mean, median, stdev

from records import Summary

from marval_ray.evaluation.sweep import Row

LABELS = (("fd", ".2f"), ("accuracy", ".3f"), ("diversity", ".3f"))


def table(heads: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [heads, ["--"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def over(runs: list[Summary], name: str, form: str) -> str:
    """Mean ± standard deviation over runs."""
    values = [run[name] for run in runs]
    spread = f" ± {stdev(values):{form}}" if len(set(values)) > 1 else ""
    return f"{mean(values):{form}}{spread}"


def student_rows(run: Summary) -> dict[int, Row]:
    """By number of loops."""
    return {row["n_ar"]: row for row in run["loops"] if row["model"] == "student"}


def fewest_loops(seeds: list[Summary], slack: float = 1.02) -> int:
    """The fewest loops whose mean FD is at most `slack` times the lowest."""
    by_seed = [student_rows(run) for run in seeds]
    fd = {n: mean(rows[n]["fd"] for rows in by_seed) for n in by_seed[0]}
    return min(n for n in fd if fd[n] <= slack * min(fd.values()))


def headline(seeds: list[Summary]) -> str:
    first, n = seeds[0], fewest_loops(seeds)
    most = first["student_n_ar"]
    at_fewest = [{f"fewest_{key}": value for key, value in student_rows(run)[n].items()} for run in seeds]
    runs = [run | row for run, row in zip(seeds, at_fewest)]
    kinds = [
        ("Teacher, its best setting", f"{first['teacher_n_ar']} loops x 100 steps", "teacher_{}"),
        ("Student before GSIM", f"{most} loops x 1 step", "student_{}_before"),
        ("Student", f"{most} loops x 1 step", "student_{}"),
        ("Student, fewest loops of about that FD", f"{n} loops x 1 step", "fewest_{}"),
    ]
    rows = [[title, sampling, *(over(runs, name.format(key), form) for key, form in LABELS)] for title, sampling, name in kinds]
    ratios = [{"ratio": run["fewest_fd"] / run["teacher_fd"]} for run in runs]
    return "\n".join(
        [
            table(["", "sampling", "FD", "accuracy", "diversity"], rows),
            "",
            f"* FD of the student over the teacher's best: {over(runs, 'fd_ratio', '.2f')} with {most} loops, "
            f"{over(ratios, 'ratio', '.2f')} with {n}.",
            f"* Speed-up of the fastest student of no worse FD over the teacher's best setting: {speed_up(runs)}",
            f"* GSIM took {median(run['seconds_gsim'] for run in runs):.0f} s.",
        ]
    )


def gain(run: Summary) -> Summary:
    """What RL added to the mean reward, in standard deviations of the scores before."""
    return {"gain": (run["reward_after"] - run["reward_before"]) / run["reward_before_std"]}


def speed_up(runs: list[Summary]) -> str:
    reached = [run for run in runs if "speed_up" in run]
    if not reached:
        times = median(run["fewest_images_per_second"] / run["teacher_images_per_second"] for run in runs)
        return f"none is as good as that; with {runs[0]['fewest_n_ar']} loops the student is {times:.0f} times as fast (batch 64)."
    loops = ", ".join(str(run["speed_up_n_ar"]) for run in reached)
    note = "" if len(reached) == len(runs) else f"; {len(runs) - len(reached)} of {len(runs)} seeds have none"
    return f"{over(reached, 'speed_up', '.0f')} times, at N_AR = {loops}{note} (batch 64, timed in the same run)."


def loop_table(teacher_rows: list[Row], seeds: list[Summary]) -> str:
    teacher = {row["n_ar"]: row for row in teacher_rows}
    by_seed = [student_rows(run) for run in seeds]
    lines = []
    for n in by_seed[0]:
        rows, t = [rows[n] for rows in by_seed], teacher.get(n)
        left = [f"{t['fd']:.2f}", f"{t['accuracy']:.3f}", f"{t['images_per_second']:.1f}"] if t else [""] * 3
        speed = f"{median(row['images_per_second'] for row in rows):.0f}"
        lines.append([str(n), *left, over(rows, "fd", ".2f"), over(rows, "accuracy", ".3f"), speed])
    return table(["N_AR", "teacher FD", "accuracy", "images/s", "student FD", "accuracy", "images/s"], lines)


def gsim_table(variants: dict[str, Summary], loops: tuple[int, ...]) -> str:
    lines = []
    for title, run in variants.items():
        rows = student_rows(run)
        cells = [f"{rows[n][key]:{form}}" for n in loops for key, form in LABELS]
        lines.append([title, *cells, f"{run['seconds_gsim']:.0f}"])
    heads = [head for n in loops for head in (f"FD, {n} loops", "accuracy", "diversity")]
    return table(["change", *heads, "GSIM seconds"], lines)


def rl_table(variants: dict[str, list[Summary]]) -> str:
    """Of runs of one variant the mean ± standard deviation; the reward in standard deviations of the scores before RL."""
    lines = []
    for title, runs in variants.items():
        cells = [over(runs, f"student_{key}", form) for key, form in LABELS]
        lines.append([title, over(list(map(gain, runs)), "gain", ".2f"), *cells, over(runs, "rl_updates", ".0f")])
    first = next(iter(variants.values()))[0]
    before = ["before RL", "0", *(f"{first[f'student_{key}_before_rl']:{form}}" for key, form in LABELS), "0"]
    return table(["change", "reward", "FD", "accuracy", "diversity", "updates"], [before, *lines])
