"""Two judges: one selects, the other only reports."""

import re
from pathlib import Path

import pytest
import torch
from commands import ROOT

from jobs import distill
from marval_ray.embedded import assets_index
from marval_ray.evaluation.judges import Judges
from marval_ray.files.images import read_images, to_tensor

A, B = (assets_index.CLASSIFIER, assets_index.REFERENCE), (assets_index.CLASSIFIER_B, assets_index.REFERENCE_B)
REPORTS = {
    "marval_ray/config.py", "marval_ray/presets.py", "marval_ray/embedded/assets_index.py", "marval_ray/evaluation/judges.py",
    "marval_ray/evaluation/metrics.py", "marval_ray/runs/figures.py", "marval_ray/runs/report/page.py", "jobs/evaluate.py",
    "jobs/teacher_figures.py", "jobs/embedded/build_assets.py",
}  # fmt: skip
"""What may know judge B."""


def test_nothing_that_trains_or_selects_knows_judge_b():
    sources = [path for part in ("marval_ray", "actors", "jobs") for path in (ROOT / part).rglob("*.py")]
    knowing = {str(path.relative_to(ROOT)) for path in sources if re.search(r"(?i)(classifier|reference)_b\b|\bby_b\b", text_of(path))}
    assert knowing == REPORTS
    assert distill.defaults("tiny").figures.judge() == A  # whom the guard asks


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges.load(A, B)


def test_the_judges_are_not_alike(judges):
    assert type(judges.a.classifier) is not type(judges.b.classifier)
    assert len(judges.a.reference.mean) != len(judges.b.reference.mean)


def test_real_images_score_well_by_both_and_damage_shows(judges):
    pixels, classes = read_images(assets_index.IMAGES)
    images, labels = to_tensor(pixels[:500]), torch.from_numpy(classes[:500].copy())
    noise = 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    real, noisy, mixed = judges.score(images, labels), judges.score(images + noise, labels), judges.score(images, (labels + 1) % 10)
    for end in ("", "_b"):
        assert real[f"accuracy{end}"] > 0.9 > 0.1 > mixed[f"accuracy{end}"]
        assert noisy[f"fd{end}"] > 5 * real[f"fd{end}"] and noisy[f"kid{end}"] > 10 * abs(real[f"kid{end}"])
        assert 0.9 < real[f"diversity{end}"] < 1.1
    assert real["samples"] == 500 and "samples_b" not in real


def test_one_judge_is_enough():
    pixels, classes = read_images(assets_index.IMAGES)
    scores = Judges.load(A).score(to_tensor(pixels[:50]), torch.from_numpy(classes[:50].copy()))
    assert not any(name.endswith("_b") for name in scores)
