"""The students in a folder, also while a run writes and replaces them."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from marval_ray.hub.layout import load_model
from marval_ray.runs.stage import STAGES

STUDENTS = tuple(stage.student for stage in reversed(STAGES))
"""What a run of jobs/distill.py writes, the last stage's first. Ages do not count: a copy loses them."""


def student_of(path: Path, names: Sequence[str] = STUDENTS) -> Path:
    """Return `path` itself, or the first of `names` that is in a folder. Raises ValueError when none is."""
    if not path.is_dir():
        return path
    if not (there := students(path, names)):
        raise ValueError(f"{path} has no {' or '.join(names)} now: fetch the whole of it, or wait for the end of a stage")
    return there[0]


def readable_student_of(path: Path) -> Path:
    """Return `path` itself, or of a folder the newest student that can be read. Raises ValueError when there is none."""
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


def students(folder: Path, names: Sequence[str] = STUDENTS) -> list[Path]:
    """List those of `names` that are in `folder`."""
    return [folder / name for name in names if (folder / name).is_file()]


def modified(run: Path) -> dict[Path, int]:
    """Tell when each student of `run` was written, in ns. A run that starts anew takes its files away at any time."""
    ages = {}
    for path in (run / name for name in STUDENTS):
        with suppress(FileNotFoundError):
            ages[path] = path.stat().st_mtime_ns
    return ages
