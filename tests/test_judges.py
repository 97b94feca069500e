"""Two judges: one selects, the other only reports."""

import re
from pathlib import Path

import pytest
import torch
from commands import ROOT

from jobs import distill
from marval_ray.embedded import assets_index
from marval_ray.evaluation.claims import better
from marval_ray.evaluation.judges import Judges, over_sets
from marval_ray.evaluation.metrics import ACCURACY, FD
from marval_ray.files.images import read_images, to_tensor
from marval_ray.types import Prompts

A, B = (assets_index.CLASSIFIER, assets_index.REFERENCE), (assets_index.CLASSIFIER_B, assets_index.REFERENCE_B)
REPORTS = {
    "marval_ray/config.py", "marval_ray/presets.py", "marval_ray/embedded/assets_index.py", "marval_ray/embedded/shipped_judges.py",
    "marval_ray/evaluation/judges.py", "marval_ray/evaluation/metrics.py", "marval_ray/evaluation/claims.py",
    "marval_ray/runs/figures.py", "marval_ray/runs/measured.py", "marval_ray/runs/card.py", "marval_ray/runs/report/page.py",
    "marval_ray/runs/report/plots.py", "jobs/evaluate.py", "jobs/compare.py", "jobs/teacher_figures.py",
    "jobs/embedded/build_assets.py",
}  # fmt: skip
"""What may know judge B."""


def test_nothing_that_trains_or_selects_knows_judge_b():
    sources = [path for part in ("marval_ray", "actors", "jobs") for path in (ROOT / part).rglob("*.py")]
    names = re.compile(r"(?i)(classifier|reference)_b\b|\bby_(b|judge)\b|\bjudges_for\b")
    knowing = {str(path.relative_to(ROOT)) for path in sources if names.search(text_of(path))}
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
    asked, others = Prompts.of_labels(labels), Prompts.of_labels((labels + 1) % 10)
    real, noisy, mixed = judges.score(images, asked), judges.score(images + noise, asked), judges.score(images, others)
    for end in ("", "_b"):
        assert real[f"accuracy{end}"] > 0.9 > 0.1 > mixed[f"accuracy{end}"]
        assert noisy[f"fd{end}"] > 5 * real[f"fd{end}"] and noisy[f"kid{end}"] > 10 * abs(real[f"kid{end}"])
        assert 0.9 < real[f"diversity{end}"] < 1.1
    assert real["samples"] == 500 and "samples_b" not in real


def test_one_judge_is_enough():
    pixels, classes = read_images(assets_index.IMAGES)
    scores = Judges.load(A).score(to_tensor(pixels[:50]), Prompts.of_labels(torch.from_numpy(classes[:50].copy())))
    assert not any(name.endswith("_b") for name in scores)


def test_the_error_is_that_of_the_mean():
    scored = [{"fd": 1.0, "accuracy": None}, {"fd": 2.0, "accuracy": None}, {"fd": 3.0, "accuracy": None}]
    assert over_sets(scored) == {"fd": 2.0, "fd_se": pytest.approx(3**-0.5), "accuracy": None}
    assert over_sets(scored[:1]) == scored[0]


def test_sets_have_all_classes_and_share_no_image(judges):
    """Whatever the order; a set is scored as its images alone are."""
    pixels, classes = read_images(assets_index.IMAGES)
    images, asked = to_tensor(pixels[:600]), Prompts.of_labels(torch.from_numpy(classes[:600].copy()))
    order = asked.labels.argsort(stable=True)
    alone = [judges.score(images[hand], asked[hand.tolist()]) for hand in (order[i::3].sort().values for i in range(3))]
    together = judges.score(images, asked, sets=3)
    assert together["samples"] == 200 and together["sets"] == 3
    values = torch.tensor([[figures[name] for figures in alone] for name in ("fd", "kid_b", "accuracy_b")], dtype=torch.float64)
    assert [together[name] for name in ("fd", "kid_b", "accuracy_b")] == pytest.approx(values.mean(1).tolist())
    assert together["fd_se"] == pytest.approx(values[0].std().item() / 3**0.5)
    sorted_by_class = judges.score(images[order], asked[order.tolist()], sets=3)
    assert sorted_by_class["fd"] == pytest.approx(together["fd"], rel=1e-6)
    with pytest.raises(ValueError, match="FD needs at least 8 images for 4 sets, got 7"):
        judges.score(images[:7], asked[:7], sets=4)


@pytest.mark.parametrize(
    ("other", "claimed"),
    [
        ({"fd": 6.0, "fd_b": 4.0}, True),
        ({"fd": 6.0, "fd_b": 3.2}, False),  # B: a fifth is no two errors of 0.14
        ({"fd": 4.9, "fd_b": 4.0}, False),  # A sees it the other way
        ({"fd": 5.9, "fd_se": 0.5, "fd_b": 4.0}, False),
    ],
)
def test_better_is_said_beyond_two_errors_by_both(other, claimed):
    errors = {"fd_se": 0.1, "fd_b_se": 0.1}
    mine, other = {"fd": 5.0, "fd_b": 3.0} | errors, errors | other
    assert better(mine, other, FD) is claimed and not better(other, mine, FD)
    swapped = {"accuracy": 0.9, "accuracy_se": 0.01}, {"accuracy": 0.95, "accuracy_se": 0.01}
    assert better(swapped[1], swapped[0], ACCURACY) and not better(*swapped, ACCURACY)


def test_nothing_is_said_without_errors():
    assert not better({"fd": 1.0}, {"fd": 9.0, "fd_se": 0.1}, FD)
