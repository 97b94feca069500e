"""Export a student from a run: its folder without checkpoints, metrics and settings, in another type, or on the Hub.

    python jobs/export.py runs/demo --to models/mine
    python jobs/export.py runs/mar-b --to hub:somebody/marval-mar-b --licence mit --class-names imagenet.txt
    python jobs/export.py runs/old --to runs/new      # a run of an older version, or a checkpoint, in today's format

`MarvalPipeline.from_pretrained("models/mine")` reads it, and so does every command with `--checkpoint models/mine`.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from marval_ray import cli
from marval_ray.class_names import known_names, names_of
from marval_ray.config import check_loops
from marval_ray.families.base import Backbone, FamilyConfig
from marval_ray.files.fit import save_weights
from marval_ray.files.storage import Storage
from marval_ray.hub.exported import INDEX, Index, furnish, index_beside
from marval_ray.hub.layout import codec_beside, load_model, texts_beside
from marval_ray.hub.upload import HUB, upload
from marval_ray.runs.card import index_of, present, told_in
from marval_ray.runs.folder import SETTINGS
from marval_ray.runs.stage import STUDENT
from marval_ray.runs.students import student_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Config:
    run: tyro.conf.Positional[Path]
    """A run of jobs/distill.py or an export, whose newest student is taken, or a student's file."""
    to: str
    """A folder, or hub:OWNER/NAME, where the token of `hf auth login` is used."""
    vae: Path | None = None
    """The codec; by default the one that config.json names."""
    texts: Path | None = None
    """Text encoder of a model that reads texts; by default the one that config.json names."""
    loops: int | None = None
    """N_AR that the pipeline draws with unless told otherwise; by default that of model_index.json, else the model's own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    licence: str | None = None
    """Of the teacher's weights, which a student inherits, as the Hub spells it; the Hub needs it unless the teacher is the embedded one."""
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
    model = load_model(student)
    codec = config.vae or codec_beside(student)
    model.config.family.codec(codec, model.config)  # one that does not fit is refused before anything is written
    texts = config.texts or texts_beside(student)
    model.config.family.conditioner(model.config, model.device, texts)  # so is a text encoder
    index = index_for(student, model.config, config)
    if config.to.startswith(HUB):
        check_licence(index, student)
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), student, model, codec, texts, index, config.dtype)
            print(upload(Path(folder), config.to.removeprefix(HUB), config.hub, config.private))
        return
    place = Path(config.to)
    overwritten = config.overwrite and (place / INDEX).exists() and not (place / SETTINGS).exists()
    if place.exists() and not overwritten and any(place.iterdir()):
        raise ValueError(f"{place} is not empty: name another folder, or --overwrite an export")
    write(place, student, model, codec, texts, index, config.dtype)
    print(f"{place}: python jobs/sample.py --checkpoint {place}")


def index_for(student: Path, model: FamilyConfig, config: Config) -> Index:
    """Return what the student's folder says, or what a run tells that has none yet, under what the options say."""
    index = index_beside(student) or index_of(student.parent, min(model.family.loops, model.num_tokens))
    loops = config.loops or index.loops
    check_loops((loops,), "--loops")
    if loops > model.num_tokens:
        raise ValueError(f"--loops {loops} is more than the {model.num_tokens} tokens of an image")
    return Index(loops, config.licence or index.licence, names(student, model.num_classes, config.class_names))


def check_licence(index: Index, student: Path) -> None:
    """Raise ValueError unless the licence of what is shared is known."""
    if index.licence is None:
        teacher = told_in(student.parent).get("teacher", "unknown")
        raise ValueError(
            f"a student inherits the licence of its teacher, here {teacher}: give it with --licence "
            "(`python jobs/fetch.py --list` has those of published ones)"
        )


def write(folder: Path, student: Path, model: Backbone, codec: Path, texts: Path | None, index: Index, dtype: str) -> None:
    """Write what a run's folder has of the model, and nothing of the run."""
    furnish(Storage(None, folder), model.config, codec, texts)
    save_weights(folder / STUDENT, model.state_dict(), DTYPES[dtype])
    present(folder, index, student.parent)
    grid = student.parent / "grid.png"
    if grid.exists():
        shutil.copy(grid, folder / grid.name)


def names(student: Path, num_classes: int | None, file: Path | None) -> tuple[str, ...]:
    """Return the class names, or none where nobody knows them."""
    if num_classes is None:
        return ()
    return names_of(student, num_classes, file) if file else known_names(student, num_classes)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
