"""Sets of prompts through the commands: what benchmarks read, what rewards say of one model and of two, at small width."""

import json

import numpy as np
import pytest
import torch
from commands import refuse, succeed
from PIL import Image
from small_dcar import write_parts

from jobs import sample
from marval_ray.files.atomic import write_json
from marval_ray.files.fit import save_weights
from marval_ray.files.images import read_npz, to_tensor
from marval_ray.hub.layout import described
from marval_ray.layouts import GenEval
from marval_ray.prompt_sets import read_set

SAMPLE, EVALUATE, COMPARE = "jobs/sample.py", "jobs/evaluate.py", "jobs/compare.py"
TEXTS = ("a cat on the mat", "the dog", "a dog")
DRAW = ("--n-ar", 2, "--batch", 4)
REWARD = ("--rewards", "plugin:small_reward:Brightness")


@pytest.fixture(scope="module")
def students(tmp_path_factory, dcar_fixture_path):
    """Two students, the recorded one and one whose residuals are others, each in a folder that names codec and text encoder."""
    parts = tmp_path_factory.mktemp("parts")
    config, files = write_parts(parts, dcar_fixture_path)
    state = torch.load(files["--teacher"], weights_only=True)
    other = {name: value * 1.5 if "diff" in name else value for name, value in state.items()}
    for name, weights in (("one", state), ("other", other)):
        write_json(parts / name / "config.json", described(config) | {"vae": files["--vae"], "texts": files["--texts"]})
        save_weights(parts / name / "student.safetensors", weights, torch.float32)
    return parts / "one", parts / "other"


@pytest.fixture
def geneval(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps({"tag": "two_object", "prompt": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def test_geneval_s_folder_goes_on_where_it_stopped(students, geneval, tmp_path):
    out = tmp_path / "geneval"
    config = sample.Config(checkpoint=students[0], per_label=2, seed=3, n_ar=2, batch=4, out=out)
    command = (SAMPLE, "--checkpoint", students[0], "--prompts", geneval, "--per-prompt", 2, "--seed", 3, *DRAW)
    layout = ("--layout", "geneval", "--out", out)
    assert "2 images of each of 3 prompts" in succeed(*command, *layout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation_metadata.jsonl", "geneval"]
    succeed(*command, "--out", tmp_path / "same.npz")
    pixels = read_npz(tmp_path / "same.npz")[0]
    files = [out / f"{number:05d}/samples/{index:05d}.png" for number in range(3) for index in range(2)]
    whole = [file.read_bytes() for file in files]
    assert all(np.array_equal(np.asarray(Image.open(file)), image) for file, image in zip(files, pixels, strict=True))

    there = sample.unfinished(config, config.generation(), GenEval(read_set(geneval), 2))
    out.rename(there)
    (there / "00002/metadata.jsonl").unlink()
    first, last = (there / f"{number:05d}/samples/00000.png" for number in (0, 2))
    last.write_bytes(b"half")
    (last.parent / ".00001.png.1.tmp").write_bytes(b"half")
    before = first.stat().st_mtime_ns
    succeed(*command, *layout)
    assert [file.read_bytes() for file in files] == whole and files[0].stat().st_mtime_ns == before and not there.exists()
    assert sorted(path.name for path in files[-1].parent.iterdir()) == ["00000.png", "00001.png"]
    assert "is a folder that is not empty" in refuse(*command, *layout)


def test_dpg_s_folder_holds_grids_alone(students, tmp_path):
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    for name, text in zip("ab", TEXTS):
        (prompts / f"{name}.txt").write_text(text, encoding="utf-8")
    command = (SAMPLE, "--checkpoint", students[0], "--prompts", prompts, *DRAW)
    succeed(*command, "--per-prompt", 4, "--layout", "dpg", "--out", tmp_path / "dpg")
    assert sorted(path.name for path in (tmp_path / "dpg").iterdir()) == ["a.png", "b.png"]
    assert Image.open(tmp_path / "dpg/a.png").size == (512, 512)
    wrong = (*command, "--out", tmp_path / "x")
    assert "give --per-prompt 4, not 2" in refuse(*wrong, "--layout", "dpg", "--per-prompt", 2)
    assert "give --prompts evaluation_metadata.jsonl" in refuse(*wrong, "--layout", "geneval")
    assert "--layout dpg needs --prompts" in refuse(SAMPLE, "--layout", "dpg", "--prompt", "a cat", "--out", tmp_path / "x")
    classes = (SAMPLE, "--prompts", prompts, "--layout", "dpg", "--per-prompt", 4, "--out", tmp_path / "x")
    assert "give --labels in the place of prompts" in refuse(*classes)
    assert not (tmp_path / "x").exists()


def test_rewards_score_a_set_of_prompts_and_tell_two_models_apart(students, geneval, tmp_path):
    given = ("--prompts", geneval, "--per-prompt", 2, "--seed", 3, *REWARD)
    succeed(SAMPLE, "--checkpoint", students[0], *given[:-2], *DRAW, "--out", tmp_path / "x.npz")
    by_hand = to_tensor(read_npz(tmp_path / "x.npz")[0]).mean((1, 2, 3)).reshape(3, 2)
    row = json.loads(succeed(EVALUATE, "--checkpoint", students[0], *given, *DRAW, "--out", tmp_path / "scores.json"))
    assert (row["model"], row["n_ar"], row["samples"], row["prompts"]) == ("student", 2, 6, 3)
    assert row["reward/brightness"] == pytest.approx(by_hand.mean().item(), abs=2e-3)
    assert row["reward/brightness_se"] == pytest.approx(by_hand.mean(1).std().item() / 3**0.5, rel=0.1)
    assert "| 6 | 3 |" in (tmp_path / "scores.md").read_text(encoding="utf-8")

    said = succeed(COMPARE, *students, *given, "--n-ar", 2, "--batch", 4, "--columns", 1, "--out", tmp_path / "both")
    assert "paired, 6 images of 3 prompts" in said
    found = json.loads((tmp_path / "both/figures.json").read_text(encoding="utf-8"))
    assert found["rows"][0]["reward/brightness"] == row["reward/brightness"]
    gain = found["rows"][0]["reward/brightness"] - found["rows"][1]["reward/brightness"]
    assert found["differences"][0]["mean"] == pytest.approx(gain, abs=1e-6) and gain != 0
    assert Image.open(tmp_path / "both/grid.png").height > 3 * 256


def test_a_model_that_reads_texts_is_scored_by_rewards_alone(students, geneval, tmp_path):
    for command in ((EVALUATE, *REWARD), (EVALUATE, "--prompts", geneval)):
        assert "reads texts, of which judges know nothing: give --prompts FILE and --rewards KIND:PLACE" in refuse(
            *command, "--checkpoint", students[0]
        )
    assert "reads texts: give --prompts FILE" in refuse(COMPARE, *students, "--n-ar", 2, "--out", tmp_path / "x")
    mixed = refuse(COMPARE, students[0], "teacher", "--n-ar", 2, "--out", tmp_path / "x")
    assert "no classes, 256 pixels" in mixed and not (tmp_path / "x").exists()
    geneval.write_text('{"prompt": ""}\n', encoding="utf-8")
    assert "evaluation_metadata.jsonl, line 1" in refuse(EVALUATE, "--checkpoint", students[0], "--prompts", geneval, *REWARD)
