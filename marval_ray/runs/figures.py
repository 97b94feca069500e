"""What a distillation run shows: scores before and after, pictures, curves, one report."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from marval_ray.config import Files, check_at_least, check_seed
from marval_ray.device import own_device
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.evaluation.claims import better
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.metrics import FD, SPEED, by_b
from marval_ray.evaluation.sweep import Row, best, frugal, images_per_second, measure
from marval_ray.families.base import Backbone, Codec, FamilyConfig
from marval_ray.families.generation import Generation, Painter, student_generation
from marval_ray.files.atomic import write_json
from marval_ray.files.text import read_json
from marval_ray.runs import report
from marval_ray.runs.looks import read_looks
from marval_ray.runs.measured import LOOPS, Measured
from marval_ray.runs.stage import Stage, read_metrics
from marval_ray.types import Prompts


@dataclass(frozen=True)
class FiguresConfig:
    classifier: Path | None = None
    """Judge A, of clothes or of scenes: features for FD, and accuracy; without it there are pictures but no scores."""
    reference: Path | None = None
    """A's feature statistics of the real images that samples are compared with."""
    classifier_b: Path | None = None
    """Judge B, whose figures are reported beside A's and decide nothing."""
    reference_b: Path | None = None
    teacher: Path | None = None
    """The teacher's own figures, as jobs/teacher_figures.py writes them."""
    sampler: Ancestral = field(default_factory=lambda: Ancestral(cfg=3.0))
    """How the teacher draws its pictures."""
    samples: int = 500
    """Of a set."""
    sets: int = 3
    """Sets of samples whose mean and standard error are the headline; they are drawn anew, so that nothing was chosen by them."""
    loops: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Numbers of AR loops at which the student is measured. The headline is of RL's, and without RL of the fewest of about the lowest FD by
    judge A."""
    loop_sets: int = 1
    """Sets of samples at each of them."""
    per_class: int = 3
    """Pictures of each class, or prompt, in the grids."""
    grid_classes: int = 10
    """Classes, or prompts, in the grids."""
    prompts: Path | None = None
    """Of a model that reads texts, what pictures and figures are of, in any form that jobs/sample.py takes; by default what --prompts
    names."""
    class_names: tuple[str, ...] = ()
    """Labels of the rows of the grids; without them the classes' numbers, and of a model that reads texts the prompts."""
    seed: int = 1_000
    batch: int = 64

    def __post_init__(self) -> None:
        check_at_least(1, self, "per_class", "grid_classes", "batch", "sets", "loop_sets", prefix="figures.")
        check_at_least(2, self, "samples", prefix="figures.")  # a covariance needs two
        check_seed(self.seed, "figures.seed")

    def judges(self) -> Judges | None:
        """Read the judges that report. Raises ValueError when a file cannot be read."""
        if self.classifier is None or self.reference is None:
            return None
        return Judges.load((self.classifier, self.reference), (self.classifier_b, self.reference_b))

    def judge(self) -> tuple[Path, Path] | None:
        """Return what held-out figures need: classifier and reference statistics of judge A."""
        if self.classifier is None or self.reference is None:
            return None
        return self.classifier.absolute(), self.reference.absolute()

    def teacher_rows(self) -> list[Row]:
        """Return the teacher's rows of sets of as many samples: FD falls with their number.

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
    def of(cls, files: Files, sampler: Ancestral, loops: tuple[int, ...]) -> "FiguresConfig":
        """Return figures with the files that a preset brings along, the sampler of its teacher, and N_AR of its students."""
        return cls(
            classifier=files.classifier, reference=files.reference, teacher=files.teacher_figures, sampler=sampler, loops=loops,
            classifier_b=files.classifier_b, reference_b=files.reference_b, class_names=files.class_names, prompts=files.shown_prompts,
        )  # fmt: skip

    def shown(self, texts: Prompts | None) -> tuple[Prompts, list[str]]:
        """Return what the rows of the grids show, and their labels: the first of `texts`, or the first classes."""
        if texts is not None:
            rows = texts[: self.grid_classes]
            return rows, list(map(report.wrapped, rows.texts))
        names = self.class_names or tuple(map(str, range(self.grid_classes)))
        return Prompts.of_labels(torch.arange(self.grid_classes)), list(names[: self.grid_classes])


class Figures:
    """Collects a run's figures in `folder`: `before`, `distilled`, `reinforced`, then `write`.

    draw: turns a Generation into one that draws where it should be done. texts, prompts: of a model that reads texts, its text encoder
    and what it is to show.
    """

    def __init__(
        self, config: FiguresConfig, codec: Codec, folder: Path, draw: Callable[[Generation], Painter] = lambda here: here,
        texts: Path | None = None, prompts: Prompts | None = None,
    ):  # fmt: skip
        self.config, self.folder, self.draw, self.texts, self.prompts = config, folder, draw, texts, prompts
        self.shown, self.row_labels = config.shown(prompts)
        self.device = own_device()
        self.codec = codec.to(self.device)
        self.judges = config.judges()
        self.measured: list[Measured] = []
        self.teacher: Measured | None = None
        self.teacher_rows: list[Row] = config.teacher_rows()
        self.student_rows: list[Row] = []
        self.grids: dict[str, Tensor] = {}

    def check(self, model: FamilyConfig) -> None:
        """Raise ValueError unless the judges know what such a model draws."""
        if self.judges is not None:
            classes = model.num_classes
            prompts = self.prompts if classes is None else Prompts.classes_in_turn(classes, classes)
            assert prompts is not None  # of a model that reads texts
            self.judges.check(model.image_size, prompts)

    def before(self, teacher: Backbone, loops: int) -> None:
        """Draw pictures and take the speed of the teacher; draw pictures of the student, still the teacher read in one step,
        and take its scores at a number of loops."""
        teacher = teacher.to(self.device)
        usual, batch = teacher.config.family.loops, self.config.batch
        generation = self.draw(Generation(teacher, self.codec, self.config.sampler, usual, batch, self.texts))
        self._draw("teacher", generation)
        self._measure("student before", teacher, loops, "before")
        if self.judges is not None and self.teacher_rows:
            # Its quality is known; its speed is compared with the student's, so both are timed in this run.
            row = best(self.teacher_rows)
            speed = images_per_second(generation.with_loops(row[LOOPS]), self._in_turn(teacher, self.config.batch))
            self.teacher = Measured.of(row | {SPEED.name: speed}, "teacher")
            self.measured.append(self.teacher)
            # The figures come from another time and perhaps another machine: what they know is how settings compare.
            factor = speed / row[SPEED.name]
            self.teacher_rows = [row | {SPEED.name: factor * row[SPEED.name]} for row in self.teacher_rows]

    def distilled(self, student: Backbone) -> None:
        """Take scores of a student that no stage follows at each number of loops, and those of the headline, beside pictures, at the fewest
        that are about as good as the best."""
        self._final("student after", student)

    def before_rl(self, student: Backbone, loops: int) -> None:
        """Draw pictures of the student that RL starts from, and take its scores at the number of loops that RL works with."""
        self._measure("student before RL", student, loops, "before_rl")

    def reinforced(self, student: Backbone, loops: int) -> None:
        """Take scores of the student after RL at each number of loops, and those of the headline, beside pictures, at the one that RL
        works with."""
        self._final("student after RL", student, loops)

    def _measure(self, name: str, model: Backbone, loops: int, when: str) -> None:
        """Draw pictures of a student, and take its scores, at one number of loops."""
        self._draw(name, self._student(model).with_loops(loops))
        if self.judges is not None:
            self.measured.append(Measured.of(self._headline(name, model, loops), "student", when))

    def _headline(self, name: str, model: Backbone, loops: int) -> Row:
        """Return the scores of images that nothing was chosen by."""
        return self._row(name, model, loops, self.config.seed + 1, self.config.sets)

    def _row(self, name: str, model: Backbone, loops: int, seed: int, sets: int) -> Row:
        """Return the scores of `sets` sets of a student's images; each has the classes, or prompts, in turn."""
        assert self.judges is not None  # who calls has seen to it
        prompts = self._in_turn(model, sets * self.config.samples)
        return measure(name, self._student(model).with_loops(loops), prompts, seed, self.judges, sets)[0]

    def _final(self, name: str, student: Backbone, made_for: int | None = None) -> None:
        """Take the final student's scores at each number of loops, and anew at the one that it was made for or, where no stage had one,
        at the fewest that are about as good as the best; draw its pictures there, without judges at the last of all."""
        c = self.config
        if self.judges is not None:
            self.student_rows = [self._row("student", student, loops, c.seed, c.loop_sets) for loops in c.loops]
            made_for = made_for or frugal(self.student_rows)[LOOPS]
            self.measured.append(Measured.of(self._headline("student", student, made_for), "student"))
        self._draw(name, self._student(student).with_loops(made_for or c.loops[-1]))

    def _summary(self, extra: dict[str, float]) -> dict[str, Any]:
        """Return all figures by name."""
        summary = {name: value for measured in self.measured for name, value in measured.flat().items()}
        if self.teacher is not None and self.student_rows:
            summary |= compare(self.measured[-1], self.student_rows, self.teacher)
        return summary | {"samples": self.config.samples, **extra}

    def write(self, config: dict[str, Any], stages: Iterable[Stage], extra: dict[str, float]) -> None:
        """Write summary.json, and what `show` writes."""
        self.show(config, stages, extra)
        write_json(self.folder / "summary.json", self._summary(extra) | {"loops": self._rows()})

    def show(self, config: dict[str, Any], stages: Iterable[Stage], extra: dict[str, float]) -> None:
        """Write report.html and its pictures, as far as the run has come: `stages` are those whose metrics lie in the folder."""
        summary, rows = self._summary(extra), self._rows()
        pictures = self._pictures(rows, stages)
        report.write_html(
            self.folder / "report.html", title="MARVAL run", summary=summary, rows=rows, pictures=pictures, config=config
        )

    def _rows(self) -> list[Row]:
        """Return the rows of both models, by the number of loops."""
        return sorted(self.teacher_rows + self.student_rows, key=itemgetter(LOOPS))

    def _pictures(self, rows: list[Row], stages: Iterable[Stage]) -> list[tuple[str, Path]]:
        """Draw the grids, the loops and each stage's curves; return captions and files."""
        grid, loops, frontier = (self.folder / f"{name}.png" for name in ("grid", "loops", "frontier"))
        report.save_comparison(grid, self.grids, self.config.per_class, self.row_labels)
        kind, kinds = ("class", "classes") if self.shown.labels is not None else ("prompt", "prompts")
        pictures = [(f"Same seeds and {kinds}, one row a {kind}.", grid)]
        if self.teacher_rows or self.student_rows[1:]:
            report.plot_loops(loops, rows)
            pictures.append(("Quality and speed against the number of auto-regressive loops.", loops))
            report.plot_frontier(frontier, rows, self.teacher.speed if self.teacher else 1.0)
            pictures.append(("Quality against speed; the numbers are those of loops.", frontier))
        looks = read_looks(self.folder)
        if looks:
            labels = self.row_labels[: min(map(len, looks.values()))]  # a look may show fewer classes than the grids, or more
            named = {f"{step}": images[: len(labels)] for step, images in looks.items()}
            report.save_comparison(self.folder / "looks.png", named, 1, labels)
            pictures.append(("What the guard saw: the same seeds after so many updates of RL.", self.folder / "looks.png"))
        for stage in stages:
            groups = report.grouped(read_metrics(self.folder / stage.metrics))
            if groups:  # a single row has no curve
                report.plot_losses(self.folder / stage.plot, groups)
                pictures.append((stage.caption, self.folder / stage.plot))
        return pictures

    def _in_turn(self, model: Backbone, count: int) -> Prompts:
        return self.prompts.in_turn(count) if self.prompts is not None else Prompts.classes_in_turn(model.config.num_classes, count)

    def _student(self, model: Backbone) -> Painter:
        return self.draw(student_generation(model.to(self.device), self.codec, self.config.loops[-1], self.config.batch, self.texts))

    def _draw(self, name: str, painter: Painter) -> None:
        images = painter.images(self.shown.each(self.config.per_class), self.config.seed, progress=f"pictures: {name}")
        self.grids[name] = images
        path = self.folder / f"{name.replace(' ', '_')}.png"
        report.save_grid(path, images, self.config.per_class, self.row_labels)


def compare(headline: Measured, rows: list[Row], teacher: Measured) -> dict[str, Any]:
    """Compare with the teacher's best setting: FD and speed of the headline, and by how much the fastest student is faster whose FD
    is better beyond doubt."""
    both = [name for name in (FD.name, by_b(FD.name)) if name in teacher.scores]
    found: dict[str, Any] = {f"{name}_ratio": headline.scores[name] / teacher.scores[name] for name in both}
    found["speed_ratio"] = headline.speed / teacher.speed
    students = [*(Measured.of(row, "student") for row in rows), headline]
    ahead = [student for student in students if better(student.scores, teacher.scores, FD)]
    if ahead:
        fastest = max(ahead, key=attrgetter("speed"))
        found |= {"speed_up": fastest.speed / teacher.speed, "speed_up_n_ar": fastest.loops}
    return found
