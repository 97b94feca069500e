"""Training masks and latents on disk."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from marval_ray.families.mar.masking import drop_labels, hidden_after_loops, mask_ratio, mask_tokens
from marval_ray.files.latent_files import write_latents
from marval_ray.files.latents import LatentDataset

SHAPE = (2, 3, 3)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mask_ratio_is_a_truncated_normal():
    generator = seeded(0)
    ratios = torch.tensor([mask_ratio("mar", generator) for _ in range(4000)])
    assert ratios.min() >= 0.7 and ratios.max() <= 1
    # N(1, 0.25^2) on [0.7, 1]: mean 1 - 0.25 (phi(0) - phi(1.2)) / (Phi(0) - Phi(-1.2)).
    below = 0.5 * math.erfc(1.2 / math.sqrt(2))
    mean = 1 - 0.25 * (1 - math.exp(-0.72)) / math.sqrt(2 * math.pi) / (0.5 - below)
    assert mean == pytest.approx(0.867, abs=1e-3)
    assert ratios.mean().item() == pytest.approx(mean, abs=0.005)
    share = (0.5 - 0.5 * math.erfc(0.6 / math.sqrt(2))) / (0.5 - below)  # above 0.85
    assert (ratios > 0.85).float().mean().item() == pytest.approx(share, abs=0.03)


def test_cosine_masks_hide_what_the_loops_of_sampling_find_hidden():
    generator, length, loops = seeded(0), 4096, 64
    trained = torch.tensor([mask_ratio("cosine", generator) for _ in range(20_000)])
    met = torch.tensor([length, *hidden_after_loops(length, loops)[:-1]]) / length
    for bound in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        share = (met <= bound).float().mean().item()
        assert (trained <= bound).float().mean().item() == pytest.approx(share, abs=1 / loops + 0.01)


@pytest.mark.parametrize("masking", ["mar", "cosine"])
@pytest.mark.parametrize("seed", range(3))
def test_masks_hide_the_ratio_rounded_up_and_split_the_positions(seed, masking):
    tokens, labels = torch.randn(6, 50, 2), torch.arange(6)
    context = mask_tokens(tokens, labels, masking, seeded(seed))
    assert context.hidden.shape[1] == math.ceil(50 * mask_ratio(masking, seeded(seed)))
    for positions in (context.hidden, context.known):
        assert (positions.diff(dim=1) > 0).all()
    everywhere = torch.cat([context.hidden, context.known], dim=1).sort(dim=1).values
    assert torch.equal(everywhere, torch.arange(50).expand(6, -1))
    assert context.known.shape[1] == 0 or not torch.equal(context.known[0], context.known[1])


def test_labels_are_dropped_to_the_null_class():
    labels = torch.arange(10).repeat(1000)
    dropped = drop_labels(labels, 10, 0.1, seeded(0))
    assert (dropped == 10).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(dropped[dropped != 10], labels[dropped != 10])


@pytest.fixture
def latents(tmp_path):
    """40 images in 8 row groups; an image's label is its number and its latent mean is filled with it."""
    numbers = np.arange(40)
    mean = np.broadcast_to(numbers[:, None, None, None], (40, *SHAPE)).astype(np.float32)
    path = tmp_path / "latents.parquet"
    write_latents(path, mean, np.zeros_like(mean), numbers, group=5)
    return path


def test_an_epoch_reads_each_image_once(latents):
    dataset = LatentDataset(latents, SHAPE)
    assert len(dataset) == 40
    batches = [dataset.batch(0, step, 8) for step in range(10)]
    assert all(torch.equal(x[:, 0, 0, 0], labels.float()) for x, labels in batches)
    epochs = [torch.cat([labels for _, labels in part]).tolist() for part in (batches[:5], batches[5:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(40)) and epochs[0] != epochs[1]


def test_a_batch_may_cross_the_end_of_an_epoch(latents):
    dataset = LatentDataset(latents, SHAPE)
    crossing = dataset.batch(0, 2, 16)[1]
    assert crossing.tolist() == [*dataset.batch(0, 4, 8)[1], *dataset.batch(0, 5, 8)[1]]


def test_batches_are_a_function_of_seed_and_step(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "latents.parquet"
    write_latents(path, rng.normal(size=(30, *SHAPE)), np.full((30, *SHAPE), 0.5), np.arange(30), group=10)
    straight, jumped = LatentDataset(path, SHAPE), LatentDataset(path, SHAPE)
    for step in range(3):
        straight.batch(3, step, 7)
    expected, got = straight.batch(3, 3, 7), jumped.batch(3, 3, 7)
    assert all(torch.equal(a, b) for a, b in zip(expected, got))
    assert not torch.equal(got[0], jumped.batch(4, 3, 7)[0])
    assert got[0].dtype == torch.float32 and got[1].dtype == torch.int64


def test_latents_are_posterior_samples(tmp_path):
    path = tmp_path / "latents.parquet"
    write_latents(path, np.full((500, *SHAPE), 2.0), np.full((500, *SHAPE), 0.5), np.zeros(500, int))
    samples, _ = LatentDataset(path, SHAPE).batch(0, 0, 500)
    assert samples.mean().item() == pytest.approx(2, abs=0.03) and samples.std().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_share_the_images(latents, world):
    shares = [LatentDataset(latents, SHAPE, rank, world).labels.tolist() for rank in range(world)]
    assert sorted(sum(shares, [])) == list(range(40))


def test_a_folder_of_files_is_one_dataset(tmp_path, latents):
    ones = np.ones((4, *SHAPE))
    write_latents(tmp_path / "more.parquet", ones, ones, np.full(4, 99))
    assert len(LatentDataset(tmp_path, SHAPE)) == 44


def test_fewer_row_groups_than_ranks_are_refused(latents):
    with pytest.raises(ValueError, match=r"8 row group\(s\), fewer than 9 ranks"):
        LatentDataset(latents, SHAPE, 0, 9)


@pytest.mark.parametrize("shape", [(2, 3, 4), (4, 3, 3)])
def test_another_latent_size_is_refused(latents, shape):
    with pytest.raises(ValueError, match=f"holds 18 values.* = {math.prod(shape)}"):
        LatentDataset(latents, shape)


def test_lists_of_no_fixed_size_are_refused(tmp_path):
    path = tmp_path / "ragged.parquet"
    pq.write_table(pa.table({"mean": [[0.0] * 18], "std": [[0.0] * 18], "label": [1]}), path)
    with pytest.raises(ValueError, match="no fixed size"):
        LatentDataset(path, SHAPE)


def test_missing_columns_are_named(tmp_path, latents):
    path = tmp_path / "without.parquet"
    pq.write_table(pq.read_table(latents).drop_columns(["std"]), path)
    with pytest.raises(ValueError, match=r"without.parquet lacks the column\(s\) \['std'\]"):
        LatentDataset(path, SHAPE)


def test_absent_and_damaged_files_are_named(tmp_path, latents):
    for place in (tmp_path / "absent.parquet", tmp_path / "absent"):
        with pytest.raises(ValueError, match="no Parquet file at .*absent"):
            LatentDataset(place, SHAPE)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no Parquet file at .*empty"):
        LatentDataset(empty, SHAPE)
    for name, content in (("cut", latents.read_bytes()[:-100]), ("text", b"not Parquet"), ("nothing", b"")):
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.parquet is not a readable Parquet file"):
            LatentDataset(path, SHAPE)
