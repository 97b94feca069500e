"""Scenes wherever figures of a run are made: pictures that are drawn as they should be have figures near 1, by both judges."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from commands import outputs, refuse

from actors.crew.judge import Judge
from actors.learning.rl import figures_of
from jobs import compare, evaluate
from jobs.embedded.train_scene_tokenizer import save
from marval_ray.config import GuardConfig
from marval_ray.embedded import assets_index, scene_texts
from marval_ray.embedded.shipped_judges import CLOTHES, SCENES, judges_for
from marval_ray.evaluation.evaluators import load_evaluator
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.metrics import ATTRIBUTES, by_b, error_of
from marval_ray.families.dcar.codec import DCHTCodec
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.family import FAMILY
from marval_ray.families.dcar.model import DCAR
from marval_ray.families.dcar.presets import SCENES as SIZES
from marval_ray.families.dcar.presets import SCENES_TOKENIZER
from marval_ray.families.dcar.tokenizer import DCHT
from marval_ray.files.flat import pack
from marval_ray.files.images import to_tensor
from marval_ray.hub.layout import save_model
from marval_ray.presets import MODELS
from marval_ray.reinforce.guard import Guard
from marval_ray.runs.figures import Figures, FiguresConfig
from marval_ray.runs.stage import RL
from marval_ray.scenes.drawing import draw, render
from marval_ray.scenes.scene import read_scene
from marval_ray.types import Prompts

PROMPTS = Prompts(tuple(draw(2, index, "held-out")[2] for index in range(120)))
SMALL = replace(SIZES, width=32, depth=1, heads=1, mlp_width=32, head_width=32, head_depth=1)
FILES = FiguresConfig(*SCENES[0], *SCENES[1], samples=40, sets=2, loops=(4, 8), per_class=2, grid_classes=3)


@dataclass(frozen=True)
class Draughtsman:
    """A painter who draws what he is asked for; `wrong`: one prompt further."""

    loops: int
    wrong: int = 0
    batch: int = 64

    def images(self, prompts: Prompts, seed: int, progress: str | None = None):
        texts = prompts.texts[self.wrong :] + prompts.texts[: self.wrong]
        return to_tensor(np.stack([render(read_scene(text), Random(f"{seed} {number}")) for number, text in enumerate(texts)]))

    def with_loops(self, loops: int) -> "Draughtsman":
        return replace(self, loops=loops)


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> Path:
    """A tokenizer with random weights."""
    folder = tmp_path_factory.mktemp("codec")
    save(folder, DCHT(SCENES_TOKENIZER).eval())
    return folder


def test_a_run_of_scenes_has_figures_and_a_report_by_both_judges(codec, tmp_path):
    model = DCAR(SMALL)
    painters = iter([Draughtsman(8), *[Draughtsman(8, wrong=1)] * 2])  # the teacher, then the student before
    figures = Figures(FILES, DCHTCodec.read(codec, SMALL), tmp_path, lambda _: next(painters, Draughtsman(8)), tmp_path, PROMPTS)
    figures.check(SMALL)
    figures.before(model, 8)
    figures.reinforced(model, 8)
    figures.write({}, [], {})
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    for name in ("accuracy", *(metric.name for metric in ATTRIBUTES)):
        assert all(summary[f"student_{judged}"] > 0.9 for judged in (name, by_b(name)))
        assert error_of(f"student_{name}") in summary
    assert summary["student_accuracy_before"] < 0.1 < summary["student_count_before"]
    assert not [name for name in summary if "diversity" in name]
    assert [row["n_ar"] for row in summary["loops"]] == [4, 8] and summary["loops"][0]["background_b"] > 0.9
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<th>object</th>" in page and "<th>background (B)</th>" in page and "one row a prompt" in page


def test_wrong_judges_and_texts_are_refused_before_anything_is_drawn(codec, tmp_path):
    def figures(config: FiguresConfig, prompts: Prompts) -> Figures:
        return Figures(config, DCHTCodec.read(codec, SMALL), tmp_path, texts=tmp_path, prompts=prompts)

    clothes = FiguresConfig(*CLOTHES[0])
    with pytest.raises(ValueError, match="images are 64 x 64: the evaluation knows grey ones of 28 x 28, or padded to 32 x 32, only"):
        figures(clothes, PROMPTS).check(SMALL)
    with pytest.raises(ValueError, match="'a red apple' asks for no scene, as 'a dog on a pink background, left' does"):
        figures(FILES, Prompts((*PROMPTS.texts, "a red apple"))).check(SMALL)
    with pytest.raises(ValueError, match="has statistics of 64 features, .* has 80: give two files of one judge"):
        load_evaluator(assets_index.SCENE_CLASSIFIER, assets_index.REFERENCE)


def test_the_guard_s_judge_reads_scenes(codec, tmp_path):
    torch.manual_seed(0)
    encoder = scene_texts.new_encoder(SMALL.text_width)
    scene_texts.save_encoder(tmp_path, encoder.config, encoder.state_dict())
    config = GuardConfig(samples=6, loops=(2,))
    judge = Judge(SMALL, codec, *SCENES[0], PROMPTS, config, tmp_path)
    look = judge.measure(pack(dict(DCAR(SMALL).named_parameters()), 0, torch.float32))
    assert look.pictures.shape == (6, 64, 64, 3)
    told = figures_of(look.scores, config.loops)
    assert told["held_out/accuracy"] == 0 and {"held_out/fd", "held_out/count"} < set(told) and "held_out/diversity" not in told
    guard = Guard(config, look.scores)
    assert Guard.of(config, json.loads(json.dumps(guard.state()))) == guard
    better, worse = (replace(look.scores[0], accuracy=share) for share in (0.9, 0.5))
    assert Guard(config, (better,)).complaints((worse,)) == ["accuracy 0.500 is more than 0.02 below 0.900 at N_AR = 2"]
    assert set(RL.shown) & set(told)


def test_sets_of_scenes_have_the_same_prompts():
    """Each of a few prompts is in each set, though prompts come in turn; FD alone of a set knows which."""
    prompts = PROMPTS[:4].in_turn(24)
    images = Draughtsman(1).images(prompts, 0)
    judges = Judges.load(SCENES[0])
    hands = [[turn * 8 + hand * 4 + prompt for turn in range(3) for prompt in range(4)] for hand in range(2)]
    alone = [judges.score(images[hand], prompts[hand])["fd"] for hand in hands]
    assert judges.score(images, prompts, sets=2)["fd"] == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_a_file_of_scenes_is_scored_by_its_prompts(tmp_path):
    pixels = np.stack([draw(2, index, "held-out")[1] for index in range(90)])
    np.savez(tmp_path / "x.npz", pixels, np.arange(90))
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS.texts[:90]), encoding="utf-8")
    (tmp_path / "others.txt").write_text("a red apple\n" * 90, encoding="utf-8")
    named = [text for name, path in zip(("", "-b"), SCENES) for text in (f"--classifier{name}", path[0], f"--reference{name}", path[1])]
    command = ("jobs/evaluate.py", "--npz", tmp_path / "x.npz", *named)
    printed, said = outputs(*command, "--prompts", tmp_path / "prompts.txt")
    row = json.loads(printed)
    assert min(row[name] for name in ("accuracy", "accuracy_b", "object", "side_b")) > 0.9 and "diversity" not in row
    assert "warning: 90 different prompts are few" not in said and "x.npz" in row["model"]
    assert "x.npz: 'a red apple' asks for no scene" in refuse(*command, "--prompts", tmp_path / "others.txt")


def test_judges_follow_from_what_a_checkpoint_draws(tmp_path):
    assert judges_for(MODELS["tiny"]) == CLOTHES and judges_for(MODELS["mar-b"]) is None
    assert judges_for(SIZES) == SCENES and judges_for(DCARConfig()) is None
    save_model(tmp_path, "student", DCAR(SMALL).state_dict(), SMALL, torch.float32)
    config = evaluate.defaults_of(["--checkpoint", str(tmp_path)])
    assert (config.classifier, config.reference, config.classifier_b, config.reference_b) == (*SCENES[0], *SCENES[1])
    assert evaluate.defaults_of([]).classifier == assets_index.CLASSIFIER
    assert FAMILY.config(json.loads((tmp_path / "config.json").read_text())["model"]) == SMALL


def test_a_comparison_says_of_each_attribute_who_is_better(capsys):
    judges = compare.judges_of(SIZES, PROMPTS)
    right, wrong = (
        {"model": name, "n_ar": 8, **judges.score(painter.images(PROMPTS, 0), PROMPTS, sets=3)}
        for name, painter in (("right", Draughtsman(8)), ("wrong", Draughtsman(8, wrong=1)))
    )
    said = compare.said([right, wrong])
    assert len(said) == 6 and "object at N_AR = 8: right is better than wrong, by both judges and two standard errors." in said
    assert compare.judges_of(SIZES, Prompts(("a red apple",))) is None
    assert "compared by pictures and rewards alone: 'a red apple' asks for no scene" in capsys.readouterr().out
