"""FID, sFID, IS, KID, precision and recall against torch-fidelity and NumPy, with Inception's network in random weights."""

import numpy as np
import pytest
import torch
from small import write_inception
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from marval_ray.evaluation.adm import KnownGaussian, Reference
from marval_ray.evaluation.inception import Inception, InceptionFeatures
from marval_ray.evaluation.inception_figures import inception_figures
from marval_ray.evaluation.inception_score import ScoreSums, chunks_of
from marval_ray.evaluation.kernel import kernel_distance_of_subsets
from marval_ray.evaluation.moments import Moments
from marval_ray.evaluation.precision_recall import precision, recall


def features(count: int, seed: int) -> InceptionFeatures:
    """Positive and skewed, as those after a ReLU are; of few directions, so that moments of few images mean something."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(30, 2048, generator=torch.Generator().manual_seed(0)) / 5
    pooled = (torch.randn(count, 30, generator=generator) @ mixing + 0.4 + 0.05 * seed).relu()
    spatial = pooled[:, :2023] ** 2
    return InceptionFeatures(pooled, spatial, 3 * pooled[:, :1008] @ torch.eye(1008))


def parts(whole: InceptionFeatures, *sizes: int) -> list[InceptionFeatures]:
    columns = zip(*(part.split(sizes) for part in (whole.pooled, whole.spatial, whole.logits)))
    return [InceptionFeatures(*column) for column in columns]


def reference(real: InceptionFeatures) -> Reference:
    return Reference(*(KnownGaussian(x.double().mean(0), x.double().T.cov()) for x in (real.pooled, real.spatial)), images=None)


OPTIONS = {
    "kid_subsets": 4, "kid_subset_size": 200, "kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_coef0": 1,
    "kid_kernel_poly_gamma": None, "rng_seed": 2020, "prc_neighborhood": 3, "prc_batch_size": 500, "save_cpu_ram": False, "verbose": False,
}  # fmt: skip


def test_figures_of_parts_are_those_of_torch_fidelity():
    real, samples = features(400, 1), features(503, 2)
    found = inception_figures(parts(samples, 200, 1, 302), 503, reference(real), real.pooled)
    theirs = isc_features_to_metric(samples.logits)
    assert found["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert found["inception_score_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-6)
    near = prc_features_to_metric(samples.pooled, real.pooled, **OPTIONS)
    assert [found["precision"], found["recall"]] == pytest.approx([near["precision"], near["recall"]], rel=1e-3)
    assert 0.05 < found["recall"] < 0.95 and 0.05 < found["precision"] < 0.95
    assert found["kid"] is None  # of subsets of 1,000


def test_the_kernel_distance_is_that_of_torch_fidelity():
    real, samples = features(400, 1).pooled, features(503, 2).pooled
    theirs = kid_features_to_metric(samples.double(), real.double(), **OPTIONS)
    found = kernel_distance_of_subsets(real, samples, subsets=4, size=200)
    assert found[0] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert found[1] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-4)


def test_the_distance_is_that_of_the_root_of_the_product():
    """ADM's formula, with the complex root by the eigenvalues of C_a C_b that NumPy finds."""
    real, samples = features(300, 1), features(280, 2)
    found = inception_figures(parts(samples, 280), 280, reference(real), None)
    for name, a, b in (("fid", real.pooled, samples.pooled), ("sfid", real.spatial, samples.spatial)):
        a, b = a.double().numpy(), b.double().numpy()
        # Of the few directions in which the features vary: others have no part in it.
        basis = np.linalg.qr(np.concatenate([a - a.mean(0), b - b.mean(0)]).T)[0]
        first, second = (np.cov(x @ basis, rowvar=False) for x in (a, b))
        root = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).sum().real
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + first.trace() + second.trace() - 2 * root
        assert found[name] == pytest.approx(expected, rel=1e-3)
    assert {"precision", "recall", "kid"}.isdisjoint(found)


def test_moments_of_parts_are_those_of_the_whole():
    whole = 1e3 + torch.randn(700, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    merged = Moments.merged([Moments.of(part) for part in whole.split([1, 350, 340, 9])])
    assert torch.allclose(merged.mean, whole.mean(0), rtol=1e-14) and torch.allclose(merged.covariance, whole.T.cov(), rtol=1e-11)


def test_chunks_of_the_score_are_even_and_shuffled():
    chunks = chunks_of(1_003)
    assert chunks.bincount().tolist() == [100, 100, 100, 101, 100, 100, 101, 100, 100, 101]
    assert chunks[:100].unique().numel() == 10
    sums = ScoreSums.of(torch.eye(3).repeat(2, 1) * 100, torch.tensor([0, 1, 2, 3, 4, 5]))
    assert sums.score()[0] != sums.score()[0]  # empty chunks


def test_too_few_images_for_subsets():
    few = torch.rand(50, 4)
    assert kernel_distance_of_subsets(few, few)[0] != kernel_distance_of_subsets(few, few)[0]
    assert precision(few, few) == recall(few, few) == 1


def test_the_network_gives_what_torch_fidelity_and_adm_look_at(tmp_path):
    weights = write_inception(tmp_path / "inception.pth")
    inception = Inception.load(weights)
    pixels = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = inception(pixels)
    pooled, logits = inception.network(pixels)
    assert torch.equal(found.pooled, pooled) and torch.equal(found.logits, logits)
    assert found.pooled.std() > 0.01 and found.logits.std() > 0.01
    assert found.spatial.shape == (3, 2023) and (found.spatial >= 0).all() and found.spatial.std() > 0.01
    found.save(tmp_path / "part.safetensors")
    assert torch.equal(InceptionFeatures.load(tmp_path / "part.safetensors").spatial, found.spatial)
    grey = pixels[:, :1]
    assert torch.equal(inception(grey).pooled, inception(grey.repeat(1, 3, 1, 1)).pooled)


def test_wrong_files_are_refused_by_name(tmp_path):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth does not hold the weights of torch-fidelity's Inception"):
        Inception.load(tmp_path / "other.pth")
    np.savez(tmp_path / "small.npz", mu=np.zeros(64), sigma=np.eye(64))
    np.savez(tmp_path / "flat.npz", mu=np.zeros(2048), sigma=np.zeros(2048))
    np.savez(tmp_path / "mean.npz", mu=np.zeros(2048))
    np.savez(tmp_path / "nan.npz", mu=np.full(2048, np.nan), sigma=np.zeros((2048, 2048), np.float32))
    np.savez(tmp_path / "four.npz", np.zeros((2, 8, 8, 4), np.uint8), mu=np.zeros(2048), sigma=np.zeros((2048, 2048), np.float32))
    np.savez(tmp_path / "pictures.npz", np.zeros((2, 8, 8, 3), np.uint8))
    (tmp_path / "text.npz").write_text("no archive")
    for name, said in (
        ("small", r"mu is \(64,\) .* statistics of other features"), ("pictures", "has arr_0: reference statistics have `mu`"),
        ("flat", r"mu is \(2048,\) and sigma \(2048,\)"), ("mean", "has mu: reference statistics have `mu` and `sigma`"),
        ("nan", "mu and sigma are not finite numbers"), ("four", "uint8 .N, H, W, C. with C 1 or 3 fits"),
        ("text", "is not an .npz of reference statistics"), ("absent", "there are no reference statistics at .*jobs/fetch.py"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            Reference.load(tmp_path / f"{name}.npz")
