"""Latents in Arrow's format, which is mapped, against the same in Parquet and against all rows in memory."""

import mmap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import refuse, succeed

from marval_ray.files.latent_files import latents_schema, open_latents, write_latents
from marval_ray.files.latents import LatentDataset, check_latents

SHAPE, GROUP, COUNT = (2, 3, 3), 5, 43
SIZE = 18
JOB = "jobs/map_latents.py"


@pytest.fixture
def both(tmp_path):
    """The same latents as Parquet and as Arrow, each in a folder of its own; the last of nine groups is smaller."""
    random = np.random.default_rng(0)
    mean, std = random.normal(size=(COUNT, *SHAPE)), random.uniform(size=(COUNT, *SHAPE))
    for suffix in ("parquet", "arrow"):
        write_latents(tmp_path / suffix / f"latents.{suffix}", mean, std, np.arange(COUNT) % 3, GROUP)
    return tmp_path / "parquet/latents.parquet", tmp_path / "arrow/latents.arrow"


def reference(path, seed, step, size, rank, world):
    """Batch `step` from all rows of a rank's row groups, as one table."""
    file = pq.ParquetFile(path)
    table = pa.concat_tables([file.read_row_group(group) for group in range(rank, file.num_row_groups, world)]).combine_chunks()
    count = len(table)
    permutations = [np.random.default_rng((seed, epoch, rank, 0)).permutation(count) for epoch in range((step + 1) * size // count + 1)]
    rows = [permutations[place // count][place % count] for place in range(step * size, (step + 1) * size)]
    mean, std = (torch.tensor(np.array(table[name].to_pylist()))[rows].float().reshape(-1, *SHAPE) for name in ("mean", "std"))
    noise = np.random.default_rng((seed, step, rank, 1)).standard_normal(mean.shape, dtype=np.float32)
    return mean + std * torch.from_numpy(noise), torch.from_numpy(table["label"].to_numpy()[rows])


@pytest.mark.parametrize("world", [1, 2, 3, 9])
def test_batches_are_those_of_all_rows_in_memory_bit_for_bit(both, world):
    for path in both:
        for rank in range(world):
            dataset = LatentDataset(path, SHAPE, rank, world)
            for seed, step, size in [(0, 0, 7), (0, 1, 7), (0, 2, 7), (0, 9, 7), (0, 10, 4), (1, 11, 4), (1, 12, 4)]:
                expected = reference(both[0], seed, step, size, rank, world)
                assert all(torch.equal(a, b) for a, b in zip(dataset.batch(seed, step, size), expected))


def test_arrow_is_mapped_and_parquet_is_not(both):
    parquet, arrow = (LatentDataset(path, SHAPE).groups for path in both)
    assert all(group.memory is None for group in parquet)
    for group in arrow:
        assert isinstance(group.memory, mmap.mmap)
        whole = np.frombuffer(group.memory, np.uint8)
        assert np.shares_memory(group.mean, whole) and np.shares_memory(group.std, whole)


def test_both_formats_pass_and_fail_the_same_checks(both):
    for path in both:
        check_latents(path, SHAPE, 3)
        with pytest.raises(ValueError, match="14 of 43 labels are outside the model's classes 0-1"):
            check_latents(path, SHAPE, 2)
        with pytest.raises(ValueError, match="`mean` holds 18 values an image, this model needs"):
            check_latents(path, (2, 3, 4), 3)


def test_a_folder_with_both_formats_is_refused(both, tmp_path):
    both[1].rename(tmp_path / "parquet/latents.arrow")
    with pytest.raises(ValueError, match="in Parquet and in Arrow: keep one kind"):
        LatentDataset(tmp_path / "parquet", SHAPE)


def rewritten(path, vectors=None, labels=None, **options):
    """An Arrow file with other columns, in groups of ten."""
    table = open_latents(path).reader.read_all().combine_chunks()
    path.unlink()  # it is mapped, so that it must not be changed in place
    columns = {"mean": table["mean"] if vectors is None else vectors, "std": table["std"]}
    columns["label"] = table["label"] if labels is None else labels
    table = pa.table(columns)
    with pa.ipc.new_file(str(path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table.combine_chunks(), 10)


def test_compressed_arrow_is_refused(both):
    rewritten(both[1], compression="zstd")
    with pytest.raises(ValueError, match="latents.arrow is compressed, so that it cannot be mapped"):
        LatentDataset(both[1], SHAPE)


@pytest.mark.parametrize("inner", [True, False])
def test_missing_values_are_counted(both, inner):
    rows = [[0.0] * SIZE for _ in range(COUNT)]
    rows[25] = [None, *[0.0] * (SIZE - 1)] if inner else None
    rewritten(both[1], vectors=pa.array(rows, pa.list_(pa.float16(), SIZE)))
    with pytest.raises(ValueError, match="latents.arrow: row group 2 has [0-9]+ missing .* in `mean`"):
        check_latents(both[1], SHAPE, 3)


def test_missing_labels_are_counted(both):
    rewritten(both[1], labels=pa.array([0] * (COUNT - 1) + [None]))
    with pytest.raises(ValueError, match="latents.arrow: row group 4 has 1 missing .* in `label`"):
        check_latents(both[1], SHAPE, 3)


def test_numbers_that_are_not_finite_are_named_when_they_are_drawn(both):
    values = np.ones((COUNT, SIZE), np.float16)
    values[25, 3] = np.inf
    rewritten(both[1], vectors=pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), SIZE))
    dataset = LatentDataset(both[1], SHAPE)
    with pytest.raises(ValueError, match="latents.arrow: row group 2 has numbers in `mean` that are not finite"):
        for step in range(COUNT):
            dataset.batch(0, step, 1)
    assert step == list(np.random.default_rng((0, 0, 0, 0)).permutation(COUNT)).index(25)  # not before


@pytest.mark.parametrize("content", [b"", b"not Arrow", b"ARROW1\0\0" + bytes(100), "cut"])
def test_damaged_files_are_named(both, content):
    both[1].write_bytes(both[1].read_bytes()[:-100] if content == "cut" else content)
    with pytest.raises(ValueError, match="latents.arrow is not a readable Arrow file"):
        LatentDataset(both[1], SHAPE)


def test_an_empty_file_is_refused(tmp_path):
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), latents_schema(4)):
        pass
    with pytest.raises(ValueError, match="a.arrow holds no latents"):
        check_latents(tmp_path / "a.arrow", (1, 2, 2), 3)


def test_parquet_becomes_arrow_with_the_same_groups_and_metadata(both, tmp_path):
    table = pq.read_table(both[0]).replace_schema_metadata({"marval_ray.codec": "0123"})
    pq.write_table(table.append_column("extra", table["label"]).select(["extra", "label", "std", "mean"]), both[0], row_group_size=7)
    succeed(JOB, "--latents", both[0], "--out", tmp_path / "new/mapped.arrow")
    made, source = open_latents(tmp_path / "new/mapped.arrow"), pq.ParquetFile(both[0])
    assert made.reader.read_all().equals(table) and made.schema.metadata == table.schema.metadata
    assert [len(made.group(index).labels) for index in range(made.groups)] == [7, 7, 7, 7, 7, 7, 1]
    assert made.groups == source.num_row_groups
    assert "mapped.arrow exists already" in refuse(JOB, "--latents", both[0], "--out", tmp_path / "new/mapped.arrow")
    assert "must end in .arrow" in refuse(JOB, "--latents", both[0], "--out", tmp_path / "mapped.parquet")


def test_a_folder_of_parquet_becomes_a_folder(both, tmp_path):
    succeed(JOB, "--latents", both[0].parent, "--out", tmp_path / "mapped")
    assert [path.name for path in (tmp_path / "mapped").iterdir()] == ["latents.arrow"]
