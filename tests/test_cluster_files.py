"""cluster.yaml and cluster.local.yaml: what `ray up` would accept, with a token, and nothing open to others; what nodes get."""

import re
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config

from actors.serving.endpoint_config import EndpointConfig

ROOT = Path(__file__).parent.parent
FILES = ("cluster.yaml", "cluster.local.yaml")
PARTS = ("marval_ray", "actors", "jobs")
"""What runs on nodes."""


def config_of(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_it(name):
    validate_config(prepare_config(config_of(name)))


@pytest.mark.parametrize("name", FILES)
def test_ray_starts_with_the_token_and_the_dashboard_on_localhost(name):
    config = config_of(name)
    assert "~/.ray/auth_token" in config["file_mounts"].values()
    starts = [c for part in ("head", "worker") for c in config[f"{part}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_what_is_large_or_local_stays_here_and_nothing_that_runs(name):
    excluded = set(config_of(name)["rsync_exclude"])
    assert {".git", ".venv", "/runs", "/models", "/data"} <= excluded
    folders = {path.name for part in PARTS for path in (ROOT / part).rglob("*") if path.is_dir()}
    assert not excluded & folders


def test_a_submitted_job_takes_along_all_that_runs(tmp_path):
    create_package(str(ROOT), tmp_path / "package.zip", include_gitignore=True)
    with zipfile.ZipFile(tmp_path / "package.zip") as package:
        names = set(package.namelist())
    assert {path.relative_to(ROOT).as_posix() for part in PARTS for path in (ROOT / part).rglob("*.*") if path.suffix != ".pyc"} <= names
    files = {name for name in names if not name.endswith("/")}  # an empty folder is named, whatever .rayignore says
    assert {"runs", "data", ".venv"}.isdisjoint(name.split("/")[0] for name in files)


def test_the_image_has_the_pinned_versions():
    image = re.fullmatch(r"rayproject/ray:([\d.]+)-py(\d)(\d+)-cu\d+", config_of("cluster.yaml")["docker"]["image"])
    assert image[1] == version("ray")
    assert f"python_requires = >={image[2]}.{image[3]}" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert f"ray=={image[1]}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_the_head_does_no_work_and_every_role_has_gpu_nodes():
    config = config_of("cluster.yaml")
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert {name for name, kind in types.items() if kind["resources"].get(name) == 1} == {"learner", "rollout", "reward"}
    assert all(kind["max_workers"] >= kind.get("min_workers", 0) for kind in types.values())


FIELDS = {
    "RayCluster": {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"},
    "RayJob": {"clusterSelector", "entrypoint"},
    "RayService": {"serveConfigV2", "rayClusterConfig"},
}
"""Of the ray.io/v1 resources, those that are used here."""
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def test_the_kubernetes_resources_have_known_fields_the_token_and_the_pinned_ray():
    parts = {part["kind"]: part for part in yaml.safe_load_all((ROOT / "docs/kuberay.yaml").read_text(encoding="utf-8"))}
    assert {kind: set(part["spec"]) for kind, part in parts.items()} == FIELDS
    assert {part["apiVersion"] for part in parts.values()} == {"ray.io/v1"}
    for spec in (parts["RayCluster"]["spec"], parts["RayService"]["spec"]["rayClusterConfig"]):
        assert spec["authOptions"] == {"mode": "token"} and spec["rayVersion"] == version("ray")
        assert set(spec["headGroupSpec"]) == {"rayStartParams", "template"}
        for group in spec["workerGroupSpecs"]:
            assert set(group) == GROUP and group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    named = {group["groupName"] for group in parts["RayCluster"]["spec"]["workerGroupSpecs"]}
    assert set(re.findall(r"node (\w+)", parts["RayJob"]["spec"]["entrypoint"])) == named
    app = yaml.safe_load(parts["RayService"]["spec"]["serveConfigV2"])["applications"][0]
    TypeAdapter(EndpointConfig).validate_python(app["args"])
