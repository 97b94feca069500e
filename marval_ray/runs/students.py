"""What a run exports: its students, also while it writes and replaces them."""

from contextlib import suppress
from pathlib import Path

from marval_ray.hub.layout import load_model
from marval_ray.runs.stage import STAGES

STUDENTS = tuple(stage.student for stage in reversed(STAGES))
"""What a run of jobs/distill.py exports, the last stage's first."""


def students(run: Path) -> list[Path]:
    """List what `run` exported so far, the newest first."""
    ages = modified(run)
    return sorted(ages, key=ages.__getitem__, reverse=True)


def modified(run: Path) -> dict[Path, int]:
    """Tell when each student of `run` was written, in ns. A run that starts anew takes its files away at any time."""
    ages = {}
    for path in (run / name for name in STUDENTS):
        with suppress(FileNotFoundError):
            ages[path] = path.stat().st_mtime_ns
    return ages


def newest_of(path: Path) -> Path:
    """Return `path` itself, or of a run's folder the newest student. Raises ValueError when there is none."""
    if not path.is_dir():
        return path
    if not (there := students(path)):
        raise ValueError("the run has no student now")
    return there[0]


def student_of(path: Path) -> Path:
    """Return `path` itself, or of a run's folder the newest student that can be read. Raises ValueError when there is none."""
    if not path.is_dir():
        return path
    for student in students(path):
        if readable(student):
            return student
    raise ValueError(f"{path} has no student that can be read: looked for {' and '.join(STUDENTS)}")


def readable(student: Path) -> bool:
    """Tell whether the file holds a student as its config.json says."""
    try:
        load_model(student)
    except ValueError:
        return False
    return True
