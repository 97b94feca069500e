"""A model with all that it draws with, in one folder that may be moved and shared: a run's, an export's, the Hub's.

`config.json` and the weights beside it (`marval_ray.hub.layout`), `codec/`, `text_encoder/` of a model that reads texts, and of a student
`model_index.json` and the card, `README.md`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from marval_ray.families.base import FamilyConfig
from marval_ray.files.atomic import write_json
from marval_ray.files.storage import Storage
from marval_ray.files.text import read_json
from marval_ray.hub.layout import CONFIG, described

INDEX = "model_index.json"
CARD = "README.md"
CODEC = "codec"
TEXTS = "text_encoder"
CLASS = "MarvalPipeline"


@dataclass(frozen=True)
class Index:
    """What model_index.json says.

    loops: N_AR unless told otherwise. licence: None, and class_names, by label: empty, where nobody knows them.
    """

    loops: int
    licence: str | None = None
    class_names: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        write_json(folder / INDEX, {"_class_name": CLASS, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Read it. Raises ValueError when the folder has none, or that of another kind of pipeline."""
        path = folder / INDEX
        if not path.is_file():
            raise ValueError(f"{folder} has no {INDEX}, as older runs have none: `python jobs/export.py {folder} --to FOLDER` writes one")
        content = read_json(path)
        if content.pop("_class_name", None) != CLASS:
            raise ValueError(f"{path} is of another kind of pipeline: its _class_name is not {CLASS}")
        try:
            return cls(**content | {"class_names": tuple(content["class_names"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is not what jobs/export.py writes: {error}") from error


def index_beside(checkpoint: Path) -> Index | None:
    """Return what is told of the student at `checkpoint`, None of one without model_index.json. Raises ValueError as `Index.read` does."""
    return Index.read(checkpoint.parent) if (checkpoint.parent / INDEX).is_file() else None


def furnish(storage: Storage, config: FamilyConfig, codec: Path, texts: Path | None = None) -> None:
    """Put codec and text encoder, and the config.json that names them, into the folder of a model.

    codec: a file or a folder. texts: a folder, of a model that reads texts. Both fit `config`.
    """
    inside = CODEC if codec.is_dir() else f"{CODEC}/{codec.name}"
    storage.take(codec, inside)
    named = {"vae": f"./{inside}"}
    if texts is not None:
        storage.take(texts, TEXTS)
        named["texts"] = f"./{TEXTS}"
    write_json(storage.folder / CONFIG, described(config) | named)
    storage.push(CONFIG)
