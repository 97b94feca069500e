"""Options and fixtures that several tests share."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read with torch: the threads of many processes on few cores wait without spinning

import pytest
import torch.distributed as dist
from commands import succeed
from jaxtyping import install_import_hook
from short import DISTILL, SHORT

from marval_ray.environment import before_ray

CHECKED = (
    "marval_ray.diffusion", "marval_ray.distil", "marval_ray.draws", "marval_ray.evaluation", "marval_ray.families.generation",
    "marval_ray.families.dcar",
    *(f"marval_ray.families.mar.{part}" for part in ("batching", "codec", "context", "contexts", "loop", "masking", "model")),
    "marval_ray.reinforce", "marval_ray.rewards.base", "marval_ray.rewards.preprocess", "marval_ray.types",
)  # fmt: skip
install_import_hook(CHECKED, "beartype.beartype")  # shapes and types of the maths hold in every call of a test

os.environ["RAY_ADDRESS"] = "local"  # never a cluster that this machine happens to run, or that died and left a note
before_ray()  # as the jobs do
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # a process more for each learner, which looks at what no test does

FIXTURES = Path(__file__).parent / "fixtures"


def pytest_addoption(parser):
    parser.addoption("--mar-fixture", type=Path, default=FIXTURES / "mar_tiny.safetensors")
    parser.addoption("--detok-fixture", type=Path, default=FIXTURES / "detok_tiny.safetensors")
    parser.addoption("--dcar-fixture", type=Path, default=FIXTURES / "dcar_tiny.safetensors")
    parser.addoption("--vae-fixture", type=Path, default=FIXTURES / "kl16_tiny.safetensors")


@pytest.fixture(scope="session")
def mar_fixture_path(request) -> Path:
    return request.config.getoption("--mar-fixture")


@pytest.fixture(scope="session")
def detok_fixture_path(request) -> Path:
    return request.config.getoption("--detok-fixture")


@pytest.fixture(scope="session")
def dcar_fixture_path(request) -> Path:
    return request.config.getoption("--dcar-fixture")


@pytest.fixture(scope="module")
def parts(tmp_path_factory, dcar_fixture_path):
    """Sizes and files of the recorded DC-AR, as its authors publish them."""
    from small_dcar import write_parts  # imports what is to be checked, after the hook

    return write_parts(tmp_path_factory.mktemp("parts"), dcar_fixture_path)


@pytest.fixture(scope="session")
def vae_fixture_path(request) -> Path:
    return request.config.getoption("--vae-fixture")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A finished run of four updates of GSIM, with two checkpoints: to be read or copied, not changed."""
    folder = tmp_path_factory.mktemp("distill") / "run"
    succeed(DISTILL, "--out", folder, "--learner.steps", 4, *SHORT)
    return folder


@pytest.fixture(scope="module")
def process_group():
    """A group of one process. DeepSpeed keeps to the first that it sees, so there is one for all tests of a process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
            patch.setenv(name, value)
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield
