"""Latents of an encoding under way: parts in their order in a folder beside the file that they become."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from marval_ray.files.atomic import atomic_path
from marval_ray.files.latent_files import latents_writer

_PROGRESS = b"marval_ray.progress"


@dataclass(frozen=True)
class Progress:
    """images: done so far. bad: those of them that could not be encoded."""

    images: int = 0
    bad: int = 0


@dataclass(frozen=True)
class Parts:
    """Parquet files of latents in `folder`; each is written whole or not at all, so that a crash costs one at most."""

    folder: Path

    @classmethod
    def of(cls, out: Path) -> "Parts":
        """Return the parts that become `out`."""
        return cls(out.with_name(f"{out.name}.partial"))

    def progress(self) -> tuple[Progress, str]:
        """Tell how far the last part goes, and the digest that came with it."""
        files = self.files()
        if not files:
            return Progress(), ""
        noted = json.loads(pq.read_schema(files[-1]).metadata[_PROGRESS])
        return Progress(noted["images"], noted["bad"]), noted["digest"]

    def add(self, latents: pa.Table, progress: Progress, digest: str) -> None:
        """Write the latents that lead to `progress`; `digest` names what they are of."""
        noted = json.dumps({**asdict(progress), "digest": digest})
        with atomic_path(self.folder / f"{progress.images:012d}.parquet") as temporary:
            pq.write_table(latents.replace_schema_metadata({_PROGRESS: noted}), temporary, compression="zstd")

    def join(self, out: Path, group: int, schema: pa.Schema) -> Counter[int | str]:
        """Write all latents to `out` in groups of `group` rows, and remove the parts and their folder.

        Returns how many there are of each class, or prompt, which the last column holds.

        Raises ValueError when there are none.
        """
        classes: Counter[int | str] = Counter()
        with latents_writer(out, schema) as write:
            for table in self._groups(group, schema):
                write(table, group)
                classes.update(table.column(-1).to_pylist())
            if not classes:
                raise ValueError("no image could be encoded")
        shutil.rmtree(self.folder)
        return classes

    def _groups(self, group: int, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the latents in tables of whole row groups; the last one holds what is left."""
        rest = schema.empty_table()
        for file in self.files():
            table = pa.concat_tables([rest, pq.ParquetFile(file).read().cast(schema)])
            whole = len(table) - len(table) % group
            if whole:
                yield table.slice(0, whole)
            rest = table.slice(whole)
        if len(rest):
            yield rest

    def clear(self) -> None:
        """Forget all parts; who holds the folder's lock goes on holding it."""
        for file in self.files():
            file.unlink()

    def files(self) -> list[Path]:
        """Return the parts in their order."""
        return sorted(self.folder.glob("[0-9]*.parquet"))
