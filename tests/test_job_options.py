"""Options and files of jobs that are refused at once, and the teacher's sampler of each preset."""

import json
from dataclasses import asdict
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import outputs, refuse, succeed
from safetensors.torch import load_file, save_file
from small import write_latents_from_1

from jobs import distill, sample
from jobs.embedded import train_classifier
from marval_ray.cli import parse
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.embedded import assets_index
from marval_ray.presets import MODELS, PRESETS, SAMPLERS, PresetName
from marval_ray.source import Source, defaults, parse_labels

TRAINED = ("classifier", "reward", "teacher", "vae", "scene_judge", "scene_tokenizer", "scene_teacher")
SEEDED = ("distill", "sample", "evaluate", "teacher_figures", *(f"embedded/train_{what}" for what in TRAINED))


@pytest.mark.parametrize("job", SEEDED)
@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_torch_does_not_take_are_refused(job, seed):
    assert refuse(f"jobs/{job}.py", "--seed", seed).endswith(f"--seed must be in 0..2^63 - 1, got {seed}")


@pytest.mark.parametrize("length", range(50, 57))
def test_where_the_project_lies_changes_no_message(monkeypatch, capsys, length):
    monkeypatch.setattr("sys.argv", ["x" * length, "--seed", "-1"])  # tyro shows it in lines of 80 characters
    with pytest.raises(SystemExit):
        parse(train_classifier.Config, None, {})
    assert capsys.readouterr().err == "error: Error parsing Config: --seed must be in 0..2^63 - 1, got -1\n"


@pytest.mark.parametrize("option", ["guard.seed", "figures.seed"])
def test_so_are_seeds_of_a_part(option):
    assert f"{option} must be in 0..2^63 - 1, got -1" in refuse("jobs/distill.py", f"--{option}", -1)


def test_the_largest_seed_draws(tmp_path):
    succeed("jobs/sample.py", "--seed", 2**63 - 1, "--labels", 0, "--per-label", 1, "--n-ar", 1, "--out", tmp_path / "new/x.npz")
    assert (tmp_path / "new/x.npz").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [("figures.samples", "figures.samples must be at least 2, got 1"), ("guard.samples", "guard.samples must be at least 2, got 1")],
)
def test_figures_need_two_images(option, message):
    assert message in refuse("jobs/distill.py", f"--{option}", 1)


def refuse_run(tmp_path, *options) -> str:
    line = refuse("jobs/distill.py", "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()
    return line


def test_distillation_refuses_labels_of_no_class(tmp_path):
    message = refuse_run(tmp_path, "--latents", write_latents_from_1(tmp_path / "from1.parquet"))
    assert "from1.parquet" in message and "labels are outside the model's classes 0-9, the first is 10" in message


def test_distillation_refuses_latents_of_another_autoencoder(tmp_path):
    table = pq.read_table(assets_index.LATENTS).slice(0, 100)
    pq.write_table(table.replace_schema_metadata({b"marval_ray.codec": b"0123"}), tmp_path / "other.parquet")
    assert "holds latents of another autoencoder" in refuse_run(tmp_path, "--latents", tmp_path / "other.parquet")


def test_distillation_refuses_rewards_that_are_not_whole(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "config.json is missing" in refuse_run(tmp_path, "--rl.rewards", f"pickscore:{tmp_path / 'empty'}")


@pytest.mark.parametrize("option", ["teacher", "vae", "student"])
def test_distillation_refuses_weights_that_are_not_finite(tmp_path, option):
    weights = assets_index.VAE / "diffusion_pytorch_model.safetensors"
    source = {"teacher": assets_index.TEACHER, "vae": weights, "student": assets_index.STUDENT}
    state = load_file(source[option])
    name = sorted(state)[0]
    state[name].view(-1)[0] = float("nan")
    path = tmp_path / source[option].name
    save_file(state, path)
    (tmp_path / "config.json").write_bytes((source[option].parent / "config.json").read_bytes())
    options = ("--stages", "rl") if option == "student" else ()
    message = refuse_run(tmp_path, f"--{option}", tmp_path if option == "vae" else path, *options)
    assert f"{path}: 1 of the" in message and name in message and "NaN or infinite" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [("9-7", "9-7 runs backwards, write 7-9"), ("", "is not a list"), ("0-99999999999", "classes are 0-9"), ("1,,2", "is not a list")],
)
def test_labels_that_make_no_list(text, message):
    with pytest.raises(ValueError, match=message):
        parse_labels(text, 10)


def test_labels_are_refused_where_the_model_reads_texts():
    with pytest.raises(ValueError, match="the checkpoint reads texts, and this needs a model of classes"):
        parse_labels("0-9", None)


@pytest.mark.parametrize("name", ["x.jpg", "x.jpeg", "x.webp", "x.gif", "x.npy", "x.zip", "x.PNG.txt", "x.pdf"])
def test_pictures_are_not_written_under_names_of_other_files(tmp_path, name):
    message = refuse("jobs/sample.py", "--out", tmp_path / name)
    assert "names a file: end the name in .png or .npz, or name a folder" in message


def test_outputs_in_a_file_are_refused_before_drawing(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for out in ("file/x.png", "file/deeper/folder", "file"):
        assert str(tmp_path / "file") in refuse("jobs/sample.py", "--out", tmp_path / out)
    assert "is a file, not a folder" in refuse("jobs/evaluate.py", "--out", tmp_path / "file/x.json")


def archive(path, pixels, labels):
    np.savez(path, pixels, labels)
    return path


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((4, 28, 28, 3), [0, 1, 2, 3], "images are 3 x 28 x 28 .*knows grey ones of 28 x 28"),
        ((4, 64, 64, 1), [0, 1, 2, 3], "images are 1 x 64 x 64"),
        ((4, 28, 32, 1), [0, 1, 2, 3], "images are 1 x 28 x 32"),
        ((4, 28, 28, 1), [0, 1, 2, 10], r"1 label.s. are outside the classifier's classes 0-9, the first is 10"),
        ((4, 28, 28, 1), [0.0, 1.0, 2.0, 3.0], r"arr_1 float64 \(4,\); uint8 \(N, H, W, C\) and integers \(N,\) fit"),
        ((1, 28, 28, 1), [0], "FD needs at least 2 images, got 1"),
        ((0, 28, 28, 1), np.zeros(0, int), "FD needs at least 2 images, got 0"),
    ],
)
def test_evaluation_refuses_images_that_it_cannot_compare(tmp_path, shape, labels, message):
    path = archive(tmp_path / "x.npz", np.zeros(shape, np.uint8), np.array(labels))
    line = refuse("jobs/evaluate.py", "--npz", path)
    assert str(path) in line
    with pytest.raises(ValueError, match=message):
        raise ValueError(line)


def test_evaluation_refuses_one_array(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 28, 28, 1), np.uint8))
    assert "x.npy is not an .npz with arr_0 (images) and arr_1 (labels): it holds one array" in refuse(
        "jobs/evaluate.py", "--npz", tmp_path / "x.npy"
    )


def test_evaluation_says_what_its_scores_do_not_cover(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 28, 28, 1), np.uint8)
    printed, said = outputs("jobs/evaluate.py", "--npz", archive(tmp_path / "x.npz", pixels, np.array([0, 0, 1, 1], np.uint8)))
    assert "warning: images of 2 of 10 classes" in said and "warning: 4 images are too few" in said
    assert json.loads(printed)["samples"] == 4


@pytest.mark.parametrize(("preset", "guidance"), [("mar-b", 2.9), ("mar-l", 3.0), ("mar-h", 3.2)])
def test_published_teachers_draw_as_their_authors_did(preset, guidance):
    assert SAMPLERS[preset] == Ancestral(steps=100, cfg=guidance, cfg_schedule="linear", temperature=1.0, clip_x0=None)
    arguments = ["--teacher", "--preset", preset]
    assert defaults(sample.Config, arguments).sampler == SAMPLERS[preset]
    assert distill.defaults(preset).figures.sampler == SAMPLERS[preset]


def test_the_embedded_teacher_draws_at_its_best():
    best = json.loads(assets_index.TEACHER_FIGURES.read_text(encoding="utf-8"))["sampler"]
    assert defaults(Source, []).sampler == distill.defaults("tiny").figures.sampler == Ancestral(**best)


def test_the_sizes_of_a_checkpoint_tell_its_sampler(tmp_path):
    config = tmp_path / "config.json"
    for name in ("mar-l", "tiny"):
        config.write_text(json.dumps({"model": asdict(MODELS[name])}), encoding="utf-8")
        assert defaults(Source, ["--checkpoint", str(tmp_path / "teacher.safetensors")]).sampler == SAMPLERS[name]


def test_options_win_one_by_one(monkeypatch):
    arguments = ["sample", "--preset", "mar-b", "--sampler.steps", "7", "--sampler.clip-x0", "None"]
    monkeypatch.setattr("sys.argv", arguments)
    got = parse(sample.Config, None, {"default": defaults(sample.Config)})
    assert got.sampler == Ancestral(steps=7, cfg=2.9) and got.preset == "mar-b"


def test_options_know_the_presets_that_there_are():
    assert get_args(PresetName) == tuple(PRESETS) == tuple(MODELS) == tuple(SAMPLERS)
