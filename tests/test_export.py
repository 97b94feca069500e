"""A student as one folder: read by the pipeline and by every command, moved, put on the Hub."""

import base64
import http.server
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refuse, succeed
from small import MODEL, write_teacher

from actors.serving.sampler import Served
from marval_ray.embedded import assets_index
from marval_ray.embedded.fashion_mnist import CLASS_NAMES
from marval_ray.families.base import Wish
from marval_ray.files.images import read_npz
from marval_ray.hub.exported import Index
from marval_ray.hub.layout import codec_beside
from marval_ray.pipeline import MarvalPipeline
from marval_ray.types import Prompts

EXPORT, SAMPLE = "jobs/export.py", "jobs/sample.py"
STUDENT = assets_index.STUDENT
NO_INDEX = shutil.ignore_patterns("model_index.json")
"""Of a folder as older runs left it."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The embedded student, moved to another place after it was written."""
    folder = tmp_path_factory.mktemp("exported")
    succeed(EXPORT, STUDENT, "--to", folder / "first", "--loops", 8)
    shutil.move(folder / "first", folder / "moved")
    return folder / "moved"


@pytest.fixture(scope="module")
def pipeline(exported) -> MarvalPipeline:
    return MarvalPipeline.from_pretrained(exported)


def arrays(images: list) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_the_pipeline_draws_what_the_commands_and_the_endpoint_draw(pipeline, exported, tmp_path):
    found = arrays(pipeline([3, 3, "bag", "bag"], generator=torch.Generator().manual_seed(7)).images)
    for checkpoint in (STUDENT, exported):
        options = ["--labels", "3,8", "--per-label", 2, "--seed", 7, "--out", tmp_path / f"{checkpoint.name}.npz"]
        loops = ["--n-ar", 8] if checkpoint == STUDENT else []  # the folder says so
        succeed(SAMPLE, "--checkpoint", checkpoint, *options, *loops)
        pixels, _ = read_npz(tmp_path / f"{checkpoint.name}.npz")
        assert np.abs(pixels[..., 0] - found).max() <= 1
    served = Served(pipeline.generation.model, pipeline.generation.codec, "exported")
    drawing = served.begin(Wish(Prompts.of_labels(torch.tensor([3])), seed=7, loops=8))
    while not drawing.finished:
        served.advance([drawing])
    assert np.abs(served.pixels([drawing])[0, ..., 0].astype(int) - found[0]).max() <= 1


def test_the_folder_of_a_run_is_the_model_wherever_it_is_copied(run_folder, tmp_path):
    """Also when only its first stage is over; an export is the same files without the run's own."""
    shutil.copytree(run_folder, tmp_path / "copy", ignore=shutil.ignore_patterns("train"))
    summary = json.loads((run_folder / "summary.json").read_text())
    pipeline = MarvalPipeline.from_pretrained(tmp_path / "copy")
    assert pipeline.index == Index(summary["student_n_ar"], "mit", CLASS_NAMES)
    assert codec_beside(tmp_path / "copy" / "student.safetensors") == tmp_path / "copy" / "codec"
    card = (tmp_path / "copy" / "README.md").read_text()
    assert f"{summary['student_fd']:.2f} ± " in card and "GSIM: 4 updates of 8 images" in card
    final = arrays(pipeline(range(3), num_loops=2).images)
    (tmp_path / "copy" / "student.safetensors").unlink()
    assert np.abs(arrays(MarvalPipeline.from_pretrained(tmp_path / "copy")(range(3), num_loops=2).images) - final).max() <= 1
    succeed(EXPORT, run_folder, "--to", tmp_path / "export")
    written = {path.relative_to(tmp_path / "export") for path in (tmp_path / "export").rglob("*") if path.is_file()}
    assert {str(path) for path in written if len(path.parts) == 1} == {
        "README.md", "config.json", "grid.png", "model_index.json", "student.safetensors"
    }
    assert not [path for path in written if (tmp_path / "export" / path).read_bytes() != (run_folder / path).read_bytes()]
    assert "is not empty" in refuse(EXPORT, STUDENT, "--to", tmp_path / "copy", "--overwrite")  # a run is no export


def test_forms_loops_and_calls_on_the_way(pipeline):
    seen = []
    images = pipeline(
        list(CLASS_NAMES), num_loops=4, output_type="pt",
        callback_on_loop_end=lambda pipe, loop, tokens: seen.append((pipe, loop, tokens.shape)),
    ).images  # fmt: skip
    assert seen == [(pipeline, loop, (10, 64, 4)) for loop in range(4)]
    assert images.shape == (10, 1, 28, 28) and images.min() >= 0 and images.max() <= 1
    array = pipeline(range(10), num_loops=4, output_type="np", batch_size=3).images
    assert array.shape == (10, 28, 28, 1) and np.abs(array[..., 0] - images[:, 0].numpy()).max() < 1e-3
    assert not np.allclose(pipeline(range(10), num_loops=8, output_type="np").images, array, atol=0.1)
    assert not np.allclose(pipeline(range(10), num_loops=4, temperature=0.5, output_type="np").images, array, atol=0.1)
    rounded = MarvalPipeline(pipeline.generation, pipeline.index).to("cpu", torch.bfloat16)
    assert rounded.dtype == torch.bfloat16 and rounded.device == torch.device("cpu")
    pipeline.to("cpu", torch.float32)


def test_a_bar_counts_loops_unless_nobody_wants_it(exported, capsys):
    pipeline = MarvalPipeline.from_pretrained(exported)
    pipeline(range(5), num_loops=4, batch_size=2)
    assert "12/12" in capsys.readouterr().err  # of three batches
    pipeline.set_progress_bar_config(desc="drawn", ncols=60)
    pipeline(range(5), num_loops=4)
    assert "drawn: 100%" in capsys.readouterr().err
    pipeline.set_progress_bar_config(disable=True)
    pipeline(range(5), num_loops=4)
    assert capsys.readouterr().err == ""


def test_slices_are_decoded_one_by_one_to_the_same_images(exported):
    pipeline, sizes = MarvalPipeline.from_pretrained(exported), []
    pipeline.generation.codec.vae.autoencoder.decoder.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    together = pipeline(range(5), num_loops=4, output_type="pt", batch_size=3).images
    pipeline.enable_vae_slicing()
    alone = pipeline.to("cpu")(range(5), num_loops=4, output_type="pt", batch_size=3).images
    assert sizes == [3, 2, 1, 1, 1, 1, 1] and torch.allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"class_labels": [10]}, "class 10 is out of range: the model's classes are 0-9"),
        ({"class_labels": "dog"}, "'dog' is the name of no class; known are t-shirt, "),
        ({"class_labels": []}, "class_labels is empty"),
        ({"class_labels": 1, "num_loops": 65}, r"num_loops must be in 1..64, the tokens of an image, got 65"),
        ({"class_labels": 1, "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"class_labels": 1, "temperature": 3}, r"temperature must be in 0..2, got 3"),
        ({"class_labels": 1, "generator": -1}, "the seed must be in"),
    ],
)
def test_what_cannot_be_drawn_is_said(pipeline, call, said):
    with pytest.raises(ValueError, match=said):
        pipeline(**call)


def test_folders_that_are_not_whole_are_refused(exported, tmp_path):
    with pytest.raises(ValueError, match=r"is no folder: of a model on the Hub give what huggingface_hub.snapshot_download"):
        MarvalPipeline.from_pretrained("somebody/model")
    with pytest.raises(ValueError, match=r"has no model_index.json, .*: `python jobs/export.py .* --to FOLDER` writes one"):
        MarvalPipeline.from_pretrained(shutil.copytree(STUDENT.parent, tmp_path / "older", ignore=NO_INDEX))
    shutil.copytree(exported, tmp_path / "other")
    (tmp_path / "other" / "student.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no student.safetensors or student-gsim.safetensors now: fetch the whole of it"):
        MarvalPipeline.from_pretrained(tmp_path / "other")
    for command in (("jobs/sample.py", "--checkpoint"), ("jobs/evaluate.py", "--checkpoint"), (EXPORT, "--to", tmp_path / "new")):
        assert "has no student.safetensors or student-gsim.safetensors now" in refuse(*command, tmp_path / "other")
    (tmp_path / "other" / "model_index.json").write_text('{"_class_name": "DiTPipeline"}')
    with pytest.raises(ValueError, match="its _class_name is not MarvalPipeline"):
        MarvalPipeline.from_pretrained(tmp_path / "other")


def test_the_card_says_how_it_was_made_and_names_no_folder_of_this_machine(tmp_path):
    run = shutil.copytree(STUDENT.parent, tmp_path / "run", ignore=NO_INDEX)
    told = json.loads((run / "config.json").read_text()) | {
        "teacher": "/home/somebody/mar.pth", "stages": ["gsim", "rl"], "gsim": {"w": 2.5, "w_schedule": "linear"},
        "learner": {"steps": 1000, "batch": 8, "workers": 4, "lr": 1e-5}, "rl_learner": {"steps": 50},
        "rl": {"loops": [8, 64], "rewards": ["pickscore:/home/somebody/PickScore_v1"]},
    }  # fmt: skip
    (run / "config.json").write_text(json.dumps(told))
    said = refuse(EXPORT, run, "--to", "hub:somebody/mine")
    assert "inherits the licence of its teacher, here /home/somebody/mar.pth: give it with --licence" in said
    figures = {"student_fd": 6.5, "student_fd_se": 0.25, "student_images_per_second": 100.0, "student_n_ar": 16}
    (run / "summary.json").write_text(json.dumps(figures))
    succeed(EXPORT, run, "--to", tmp_path / "a", "--licence", "apache-2.0")
    card = (tmp_path / "a" / "README.md").read_text()
    assert "license: apache-2.0" in card and "| 16 | 6.50 ± 0.25 | 100 |" in card and "/home" not in card
    assert "Teacher: mar.pth" in card and "1,000 updates of 32 images" in card and "N_AR 8 and 64, reward pickscore:PickScore_v1" in card
    assert json.loads((tmp_path / "a" / "model_index.json").read_text())["loops"] == 16
    assert "is not empty: name another folder, or --overwrite" in refuse(EXPORT, run, "--to", tmp_path / "a", "--licence", "mit")
    succeed(EXPORT, run, "--to", tmp_path / "a", "--licence", "mit", "--overwrite", "--dtype", "bfloat16")
    assert MarvalPipeline.from_pretrained(tmp_path / "a").index.licence == "mit"


def test_classes_without_names_are_asked_for_by_number(tmp_path):
    teacher = write_teacher(tmp_path / "model", MODEL)
    said = refuse(EXPORT, teacher, "--to", tmp_path / "a", "--vae", assets_index.VAE, "--licence", "mit", "--loops", 100)
    assert "--loops 100 is more than the 16 tokens of an image" in said
    succeed(EXPORT, teacher, "--to", tmp_path / "a", "--vae", assets_index.VAE, "--licence", "mit")
    pipeline = MarvalPipeline.from_pretrained(tmp_path / "a")
    assert pipeline.index.class_names == () and len(pipeline([0, 2]).images) == 2
    with pytest.raises(ValueError, match="known are none: give numbers"):
        pipeline("cat")


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as takes one commit of files; `server.files` are those that came."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            answer = {"url": f"http://{self.headers['Host']}/somebody/mine", "name": "somebody/mine"}
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"success": True, "commitOid": "0" * 40, "commitUrl": f"http://{self.headers['Host']}/somebody/mine/commit/{'0' * 40}"}
        else:
            answer = {}
        self.send(answer)

    def do_GET(self):
        self.send({"siblings": [], "id": "somebody/mine", "sha": "0" * 40})

    def send(self, answer: dict):
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def test_the_hub_gets_one_commit_of_the_whole_folder(exported, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.files, server.tokens = {}, set()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = succeed(EXPORT, STUDENT, "--to", "hub:somebody/mine", "--hub", f"http://127.0.0.1:{server.server_port}", "--loops", 8)
        server.shutdown()
    assert "/somebody/mine/commit/" in said and server.tokens == {"Bearer hf_secret"}
    here = {str(path.relative_to(exported)): path.read_bytes() for path in exported.rglob("*") if path.is_file()}
    assert server.files == here


def test_a_hub_that_is_not_there_is_one_line():
    assert "cannot be put on the Hub (" in refuse(EXPORT, STUDENT, "--to", "hub:somebody/mine", "--hub", "http://127.0.0.1:9")
