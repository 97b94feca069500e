"""A real Prometheus beside a real run finds every series of the dashboard."""

import json
import os
import re
import shutil
import subprocess
import sys

import httpx
import pytest
import yaml
from commands import ROOT
from servers import free_port, wait_until
from short import DISTILL, QUICK, QUICK_RL

PROMETHEUS = shutil.which("prometheus")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "RAY_metrics_report_interval_ms": "1000"}


def test_the_dashboard_is_whole():
    board = json.loads((ROOT / "docs/grafana.json").read_text(encoding="utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["targets"] and panel["title"] and panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="NO PROMETHEUS: install prometheus to test what it sees")
def test_prometheus_finds_every_series_of_a_run(tmp_path):
    config = yaml.safe_load((ROOT / "docs/prometheus.yml").read_text(encoding="utf-8"))
    config["global"]["scrape_interval"] = "1s"
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    port = free_port()
    with (tmp_path / "prometheus.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [PROMETHEUS, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log,
        )  # fmt: skip
    job = [
        sys.executable, DISTILL, *QUICK, *QUICK_RL, "--learner.steps", 4, "--rl-learner.steps", 400, "--guard.every", 20,
        "--rl-learner.checkpoint-every", 100, "--out", tmp_path / "run",
    ]  # fmt: skip
    with (tmp_path / "job.log").open("w", encoding="utf-8") as log:
        run = subprocess.Popen(list(map(str, job)), cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log)
    board = (ROOT / "docs/grafana.json").read_text(encoding="utf-8")
    asked = set(re.findall(r"ray_(?:marval_(?:gsim|rl)|node|object_store)_\w+", board)) - {"ray_node_gram_used"}
    assert len(asked) > 25

    def known() -> set[str]:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/label/__name__/values", timeout=10)
        return set(answer.json()["data"])

    def ready() -> bool:
        assert server.poll() is None, (tmp_path / "prometheus.log").read_text(encoding="utf-8")[-3000:]
        return "Server is ready" in (tmp_path / "prometheus.log").read_text(encoding="utf-8")

    try:
        wait_until(ready, 60)
        wait_until(lambda: asked <= known() or run.poll() is not None, 300)
        assert not asked - known(), (tmp_path / "job.log").read_text(encoding="utf-8")[-3000:]
    finally:
        run.terminate()
        run.wait(120)
        server.terminate()
        server.wait(30)
