"""Judges of scenes: right about scenes that nobody trained on, and told apart."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import refuse, succeed

from marval_ray.embedded import assets_index
from marval_ray.evaluation.evaluators import load_evaluator
from marval_ray.evaluation.scene_scores import SceneEvaluator, places_of, read_scenes, shares
from marval_ray.evaluation.scores import Evaluator
from marval_ray.files.images import to_tensor
from marval_ray.files.tensors import read_state
from marval_ray.scenes.drawing import draw
from marval_ray.scenes.scene import Scene, attributes
from marval_ray.types import Prompts

JOB = "jobs/embedded/train_scene_judge.py"
FILES = {
    "a": (assets_index.SCENE_CLASSIFIER, assets_index.SCENE_REFERENCE),
    "b": (assets_index.SCENE_CLASSIFIER_B, assets_index.SCENE_REFERENCE_B),
}


@pytest.fixture(scope="module")
def held_out():
    """Pictures in [-1, 1] that no reference knows, their scenes, and prompts of all phrasings."""
    scenes, pictures, texts = zip(*(draw(1, index, "held-out") for index in range(300)))
    return to_tensor(np.stack(pictures)), scenes, Prompts(texts)


@pytest.fixture(scope="module", params=FILES)
def judge(request) -> Evaluator:
    return load_evaluator(*FILES[request.param])


def test_a_judge_is_right_about_held_out_scenes_and_sees_what_is_wrong(judge, held_out):
    images, scenes, prompts = held_out
    assert isinstance(judge, SceneEvaluator)
    real = judge.score(images, prompts)
    assert min(real.known()[name] for name in attributes()) > 0.95 and real.accuracy > 0.9 and real.recall > 0.5
    assert real.diversity is None and real.samples == 300
    others = Prompts(tuple(Scene(s.object, s.count % 3 + 1, s.side, s.background).prompt() for s in scenes))
    wrong = judge.score(images, others)
    assert wrong.count < 0.05 and wrong.accuracy < 0.05 and wrong.object == real.object and wrong.fd == real.fd
    coarse = judge.score(F.interpolate(F.avg_pool2d(images, 4), scale_factor=4.0), prompts)
    assert coarse.fd > 1.5 * real.fd and coarse.kid > 2 * abs(real.kid)


def test_the_judges_of_scenes_are_not_alike(held_out):
    a, b = (load_evaluator(*files) for files in FILES.values())
    assert type(a.classifier) is not type(b.classifier) and len(a.reference.mean) != len(b.reference.mean)
    noise = torch.randn(held_out[0].shape, generator=torch.Generator().manual_seed(0))
    seen = [read_scenes(judge.classifier, held_out[0] + 0.5 * noise)[1] for judge in (a, b)]
    assert not torch.equal(*seen)


def test_all_of_a_scene_has_to_be_right():
    seen, asked = torch.tensor([[5, 0, 1, 2], [5, 1, 1, 2]]), torch.tensor([[5, 0, 1, 2], [6, 1, 1, 2]])
    assert shares(seen == asked) == {"object": 0.5, "count": 1.0, "side": 1.0, "background": 1.0, "accuracy": 0.5}
    assert places_of([Scene("cat", 3, "bottom", "pink")]).tolist() == [[1, 2, 3, 0]]


@pytest.mark.parametrize("architecture", ["plain", "residual"])
def test_a_judge_is_trained_and_read_again(architecture, tmp_path):
    options = ("--architecture", architecture, "--steps", 2, "--batch", 4, "--samples", 6, "--out", tmp_path)
    told = succeed(JOB, *options, "--degradations", "blur", "texture")
    judge = load_evaluator(tmp_path / "classifier.safetensors", tmp_path / "reference.safetensors")
    _, pictures, texts = zip(*(draw(0, index, "held-out") for index in range(6)))
    again = judge.score(to_tensor(np.stack(pictures)), Prompts(texts)).known()
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures.pop("samples") == 6 and figures == {name: again[name] for name in figures}
    assert f"accuracy {figures['accuracy']:.4f}" in told
    assert again["fd"] == pytest.approx(0, abs=1e-3 * judge.reference.covariance.trace().item())


def test_a_judge_goes_on_from_weights_of_its_architecture(tmp_path):
    job = (JOB, "--steps", 1, "--lr", 0, "--batch", 4, "--samples", 4, "--init", assets_index.SCENE_CLASSIFIER_B)
    succeed(*job, "--architecture", "residual", "--out", tmp_path)
    same, first = (read_state(path) for path in (tmp_path / "classifier.safetensors", assets_index.SCENE_CLASSIFIER_B))
    assert all(torch.equal(same[name], first[name]) for name in first)
    assert "does not fit the model" in refuse(*job, "--out", tmp_path / "no")


def test_wrong_options_are_refused(tmp_path):
    assert "--samples must be at least 2, got 1" in refuse(JOB, "--samples", 1, "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()
