"""What a distillation run shows: scores before and after, pictures, curves, one report."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marval_ray.config import check_at_least, check_seed
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.evaluation.scores import Evaluator
from marval_ray.evaluation.sweep import Row, best, fastest, images_per_second, measure_loops
from marval_ray.families.generate import Generation, class_labels, student_generation
from marval_ray.families.mar.codec import VAE, load_vae
from marval_ray.families.mar.model import MAR
from marval_ray.files.atomic import write_json
from marval_ray.files.text import read_json
from marval_ray.presets import PRESETS, SAMPLERS
from marval_ray.runs import report
from marval_ray.runs.stage import Stage, read_metrics


@dataclass(frozen=True)
class FiguresConfig:
    classifier: Path | None = None
    """Features for FD and accuracy; without it there are pictures but no scores."""
    reference: Path | None = None
    """Feature statistics of the real images that samples are compared with."""
    teacher: Path | None = None
    """The teacher's own figures, as jobs/teacher_figures.py writes them."""
    sampler: Ancestral = field(default_factory=lambda: Ancestral(cfg=3.0))
    """How the teacher draws its pictures."""
    samples: int = 500
    loops: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Numbers of AR loops at which the student is measured; the last one is the headline."""
    per_class: int = 3
    """Pictures of each class in the grids."""
    grid_classes: int = 10
    class_names: tuple[str, ...] = ()
    """Labels of the rows of the grids; without them the classes' numbers."""
    seed: int = 1_000
    batch: int = 64

    def __post_init__(self) -> None:
        check_at_least(1, self, "per_class", "grid_classes", "batch", prefix="figures.")
        check_at_least(2, self, "samples", prefix="figures.")  # a covariance needs two
        check_seed(self.seed, "figures.seed")

    def evaluator(self) -> Evaluator | None:
        if self.classifier is None or self.reference is None:
            return None
        return Evaluator.load(self.classifier, self.reference)

    def judge(self) -> tuple[Path, Path] | None:
        """What held-out figures need: classifier and reference statistics."""
        if self.classifier is None or self.reference is None:
            return None
        return self.classifier.absolute(), self.reference.absolute()

    def teacher_rows(self) -> list[Row]:
        """The teacher's rows of as many samples: FD falls with their number.

        Raises ValueError when the file has none.
        """
        if self.teacher is None:
            return []
        rows = read_json(self.teacher).get("rows")
        if not rows:
            raise ValueError(f"{self.teacher} holds no rows of figures: name a file that jobs/teacher_figures.py wrote")
        kept = [row for row in rows if row["samples"] == self.samples]
        if not kept:
            have = sorted({row["samples"] for row in rows})
            raise ValueError(f"{self.teacher} has figures of {have} samples: choose one for --figures.samples")
        return kept

    @classmethod
    def of(cls, preset: str) -> "FiguresConfig":
        """With the sampler of a preset, and the files that it brings along."""
        files = PRESETS[preset].files
        return cls(
            classifier=files.classifier, reference=files.reference, teacher=files.teacher_figures, sampler=SAMPLERS[preset],
            class_names=files.class_names,
        )  # fmt: skip

    def row_labels(self) -> list[str]:
        names = self.class_names or tuple(map(str, range(self.grid_classes)))
        return list(names[: self.grid_classes])


SCORES = ("fd", "accuracy", "diversity")


class Figures:
    """Collects a run's figures in `folder`: `before`, `distilled`, `reinforced`, then `write`.

    draw: turns a Generation into one that draws where it should be done.
    """

    def __init__(self, config: FiguresConfig, vae: Path, folder: Path, draw: Callable[[Generation], Generation] = lambda here: here):
        self.config, self.folder, self.draw = config, folder, draw
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.vae: VAE = load_vae(vae).to(self.device)
        self.evaluator = config.evaluator()
        self.summary: dict[str, Any] = {}
        self.teacher_rows: list[Row] = config.teacher_rows()
        self.student_rows: list[Row] = []
        self.grids: dict[str, Tensor] = {}

    def before(self, teacher: MAR, loops: int) -> None:
        """Pictures and speed of the teacher; pictures of the student, still the teacher read in one step, and its scores
        at a number of loops."""
        teacher = teacher.to(self.device)
        generation = self.draw(Generation(teacher, self.vae, self.config.sampler, batch=self.config.batch))
        self._draw("teacher", generation)
        student = self._student(teacher)
        self._draw("student before", student)
        if self.evaluator is None:
            return
        (row,) = measure_loops("student before", student, self._labels(teacher), self.config.seed, self.evaluator, [loops])
        self._keep("_before", row)
        if self.teacher_rows:
            # Its quality is known; its speed is compared with the student's, so both are timed in this run.
            row = best(self.teacher_rows)
            speed = images_per_second(replace(generation, loops=row["n_ar"]), teacher.config.num_classes)
            self.summary |= scores("teacher", row | {"images_per_second": speed}) | {"teacher_n_ar": row["n_ar"]}

    def distilled(self, student: MAR) -> None:
        """Pictures and scores of a student that no stage follows, at each number of loops."""
        self._draw("student after", self._student(student))
        self._final(student)

    def before_rl(self, student: MAR, loops: int) -> None:
        """Pictures of the student that RL starts from, and its scores at the number of loops that RL works with."""
        generation = self._student(student)
        self._draw("student before RL", generation)
        if self.evaluator is not None:
            (row,) = measure_loops(
                "student before RL", generation, self._labels(student), self.config.seed, self.evaluator, [loops]
            )
            self._keep("_before_rl", row)

    def reinforced(self, student: MAR, loops: int) -> None:
        """The same of the student after RL, and its scores at each number of loops."""
        self._draw("student after RL", self._student(student))
        more = () if loops in self.config.loops else (loops,)
        self._final(student, more)
        for row in self.student_rows:
            if row["n_ar"] == loops:
                self._keep("_after_rl", row)

    def _keep(self, when: str, row: Row) -> None:
        self.summary |= scores("student", row, when) | {f"student_n_ar{when}": row["n_ar"]}

    def _final(self, student: MAR, more: tuple[int, ...] = ()) -> None:
        """The final student's scores, its best number of loops, and how it stands against the teacher."""
        if self.evaluator is None:
            return
        generation, labels = self._student(student), self._labels(student)
        rows = measure_loops("student", generation, labels, self.config.seed, self.evaluator, (*more, *self.config.loops))
        self.student_rows = rows
        self.summary |= scores("student", rows[-1]) | scores("student_best", best(rows))
        self.summary |= {"student_n_ar": rows[-1]["n_ar"], "student_best_n_ar": best(rows)["n_ar"]}
        if "teacher_fd" in self.summary:
            self.summary |= compare(rows, self.summary["teacher_fd"], self.summary["teacher_images_per_second"])

    def write(self, config: dict[str, Any], stages: Iterable[Stage], extra: dict[str, float]) -> None:
        """summary.json, the pictures and report.html of a run of these stages, whose metrics lie in the folder."""
        self.summary |= {"samples": self.config.samples, **extra}
        rows = sorted(self.teacher_rows + self.student_rows, key=itemgetter("n_ar"))
        write_json(self.folder / "summary.json", self.summary | {"loops": rows})
        grid, loops = self.folder / "grid.png", self.folder / "loops.png"
        report.save_comparison(grid, self.grids, self.config.per_class, self.config.row_labels())
        pictures = [("Same seeds and classes, one row a class.", grid)]
        if self.teacher_rows or self.student_rows[1:]:
            report.plot_loops(loops, rows)
            pictures.append(("Quality and speed against the number of auto-regressive loops.", loops))
        for stage in stages:
            report.plot_losses(self.folder / stage.plot, read_metrics(self.folder / stage.metrics))
            pictures.append((stage.caption, self.folder / stage.plot))
        report.write_html(self.folder / "report.html", "MARVAL run", self.summary, rows, pictures, config)

    def _student(self, model: MAR) -> Generation:
        return self.draw(student_generation(model.to(self.device), self.vae, self.config.loops[-1], self.config.batch))

    def _labels(self, model: MAR) -> Tensor:
        return class_labels(model.config.num_classes, self.config.samples)

    def _draw(self, name: str, generation: Generation) -> None:
        labels = torch.arange(self.config.grid_classes).repeat_interleave(self.config.per_class)
        images = generation.images(labels, self.config.seed, progress=f"pictures: {name}")
        self.grids[name] = images
        path = self.folder / f"{name.replace(' ', '_')}.png"
        report.save_grid(path, images, self.config.per_class, self.config.row_labels())


def scores(name: str, row: Row, suffix: str = "") -> dict[str, float]:
    """The figures of `row` under stable names."""
    return {f"{name}_{key}{suffix}": row[key] for key in (*SCORES, "images_per_second") if key in row}


def compare(student: list[Row], fd: float, speed: float) -> dict[str, float]:
    """Against the teacher's best setting: the FD at the most loops, and the speed-up at no worse FD."""
    ratio, row = {"fd_ratio": student[-1]["fd"] / fd}, fastest(student, fd)
    return ratio | ({"speed_up": row["images_per_second"] / speed, "speed_up_n_ar": row["n_ar"]} if row else {})
