"""The embedded text-to-image default: its files fit each other, its teacher paints what prompts say, and both stages run on it."""

import json
from dataclasses import replace

import pytest
import torch
from commands import succeed
from short import DISTILL

from jobs import distill
from marval_ray.embedded import assets_index, shipped_judges
from marval_ray.evaluation.evaluators import load_evaluator
from marval_ray.families.dcar.presets import SCENES
from marval_ray.families.generation import Generation
from marval_ray.files.images import read_npz
from marval_ray.hub.layout import load_model, read_config
from marval_ray.presets import MODELS, SAMPLERS
from marval_ray.prompt_sets import read_set
from marval_ray.rewards import load_reward
from marval_ray.scenes.scene import read_scene
from marval_ray.source import Source, preset_of

CONFIG = distill.defaults("tiny-t2i")


def test_its_files_fit_each_other():
    assert MODELS["tiny-t2i"] == SCENES == read_config(assets_index.SCENE_MODEL) and preset_of(assets_index.SCENE_TEACHER) == "tiny-t2i"
    codec = SCENES.family.codec(CONFIG.vae, SCENES)
    SCENES.family.check_data(CONFIG.latents, SCENES, codec.id)
    assert CONFIG.gsim.w == SAMPLERS["tiny-t2i"].cfg == SCENES.code_guidance
    assert CONFIG.figures.teacher_rows() and shipped_judges.judges_for(SCENES) == shipped_judges.SCENES


def test_rl_asks_for_what_may_be_trained_on_and_figures_for_what_is_held_out():
    prompts = {split: read_set(path).prompts.texts for split, path in (("train", CONFIG.prompts), ("held-out", CONFIG.figures.prompts))}
    for split, texts in prompts.items():
        assert len(set(texts)) == len(texts) >= 1000 and {read_scene(text).split for text in texts} == {split}
    assert distill.shown_prompts_of(CONFIG).texts == prompts["held-out"] and distill.prompts_of(CONFIG).texts == prompts["train"]


def painted(count: int) -> tuple[torch.Tensor, object]:
    model = load_model(assets_index.SCENE_TEACHER)
    codec = SCENES.family.codec(CONFIG.vae, SCENES)
    prompts = distill.shown_prompts_of(CONFIG)[:count]
    painter = Generation(model, codec, replace(SAMPLERS["tiny-t2i"], steps=8), 8, 32, CONFIG.texts)
    return painter.images(prompts, 0), prompts


def test_its_teacher_paints_what_prompts_say_and_its_reward_knows():
    images, prompts = painted(32)
    scores = load_evaluator(*shipped_judges.SCENES[0]).score(images, prompts)
    assert scores.count > 0.8 and scores.side > 0.8 and scores.background > 0.8 and scores.object > 0.3
    reward = load_reward(CONFIG.rl.rewards)
    own, others = (reward(images, texts) for texts in (prompts.texts, prompts.texts[1:] + prompts.texts[:1]))
    assert (own > others).float().mean() > 0.9


def test_a_source_draws_as_the_teacher_draws_best():
    generation = Source(checkpoint=assets_index.SCENE_TEACHER, teacher=True, sampler=SAMPLERS["tiny-t2i"], n_ar=2, batch=2).generation()
    assert generation.texts == assets_index.SCENE_TEXTS and generation.model.config == SCENES


@pytest.mark.slow
def test_both_stages_run_on_it(tmp_path):
    few = ("--learner.steps", 4, "--learner.batch", 16, "--rl-learner.steps", 2, "--rl-learner.batch", 8, "--guard.samples", 40,
           "--guard.every", 1, "--figures.samples", 40, "--figures.sets", 2, "--figures.loops", 4, "--figures.teacher", None,
           "--figures.per-class", 1, "--figures.grid-classes", 4)  # fmt: skip
    succeed(DISTILL, "--preset", "tiny-t2i", *few, "--out", tmp_path / "run")
    prompts = ("two red apples on a blue background, left", "at the top: an owl, green background")
    succeed("jobs/sample.py", "--checkpoint", tmp_path / "run", "--prompt", *prompts, "--per-prompt", 1, "--out", tmp_path / "two.npz")
    assert read_npz(tmp_path / "two.npz")[0].shape == (2, 64, 64, 3)
    summary = json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))
    assert {"student_fd", "student_fd_b", "student_object_b"} <= summary.keys()
