"""Dockerfile: pinned, without root, with all that runs; built and started where there is a container engine."""

import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
IMAGE = f"registry.example.com/marval_ray:{version('marval_ray')}"


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, arguments), without comments."""
    lines = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8")).replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


def of_kind(kind: str) -> list[str]:
    return [rest for word, rest in instructions() if word == kind]


def copied() -> set[str]:
    """Files and folders that go into the image; each must be there."""
    sources = {name for rest in of_kind("COPY") for name in rest.split()[1:-1]}
    assert all((ROOT / name).exists() for name in sources)
    return sources


def test_it_starts_from_the_pinned_image_of_the_cluster_and_not_as_root():
    assert instructions()[0] == ("FROM", yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))["docker"]["image"])
    assert of_kind("USER") == ["ray"] and instructions()[1][0] == "USER"
    assert all(rest.startswith("--chown=ray:users ") for rest in of_kind("COPY")) and not of_kind("ADD")


def test_versions_are_the_pinned_ones():
    first, last = of_kind("RUN")
    assert "-c constraints.txt" in first and "--no-deps" in last


def test_all_that_runs_is_copied_and_nothing_else_is_sent():
    assert {"marval_ray", "actors", "jobs", "LICENSE", "NOTICE"} <= copied()
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in ignored and {line[1:] for line in ignored if line.startswith("!")} == copied()


def test_what_refers_to_the_image_means_this_one():
    assert set(re.findall(r"image: (\S+)", (ROOT / "docs/kuberay.yaml").read_text(encoding="utf-8"))) == {IMAGE}
    for name in ("Dockerfile", "docs/kuberay.yaml", "docs/clusters.md"):
        assert f"docker build -t {IMAGE} ." in (ROOT / name).read_text(encoding="utf-8"), name
    assert "Dockerfile" in (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    (folder,) = of_kind("WORKDIR")
    assert f"python {folder}/jobs/distill.py" in (ROOT / "docs/kuberay.yaml").read_text(encoding="utf-8")


def engine() -> str | None:
    """A container engine that answers."""
    found = (name for name in ("docker", "podman") if shutil.which(name))
    return next((name for name in found if subprocess.run([name, "info"], capture_output=True).returncode == 0), None)


@pytest.mark.slow
def test_the_image_builds_and_starts_as_a_user_with_the_jobs_and_the_pinned_ray():
    container = engine()
    if container is None:
        pytest.skip("NO CONTAINER ENGINE: neither docker nor podman answers")
    subprocess.run([container, "build", "-q", "-t", IMAGE, ROOT], check=True, timeout=3600)
    asked = "id -un && ray --version && python jobs/distill.py --help && cd / && python -c 'import actors.serving.endpoint'"
    answer = subprocess.run([container, "run", "--rm", IMAGE, "bash", "-c", asked], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("ray\n") and version("ray") in answer.stdout and "--preset" in answer.stdout
