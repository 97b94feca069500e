"""Write latents in Parquet again as Arrow, which learners map instead of reading their share into memory.

    python jobs/map_latents.py --latents latents.parquet --out latents.arrow

Row groups stay as they are, so a run draws from either the same batches. A folder of files becomes a folder.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from marval_ray import cli
from marval_ray.files.latent_files import ARROW, COLUMNS, LatentFile, latent_paths, latents_table, latents_writer, open_latents


@dataclass(frozen=True)
class Config:
    latents: Path
    """A Parquet file of latents, or a folder of them."""
    out: Path
    """NAME.arrow, or a folder. There must be room for four bytes a value: 42 GB for ImageNet with mirror images."""


def main(config: Config) -> None:
    sources = latent_paths(config.latents)
    outs = [config.out / source.with_suffix(ARROW).name for source in sources] if config.latents.is_dir() else [config.out]
    check_outs(config, outs)
    files = [open_latents(source) for source in sources]
    with tqdm(desc="row groups", total=sum(file.groups for file in files), mininterval=5) as bar:
        for file, out in zip(files, outs):
            write_mapped(file, out, bar)
    print(f"{config.out}: {sum(out.stat().st_size for out in outs) / 1e9:.2f} GB")


def check_outs(config: Config, outs: list[Path]) -> None:
    for out in outs:
        if out.suffix != ARROW:
            raise ValueError(f"--out {out} must end in {ARROW}")
        if out.exists():
            raise ValueError(f"{out} exists already: choose another --out")


def write_mapped(file: LatentFile, out: Path, bar: tqdm) -> None:
    """Write the groups of `file` one for one. Raises ValueError when numbers are not finite."""
    schema = pa.schema([file.schema.field(name) for name in COLUMNS], file.schema.metadata)
    with latents_writer(out, schema) as write:
        for index in range(file.groups):
            group = file.group(index)
            write(latents_table(schema, group.mean, group.std, group.labels), len(group.labels))
            bar.update()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
