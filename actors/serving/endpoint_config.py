"""What is served and how: options of jobs/serve.py, `args` of a Serve config file."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from marval_ray.embedded import assets_index

KEY_VARIABLE = "MARVAL_API_KEY"


@dataclass(frozen=True)
class EndpointConfig:
    __pydantic_config__ = ConfigDict(extra="forbid")

    checkpoint: Path = assets_index.STUDENT
    """A run or an export, whose newest student is served, or a student's file; by default the embedded one."""
    vae: Path | None = None
    """Autoencoder: a diffusers folder, KL-16's file, or DC-HT's folder; by default the one that config.json names."""
    texts: Path | None = None
    """Text encoder of a model that reads texts: T5's folder; by default the one that config.json names."""
    classes: Path | None = None
    """A text file with the name of each class on a line; by default those of model_index.json, ImageNet's or the embedded models'."""
    name: str = "marval"
    """The model's id in the API."""
    steps: int | None = None
    """N_AR of requests that ask for none; by default that of model_index.json, else 16."""
    batch: int = 64
    """Most images that a replica draws at once."""
    queue: int = 256
    """Images that may wait for a replica beyond that; more are answered with 503."""
    deadline: float = 120.0
    """Seconds for a request."""
    min_replicas: int = 1
    max_replicas: int = 1
    """Replicas are added while each has more than `batch` images at once."""
    cpus: float = 1.0
    """Of a replica."""
    gpus: float = 0.0
    """Of a replica; may be a fraction."""
    threads: int = 0
    """CPU threads of a replica; 0 takes all of the machine's, more than its share when replicas have it together."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    key_file: Path | None = None
    """A file whose one line clients must send as bearer token. Without it the environment's MARVAL_API_KEY, if any."""
    origins: tuple[str, ...] = ()
    """Web origins that may call by CORS."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that clients reach it by, such as a proxy's, or *; localhost and addresses always are."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "queue", "deadline", "min_replicas"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0, got {value}")
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is less than min_replicas {self.min_replicas}")


def read_key(file: Path | None) -> str | None:
    """Read the API key: the one line of `file`, or the environment's. Raises ValueError unless an HTTP header can carry it."""
    source = file or KEY_VARIABLE
    try:
        key = file.read_text(encoding="utf-8-sig").rstrip("\r\n") if file else os.environ.get(KEY_VARIABLE)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--key-file {file} cannot be read as a line of text: {error}") from error
    if key is None:
        return None
    if not key.strip():
        raise ValueError(f"the API key in {source} is empty")
    if not all("!" <= character <= "~" for character in key):
        raise ValueError(f"the API key in {source} must be one line of ASCII letters, digits and signs without spaces: "
                         "an HTTP header carries nothing else")  # fmt: skip
    return key
