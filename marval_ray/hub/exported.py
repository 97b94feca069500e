"""A student with all that it draws with, in one folder that may be moved and shared: model_index.json, weights, codec.

It is also a model of `marval_ray.hub.layout`, so every command reads it.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from marval_ray.files.atomic import write_json
from marval_ray.files.fit import save_weights
from marval_ray.files.text import read_json
from marval_ray.hub.layout import CONFIG, codec_beside, described, load_model

INDEX = "model_index.json"
CLASS = "MarvalPipeline"
WEIGHTS = "student"
CODEC = "codec"


@dataclass(frozen=True)
class Index:
    """What model_index.json says. loops: N_AR unless told otherwise; class_names: by label, empty where nobody knows them."""

    loops: int
    licence: str
    class_names: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        write_json(folder / INDEX, {"_class_name": CLASS, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Read it. Raises ValueError when the folder is not an exported student."""
        path = folder / INDEX
        if not path.is_file():
            raise ValueError(f"{folder} is no exported student: it has no {INDEX} (jobs/export.py writes one)")
        content = read_json(path)
        if content.pop("_class_name", None) != CLASS:
            raise ValueError(f"{path} is of another kind of pipeline: its _class_name is not {CLASS}")
        try:
            return cls(**content | {"class_names": tuple(content["class_names"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is not what jobs/export.py writes: {error}") from error


def index_beside(checkpoint: Path) -> Index | None:
    """Return what is told of the exported student at `checkpoint`, None of another checkpoint. Raises ValueError as `Index.read` does."""
    return Index.read(checkpoint.parent) if (checkpoint.parent / INDEX).is_file() else None


def weights_in(folder: Path) -> Path:
    """Return where an exported student's weights are. Raises ValueError when they are not there."""
    path = folder / f"{WEIGHTS}.safetensors"
    if not path.is_file():
        raise ValueError(f"{folder} has no {path.name}: fetch the whole of it")
    return path


def export(student: Path, codec: Path | None, folder: Path, index: Index, dtype: torch.dtype) -> None:
    """Write the student at `student`, and its codec, into `folder`. Raises ValueError when they do not fit each other."""
    model, codec = load_model(student), codec or codec_beside(student)
    config = model.config
    config.family.codec(codec, config)
    inside = CODEC if codec.is_dir() else f"{CODEC}/{codec.name}"
    if codec.is_dir():
        shutil.copytree(codec, folder / CODEC, dirs_exist_ok=True)
    else:
        (folder / CODEC).mkdir(parents=True, exist_ok=True)
        shutil.copy(codec, folder / inside)
    save_weights(folder / f"{WEIGHTS}.safetensors", model.state_dict(), dtype)
    write_json(folder / CONFIG, {**described(config), "vae": f"./{inside}"})
    index.write(folder)
