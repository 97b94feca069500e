"""Export a student as one folder that may be moved, shared and put on the Hub: weights, codec, a model card with its figures.

    python jobs/export.py runs/demo --to models/mine
    python jobs/export.py runs/mar-b --to hub:somebody/marval-mar-b --licence mit --class-names imagenet.txt
    python jobs/sample.py --checkpoint models/mine/student.safetensors

`MarvalPipeline.from_pretrained("models/mine")` reads it, and so does every command.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from marval_ray import cli
from marval_ray.class_names import names_of
from marval_ray.config import check_loops
from marval_ray.files.text import read_json
from marval_ray.hub.exported import INDEX, Index, export
from marval_ray.hub.layout import load_model
from marval_ray.hub.upload import HUB, upload
from marval_ray.runs.card import card
from marval_ray.runs.students import student_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EMBEDDED_LICENCE = "mit"
"""Of Fashion-MNIST, on which the embedded teacher was trained."""


@dataclass(frozen=True)
class Config:
    run: tyro.conf.Positional[Path]
    """A run of jobs/distill.py, of which the newest student is taken, or a student's file."""
    to: str
    """A folder, or hub:OWNER/NAME, where the token of `hf auth login` is used."""
    vae: Path | None = None
    """The codec; by default the one that config.json names."""
    loops: int | None = None
    """N_AR that the pipeline draws with unless told otherwise; by default that of the run's final figures, else 64 or all tokens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    licence: str | None = None
    """Of the teacher's weights, which a student inherits, as the Hub spells it; needed unless the teacher is the embedded one."""
    class_names: Path | None = None
    """A text file with a name on each line; by default ImageNet's or the embedded ones, where they fit."""
    hub: str | None = None
    """Another address of the Hugging Face Hub, such as one of a company."""
    private: bool = False
    """Make a new repository on the Hub private."""
    overwrite: bool = False
    """Write over an export that is there."""


def main(config: Config) -> None:
    student = student_of(config.run)
    model = load_model(student).config
    told = read_json(student.parent / "config.json")
    summary = student.parent / "summary.json"
    figures = read_json(summary) if summary.exists() else {}
    loops = config.loops or figures.get("student_n_ar") or min(64, model.num_tokens)
    check_loops((loops,), "--loops")
    if loops > model.num_tokens:
        raise ValueError(f"--loops {loops} is more than the {model.num_tokens} tokens of an image")
    licence = config.licence or licence_of(told)
    index = Index(loops, licence, names(student, model.num_classes, config.class_names))
    if config.to.startswith(HUB):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), student, config, index, told, figures)
            print(upload(Path(folder), config.to.removeprefix(HUB), config.hub, config.private))
        return
    place = Path(config.to)
    if place.exists() and not (config.overwrite and (place / INDEX).exists()) and any(place.iterdir()):
        raise ValueError(f"{place} is not empty: name another folder, or --overwrite an export")
    write(place, student, config, index, told, figures)
    print(f"{place}: python jobs/sample.py --checkpoint {place}/student.safetensors")


def write(folder: Path, student: Path, config: Config, index: Index, told: dict[str, Any], figures: dict[str, Any]) -> None:
    export(student, config.vae, folder, index, DTYPES[config.dtype])
    (folder / "README.md").write_text(card(index, told, figures), encoding="utf-8")
    grid = student.parent / "grid.png"
    if grid.exists():
        shutil.copy(grid, folder / "grid.png")


def licence_of(told: dict[str, Any]) -> str:
    """Return the licence of a run's teacher, as far as it is known. Raises ValueError for others."""
    teacher = str(told.get("teacher", told.get("vae", "")))
    if teacher.startswith("embedded/"):
        return EMBEDDED_LICENCE
    raise ValueError(
        f"a student inherits the licence of its teacher, here {teacher or 'unknown'}: give it with --licence "
        "(`python jobs/fetch.py --list` has those of published ones)"
    )


def names(student: Path, num_classes: int | None, file: Path | None) -> tuple[str, ...]:
    """Return the class names, or none where nobody knows them."""
    if num_classes is None:
        return ()
    if file is not None:
        return names_of(student, num_classes, file)
    try:
        return names_of(student, num_classes)
    except ValueError:
        return ()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
