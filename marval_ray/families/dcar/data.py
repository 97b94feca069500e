"""DC-AR's data of stage 1: codes, residuals and prompts of real images in Parquet; some codes and all residuals are hidden."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from marval_ray.families.base import Conditioner
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.context import DCARContext
from marval_ray.families.dcar.masking import training_mask
from marval_ray.files.encoding import Encoding, check_encoding
from marval_ray.files.order import Order
from marval_ray.types import Prompts

CODES, VALUES, PROMPT = "codes", "values", "prompt"


def data_schema(tokens: int, channels: int, metadata: dict[bytes | str, bytes | str] | None = None) -> pa.Schema:
    """Return the columns: a code and `channels` values for each token, row by row, values being scaled residuals, and a text."""
    return pa.schema(
        {CODES: pa.list_(pa.int16(), tokens), VALUES: pa.list_(pa.float16(), tokens * channels), PROMPT: pa.string()}, metadata
    )


class MaskedCodes:
    """One rank's share of the data at `path`, in memory: the row groups rank, rank + world, ...

    Raises ValueError as `open_data` does, when there are fewer row groups than ranks, and when values are not finite.
    """

    def __init__(self, path: Path, config: DCARConfig, rank: int, world: int, conditioner: Conditioner):
        groups = [(file, index) for file in open_data(path, config) for index in range(file.num_row_groups)]
        if len(groups) < world:
            raise ValueError(f"{path} has {len(groups)} row group(s), fewer than {world} ranks: write smaller ones")
        table = pa.concat_tables(file.read_row_group(index, columns=[CODES, VALUES, PROMPT]) for file, index in groups[rank::world])
        self.codes, self.values = _rows(table, CODES), _rows(table, VALUES)
        if not np.isfinite(self.values).all():
            raise ValueError(f"{path} has numbers in `{VALUES}` that are not finite")
        self.prompts, self.config, self.conditioner = table[PROMPT], config, conditioner
        self.order = Order(len(table), rank)

    def batch(self, seed: int, step: int, size: int, generator: torch.Generator, drop: float = 0.0) -> DCARContext:
        """Return batch number `step`; `generator` draws which codes are hidden, by DC-AR's own law, and which images lose their text."""
        c, rows = self.config, self.order.batch(seed, step, size)
        codes, values = (torch.from_numpy(part[rows]) for part in (self.codes, self.values))
        masked = training_mask(torch.rand(size, generator=generator), torch.rand(size, c.num_tokens, generator=generator))
        text = self.conditioner(Prompts(tuple(self.prompts.take(pa.array(rows)).to_pylist()))).to("cpu")
        context = DCARContext.of(codes.long(), masked, text, values.float().unflatten(1, (c.num_tokens, c.token_channels)))
        return replace(context, left_out=torch.rand(size, generator=generator) < drop)


def check_data(path: Path, config: DCARConfig, codec: str | None = None) -> None:
    """Raise ValueError unless `MaskedCodes` can read `path`. codec: id of the tokenizer that will decode.

    All but the values are looked at; NaN shows when these are read.
    """
    shape = (config.token_channels, config.side, config.side)
    for name, file in zip(data_paths(path), open_data(path, config)):
        check_encoding(name, file.schema_arrow, shape, codec)
        _check_scale(name, file.schema_arrow, config)
        if not file.metadata.num_rows:
            raise ValueError(f"{name} holds no images")
        for index in range(file.num_row_groups):
            _check_rows(f"{name}: row group {index}", file.read_row_group(index, columns=[CODES, PROMPT]), config)


def data_paths(path: Path) -> list[Path]:
    """Return `path` itself or, of a folder, its Parquet files in the order of their names. Raises ValueError when there are none."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise ValueError(f"no Parquet file at {path}: jobs/encode.py writes one from images with prompts")
    return files


def open_data(path: Path, config: DCARConfig) -> list[pq.ParquetFile]:
    """Open the files at `path`. Raises ValueError unless they have the columns of DC-AR's data in the model's sizes."""
    files, needed = [], data_schema(config.num_tokens, config.token_channels)
    for name in data_paths(path):
        try:
            file = pq.ParquetFile(name)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{name} is not a readable Parquet file: {error}") from error
        found = file.schema_arrow
        for field in needed:
            kind = found.field(field.name).type if field.name in found.names else "absent"
            if kind != field.type:
                raise ValueError(f"{name}: `{field.name}` is {kind}, this model needs {field.type}: encode anew, with its --vae and --size")
        files.append(file)
    return files


def _check_scale(name: Path, schema: pa.Schema, config: DCARConfig) -> None:
    encoding = Encoding.of(schema)
    if encoding and not np.isclose(encoding.scale[0] * config.residual_scale, 1, rtol=1e-4):
        raise ValueError(f"{name} has residuals divided by {1 / encoding.scale[0]:.4g}, this model has {config.residual_scale:.4g}")


def _check_rows(name: str, table: pa.Table, config: DCARConfig) -> None:
    codes = pc.list_flatten(table[CODES])
    missing = table[CODES].null_count + codes.null_count + table[PROMPT].null_count
    if missing:
        raise ValueError(f"{name} has {missing} missing value(s) in `{CODES}` or `{PROMPT}`")
    lowest, highest = pc.min_max(codes).as_py().values()
    if lowest < 0 or highest >= config.num_codes:
        raise ValueError(f"{name} has codes {lowest} to {highest}, the model's are 0 to {config.num_codes - 1}")


def _rows(table: pa.Table, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
