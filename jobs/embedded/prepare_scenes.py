"""Draw scenes of emoji: train.parquet, test.parquet (other pictures) and held-out.parquet (other combinations).

Columns, as Hugging Face `datasets` knows them: `image` (PNG), `prompt`, `object`, `count`, `side`, `background`, and `label`, the
number of the object. Prompts are phrased in several ways in train.parquet, in one way in the other two.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from marval_ray import cli
from marval_ray.config import check_at_least, check_seed
from marval_ray.files.atomic import atomic_path
from marval_ray.files.images import encode_png
from marval_ray.scenes.drawing import draw
from marval_ray.scenes.scene import Split
from marval_ray.scenes.sprites import sprites

TEXT, NUMBER = {"_type": "Value", "dtype": "string"}, {"_type": "Value", "dtype": "int64"}
GROUP = 500
"""Rows of a row group."""


@dataclass(frozen=True)
class Config:
    out: Path = Path("data/scenes")
    train: int = 50000
    """Pictures in train.parquet; `test` and `held_out` are those in the other two."""
    test: int = 5000
    held_out: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_at_least(1, self, "train", "test", "held_out", prefix="--")


def main(config: Config) -> None:
    write(config.out / "train.parquet", config.seed, range(config.train), "train", phrased=True)
    write(config.out / "test.parquet", config.seed, range(config.train, config.train + config.test), "train")
    write(config.out / "held-out.parquet", config.seed, range(config.held_out), "held-out")


def write(path: Path, seed: int, indices: range, split: Split, phrased: bool = False) -> None:
    """Write the scenes `indices` of a split."""
    labels = {name: label for label, name in enumerate(sprites())}
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema(), compression="zstd") as file:
        for first in tqdm(range(0, len(indices), GROUP), desc=path.name):
            rows = [row(seed, index, split, phrased, labels) for index in indices[first : first + GROUP]]
            file.write_table(pa.Table.from_pylist(rows, schema()))
    print(f"{path}: {len(indices)} scenes, {path.stat().st_size / 1e6:.0f} MB")


def row(seed: int, index: int, split: Split, phrased: bool, labels: dict[str, int]) -> dict[str, Any]:
    scene, picture, prompt = draw(seed, index, split)
    said = {"prompt": prompt if phrased else scene.prompt(), "label": labels[scene.object]}
    return {"image": {"bytes": encode_png(picture), "path": None}} | said | asdict(scene)


def schema() -> pa.Schema:
    """Return the columns, with what `datasets` notes of them."""
    image, text, number = pa.struct({"bytes": pa.binary(), "path": pa.string()}), pa.string(), pa.int64()
    columns = {"image": image, "prompt": text, "object": text, "count": number, "side": text, "background": text, "label": number}
    values = {name: TEXT if column == text else NUMBER for name, column in columns.items()}
    features = values | {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(sprites())}}
    return pa.schema(columns).with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
