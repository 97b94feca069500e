"""The documentation: a site without dead links, commands that the jobs know, and those that can run here do."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from commands import ROOT, help_of, succeed
from short import QUICK

from marval_ray.rewards.spec import load_reward

PAGES = sorted((ROOT / "docs").glob("*.md")) + [ROOT / "README.md"]
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
"""Language and content."""
ONCE = ("--per-label", 1, "--n-ar", 1)
QUICK_RL = (
    *QUICK, "--rl.loops", 2, "--rl.last", 2, "--rl-learner.batch", 8, "--rl-learner.steps", 2, "--rl-learner.checkpoint-every", 1,
    "--guard.every", 1, "--guard.samples", 20, "--guard.loops", 2, "--guard.patience", 9,
)  # fmt: skip
SMALL: dict[str, tuple[object, ...]] = {
    "python jobs/distill.py --stages rl --student runs/demo/student-gsim.safetensors": QUICK_RL,
    "python jobs/sample.py --labels": ONCE,
    "python jobs/sample.py --teacher --out": (*ONCE, "--sampler.steps", 2),
    "python jobs/evaluate.py": ("--per-label", 2, "--n-ar", 1),
    "python jobs/compare.py runs/a runs/b teacher": ("--per-label", 1, "--sets", 1, "--n-ar", 1),
    "python jobs/export.py runs/": ("--overwrite",),
    "python jobs/status.py runs/": (),
    "python bench/cost.py": (),
    "python bench/curves.py": (),
    "python bench/scenes.py": (),
    "python jobs/distill.py --preset mar-b --plan": (),
}
"""Beginnings of commands that run here, in this order, and options that make them small."""
ELSEWHERE = {
    "git clone": "needs the repository's address",
    "cd ": "no command of this project",
    "mkdir ": "no command of this project",
    "cp ": "no command of this project",
    ". .venv/bin/activate": "no command of this project",
    "make .venv/.installed": "tests run in what it makes",
    "make demo": "tests/test_jobs.py: the same command, shorter",
    "make test": "is what runs this",
    "apt-get install": "changes the machine",
    "python jobs/distill.py": "tests/test_jobs.py",
    "python jobs/distill.py --preset": "tests/test_chain.py: files in the published formats, small",
    "python jobs/distill.py --preset tiny-t2i": "tests/test_scene_preset.py, shorter",
    "python jobs/distill.py --stages rl --student runs/mine": "tests/test_chain.py: PickScore's weights are not here",
    "python jobs/distill.py --teacher": "tests/test_train_teacher.py: the page from its first step to its last",
    "RAY_ADDRESS=": "tests/test_submit.py",
    "ray start": "tests/test_submit.py",
    "ray job submit": "tests/test_submit.py",
    "ray get-auth-token": "no command of this project",
    "(umask 077": "no command of this project",
    "ray up": "tests/test_cluster.py, on hosts of its own",
    "ray down": "tests/test_cluster.py, on hosts of its own",
    "ray dashboard": "needs a cluster on AWS",
    "RAY_AUTH_MODE=token ray job submit": "tests/test_cluster.py, on hosts of its own",
    "docker ": "needs Docker and a registry; tests/test_dockerfile.py",
    "prometheus ": "tests/test_monitoring.py",
    "curl ": "tests/test_serving.py",
    "serve run": "needs a server that stays; tests/test_serving_life.py",
    "serve deploy": "needs a cluster",
    "python jobs/serve.py": "tests/test_serving.py, tests/test_serving_life.py",
    "python jobs/fetch.py": "tests/test_fetch.py: from a server of its own",
    "python jobs/fid.py": "tests/test_fid.py: the published weights are not here",
    "python jobs/distill.py --preset mar-b-24gb --plan": "as the one that runs here; tests/test_plan.py",
    "python jobs/distill.py --preset dc-ar-512 --plan": "as the one that runs here; tests/test_plan_texts.py",
    "python jobs/encode.py": "tests/test_encode.py",
    "python jobs/map_latents.py": "tests/test_latent_files.py",
    "python jobs/normaliser.py": "tests/test_normaliser.py",
    "python jobs/detok_codec.py": "tests/test_chain.py",
    "python jobs/train_teacher.py": "tests/test_train_teacher.py",
    "python jobs/teacher_figures.py": "tests/test_training_jobs.py",
    "python jobs/embedded/": "tests/test_training_jobs.py, where it takes no hours",
    "python jobs/sample.py --checkpoint": "tests/test_jobs.py: ImageNet's classes need a published model",
    "python jobs/sample.py --checkpoint runs/scenes": "tests/test_scene_preset.py",
    "python jobs/sample.py --teacher --checkpoint": "another teacher than the embedded one, which is drawn here",
    "python jobs/sample.py --teacher --preset": "tests/test_job_options.py: the published weights are not here",
    "python jobs/compare.py runs/a runs/b --rewards": "tests/test_compare.py: the published weights are not here",
    "python jobs/evaluate.py --per-label 200 --n-ar 8 --rewards": "tests/test_jobs.py: the published weights are not here",
    "python jobs/evaluate.py --checkpoint runs/dc-ar": "tests/test_dcar_prompts.py, at a small size",
    "python jobs/evaluate.py --checkpoint runs/scenes": "tests/test_judged_scenes.py, of a small model",
    "python jobs/compare.py runs/scenes": "tests/test_judged_scenes.py, of a small model",
    "python jobs/compare.py runs/dc-ar": "tests/test_dcar_prompts.py, at a small size",
    "python jobs/export.py runs/mar-b": "tests/test_export.py: against a Hub of its own",
    "python jobs/export.py runs/distill": "tests/test_export.py: against a Hub of its own",
    "python jobs/export.py runs/mine": "tests/test_train_teacher.py",
    "python jobs/export.py OLD": "is no name of a run; tests/test_export.py",
    "python jobs/status.py RUN": "is no name of a run",
    "python bench/ablations.py": "takes hours",
    "python bench/results.py": "takes ten minutes; tests/test_results.py",
    "python bench/frontier.py": "takes a quarter of an hour",
    "python bench/over_optimisation.py": "takes a quarter of an hour; tests/test_over_optimisation.py",
    "python bench/text_to_image.py": "takes half an hour; tests/test_results.py",
    "python bench/black_box.py": "takes twenty minutes; tests/test_results.py",
    "python bench/encode.py": "takes minutes and all cores",
    "python bench/latents.py": "takes minutes and 6 GB of disk",
    "python bench/memory.py": "takes minutes and 10 GB of memory",
    "python bench/reference.py": "needs the authors' code",
    "python bench/compare.py": "takes a quarter of an hour; tests/test_speed_compare.py",
    "python bench/floor.py": "needs the whole of Fashion-MNIST",
    "python bench/control_plane.py": "takes minutes and all cores",
    "python bench/serving.py": "takes minutes and all cores",
    "python bench/weights.py": "takes half a minute and all cores",
    "python bench/performance.py": "takes minutes and all cores; tests/test_performance.py",
    "python bench/sampling.py": "tests/test_training_jobs.py, at a small size",
    "python bench/updates.py": "tests/test_training_jobs.py, at a small size",
    "python bench/gpu.py": "needs a GPU",
    "python bench/gpu_check.py": "needs a GPU; tests/test_gpu_check.py",
    "python bench/pack_wheels.py": "takes minutes and a network",
}
"""Beginnings of those that do not, and why, or which test has them; the longest that fits counts."""


def blocks(text: str, *languages: str) -> list[str]:
    """Blocks of code in one of `languages`."""
    return [body for language, body in FENCED.findall(text) if language in languages]


def commands(text: str) -> list[str]:
    """The commands of a page, in blocks and in sentences, one line each, without remarks."""
    indented = re.findall(r"((?:^ {8}\S.*\n)+)", FENCED.sub("", text), re.MULTILINE)
    sentences = re.findall(r"`(python (?:jobs|bench)/[^`]+)`", text)
    lines = "\n".join((*blocks(text, "", "bash"), *indented, *sentences)).replace("\\\n", " ").splitlines()
    calls = [call for line in lines for call in re.split(r"&&|[|;]", re.sub(r"(^|\s)#.*", "", line))]
    return [" ".join(call.split()) for call in calls if call.strip()]


ALL = sorted({command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))})


def beginning(command: str) -> str | None:
    """The longest entry of the two tables that fits."""
    return max((text for text in (*SMALL, *ELSEWHERE) if command.startswith(text)), key=len, default=None)


def test_the_site_is_built_without_a_dead_link(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert "Draw an image for each label" in text and "from_pretrained" in text
    first = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?https?:", first)  # nothing comes from elsewhere


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_docs_are_options_of_the_jobs(page):
    for command in commands(page.read_text(encoding="utf-8")):
        script, *words = command[found.start() :].split() if (found := re.search(r"(jobs|bench)/\S+\.py", command)) else ("",)
        options = [word for word in words if word.startswith("--")]
        known = help_of(script) if options else ""
        missing = [option for option in options if not re.search(rf"{re.escape(option)}(?![\w.-])", known)]
        assert not missing, f"{script} has no {missing}"


def test_every_job_is_in_the_docs():
    told = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    jobs = {f"jobs/{path.name}" for path in (ROOT / "jobs").glob("*.py")}
    assert {job for job in jobs if job not in told} == set()


def test_every_command_in_the_docs_is_run_here_or_it_is_said_why_not():
    assert [command for command in ALL if beginning(command) is None] == []
    assert {*SMALL, *ELSEWHERE} == {beginning(command) for command in ALL}  # nothing of yesterday
    tests = {name for why in ELSEWHERE.values() for name in re.findall(r"tests/\w+\.py", why)}
    assert {name for name in tests if not (ROOT / name).exists()} == set()


@pytest.fixture
def own_rewards(tmp_path, monkeypatch):
    """The module of docs/own-reward.md, where Python finds it."""
    (code,) = blocks((ROOT / "docs/own-reward.md").read_text(encoding="utf-8"), "python")
    (tmp_path / "my_rewards.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("my_rewards")
    del sys.modules["my_rewards"]


def test_the_rewards_in_the_docs_score_images(own_rewards):
    images = torch.linspace(-1, 1, 2 * 28 * 28).reshape(2, 1, 28, 28).requires_grad_()
    contrast, background = (load_reward([f"plugin:my_rewards:{name}"]) for name in ("Contrast", "Background"))
    assert contrast.differentiable and not background.differentiable
    assert torch.allclose(contrast(images, ("", "")), torch.full((2,), 0.2888), atol=1e-3)  # of a ramp of length 1: 1 / sqrt(12)
    assert torch.autograd.grad(contrast(images, ("", "")).sum(), images)[0].abs().min() > 0
    assert background(images, ("", "")).tolist() == [pytest.approx(40 / 784), 0.0]


@pytest.mark.slow
def test_commands_in_the_docs_run(run_folder, own_rewards, tmp_path, monkeypatch):
    """In a folder of their own, in the order of SMALL."""
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "mine", "distill", "a", "b"):
        shutil.copytree(run_folder, f"runs/{name}")
    for first, options in SMALL.items():
        for command in (command for command in ALL if beginning(command) == first):
            succeed(*shlex.split(command)[1:], *options)
        shutil.copy("runs/contrast/metrics-rl.jsonl", "runs/demo")  # RL came first; the curves are of both stages
    (code,) = blocks((ROOT / "docs/usage.md").read_text(encoding="utf-8"), "python")
    found: dict = {}
    exec(code, found)
    assert [image.size for image in found["images"]] == [(28, 28)] * 2
    made = ("first.png", "teacher.png", "student.npz", "scores.json", "curves.png", "runs/compare/compare.html", "models/mine")
    assert [name for name in made if not (tmp_path / name).exists()] == []
