"""Scores against closed forms, and of real images."""

import math
from pathlib import Path

import pytest
import torch

from marval_ray.embedded import assets_index
from marval_ray.evaluation.evaluators import load_evaluator
from marval_ray.evaluation.frechet import frechet_distance
from marval_ray.evaluation.kernel import kernel_distance
from marval_ray.evaluation.precision_recall import recall
from marval_ray.evaluation.statistics import Statistics, within_class_distance
from marval_ray.files.images import crop_to, pad_to, read_images, to_pixels, to_tensor
from marval_ray.files.places import portable, resolve
from marval_ray.hub.layout import load_model
from marval_ray.presets import MODELS
from marval_ray.source import parse_labels
from marval_ray.types import Prompts


def moments(mean: list[float], covariance: list[list[float]]) -> Statistics:
    return of_moments(torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64))


def of_moments(mean: torch.Tensor, covariance: torch.Tensor) -> Statistics:
    return Statistics(mean, covariance, 1.0, torch.empty(0, len(mean)), None)


def test_frechet_distance_of_two_gaussians():
    """Commuting covariances: |m_a - m_b|^2 + sum (s_a - s_b)^2 over common axes."""
    angle = torch.tensor(0.7, dtype=torch.float64)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    a = of_moments(torch.tensor([1.0, 0.0]).double(), turn @ torch.diag(torch.tensor([4.0, 9.0]).double()) @ turn.T)
    b = of_moments(torch.tensor([0.0, 2.0]).double(), turn @ torch.diag(torch.tensor([1.0, 16.0]).double()) @ turn.T)
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 4) ** 2)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute():
    """tr (A B)^(1/2) of two by two matrices: sqrt(tr(AB) + 2 sqrt(det(AB)))."""
    a, b = moments([0, 0], [[2, 1], [1, 3]]), moments([0, 0], [[4, -1], [-1, 1]])
    product = a.covariance @ b.covariance
    root = math.sqrt(product.trace() + 2 * math.sqrt(torch.det(product)))
    assert frechet_distance(a, b) == pytest.approx(5 + 5 - 2 * root)


def test_within_class_distance_weighs_classes_equally():
    features = torch.tensor([[0.0], [2.0], [10.0], [14.0], [18.0]]).double()
    labels = torch.tensor([0, 0, 1, 1, 1])
    assert within_class_distance(features, labels) == pytest.approx((2 + (4 + 8 + 4) / 3) / 2)
    assert math.isnan(within_class_distance(features[:1], labels[:1]))


def test_recall_counts_real_images_among_the_samples():
    """On a line: samples 0, 1, 2, 3 reach 3, 2, 2, 3 far, a sample at 100 back to 1."""
    samples = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    real = torch.tensor([[-3.5], [-3.0], [1.5], [6.0], [6.5]])
    assert recall(real, samples) == pytest.approx(3 / 5)
    assert recall(real, torch.cat([samples, torch.tensor([[100.0]])])) == pytest.approx(4 / 5)
    assert math.isnan(recall(real, samples[:3]))


def test_kernel_distance_by_hand():
    """Of one feature the kernel is (x y + 1)^3."""
    real, samples = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0], [-1.0]])
    among_real, among_samples, across = (1 + 1 + 27) / 3, 0.0, (1 + 1 + 8 + 0 + 27 - 1) / 6
    assert kernel_distance(real, samples) == pytest.approx(among_real + among_samples - 2 * across)
    assert math.isnan(kernel_distance(real, samples[:1])) and math.isnan(kernel_distance(real[:1], samples))


@pytest.mark.parametrize("count", [10, 100])
def test_kernel_distance_has_no_bias_whatever_the_number_of_samples(count):
    """Two features, N(0, I) against N((1, 1), I): the moments of x y / 2 give E k = 2.5, 18.5 and, across, 4."""
    generator = torch.Generator().manual_seed(0)
    real, samples = (torch.randn(400, count, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    for shift, expected in ((0.0, 0.0), (1.0, 2.5 + 18.5 - 2 * 4)):
        found = torch.tensor([kernel_distance(a, b + shift) for a, b in zip(real, samples)])
        assert abs(found.mean() - expected) < 4 * found.std() / 400**0.5


@pytest.mark.parametrize("count", [4, 40])
def test_kernel_distance_of_classes_asked_for_in_turn_has_no_bias_either(count):
    """Two classes far apart, half of each: without labels two images of one class are too rare."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    centres = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)[labels]
    real, samples = (centres + 0.5 * torch.randn(400, count, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    known = torch.tensor([kernel_distance(a, b, labels, labels) for a, b in zip(real, samples)])
    unknown = torch.tensor([kernel_distance(a, b) for a, b in zip(real, samples)])
    assert abs(known.mean()) < 4 * known.std() / 400**0.5 and unknown.mean() < -10 * unknown.std() / 400**0.5
    assert math.isnan(kernel_distance(real[0], samples[0][:3], labels, labels[:3]))


def test_kept_features_have_all_classes_by_their_share():
    labels = torch.arange(9000).remainder(10).clamp(max=4)  # 60 % are of class 4
    kept = Statistics.of(torch.arange(9000.0)[:, None].expand(-1, 2), labels)
    assert kept.labels.bincount().tolist() == [200, 200, 200, 200, 1200] and len(kept.features.unique(dim=0)) == 2000
    assert torch.equal(labels[kept.features[:, 0].long()], kept.labels)


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4])
def test_a_common_mean_of_all_features_changes_no_score(mean, tmp_path):
    """Against distances in float64, taken one real feature at a time; also from a saved reference."""
    generator = torch.Generator().manual_seed(0)
    real, samples = mean + torch.randn(80, 12, generator=generator), mean + 0.9 * torch.randn(300, 12, generator=generator)
    far = torch.stack([(samples.double() - one).square().sum(1).sqrt().sort().values[3] for one in samples.double()])
    inside = [bool(((samples.double() - one).square().sum(1).sqrt() <= far).any()) for one in real.double()]
    assert 0.3 < recall(real, samples) < 0.9 and recall(real, samples) == pytest.approx(sum(inside) / len(inside))
    labels = torch.zeros(80, dtype=torch.long)
    Statistics.of(real, labels).save(tmp_path / "reference.safetensors")
    saved, centred = Statistics.load(tmp_path / "reference.safetensors"), Statistics.of(real - mean, labels)
    assert recall(saved.features, samples) == recall(real, samples)
    assert saved.within_class_distance == pytest.approx(centred.within_class_distance, rel=1e-4)
    assert frechet_distance(saved, Statistics.of(samples, labels.repeat(4)[:300])) == pytest.approx(
        frechet_distance(centred, Statistics.of(samples - mean, labels.repeat(4)[:300])), rel=1e-3
    )


def test_real_images_score_well_and_damage_shows():
    evaluator = load_evaluator(assets_index.CLASSIFIER, assets_index.REFERENCE)
    pixels, labels = read_images(assets_index.IMAGES)
    images, asked = to_tensor(pixels[:500]), Prompts.of_labels(torch.from_numpy(labels[:500].copy()))
    real = evaluator.score(images, asked)
    assert real.fd < 5 and real.accuracy > 0.9 and 0.9 < real.diversity < 1.1 and real.recall > 0.7 and real.samples == 500
    padded = evaluator.score(pad_to(images, 32), asked)
    assert padded.fd == pytest.approx(real.fd, abs=1e-3)
    noisy = evaluator.score(images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)), asked)
    assert noisy.fd > 10 * real.fd
    assert evaluator.score(images, Prompts.of_labels((asked.labels + 1) % 10)).accuracy < 0.1
    same = evaluator.score(images[:1].expand(500, -1, -1, -1), asked)
    assert same.diversity == pytest.approx(0, abs=1e-6) and same.recall < 0.01


def test_the_embedded_autoencoder_keeps_what_the_evaluator_sees():
    from marval_ray.families.mar.autoencoder import load_vae

    evaluator, vae = load_evaluator(assets_index.CLASSIFIER, assets_index.REFERENCE), load_vae(assets_index.VAE)
    pixels, labels = read_images(assets_index.IMAGES)
    images, asked = to_tensor(pixels[:500]), Prompts.of_labels(torch.from_numpy(labels[:500].copy()))
    latents = vae.encode(pad_to(images, 32)).mean
    assert latents.mean((0, 2, 3)).abs().max() < 0.1 and (latents.std((0, 2, 3)) - 1).abs().max() < 0.1
    decoded = crop_to(vae.decode(latents), 28)
    assert evaluator.score(decoded, asked).accuracy > 0.88
    assert (to_pixels(decoded).astype(int) - pixels[:500]).std() < 20


def size_of(files: set[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def test_embedded_models_are_small_and_fit_the_preset():
    for path in (assets_index.TEACHER, assets_index.STUDENT, assets_index.GSIM_STUDENT):
        assert load_model(path).config == MODELS["tiny"]
    files = [file for file in assets_index.ASSETS.rglob("*") if file.is_file()]
    of_scenes = {file for file in files if file.relative_to(assets_index.ASSETS).parts[0].startswith("scene")}
    assert size_of(of_scenes) < 25e6 and size_of(set(files) - of_scenes) < 30e6
    assert resolve(portable(assets_index.VAE)) == assets_index.VAE
    assert assets_index.teacher_sampler().steps == 100


def test_labels_are_parsed():
    assert parse_labels("0,2,5-7", 10) == [0, 2, 5, 6, 7] and parse_labels("3", 4) == [3]
    for text in ("", "a", "-1", "1-", "1--2", "10", "5-3"):
        with pytest.raises(ValueError, match="--labels"):
            parse_labels(text, 10)
