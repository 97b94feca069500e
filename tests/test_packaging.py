"""setup.cfg: it declares what is imported and nothing else."""

import re
import sys
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path

from test_layers import modules

ROOT = Path(__file__).parent.parent
OWN = {"marval_ray", "actors", "jobs"} | {path.stem for folder in ("tests", "bench") for path in (ROOT / folder).glob("*.py")}
HOMES = {
    "PIL": "pillow", "grpc": "grpcio", "open_clip": "open-clip-torch", "yaml": "pyyaml", "torch.utils.tensorboard": "tensorboard",
}  # fmt: skip
"""Where modules come from that are not named as their distribution."""
COMMANDS = {"moto", "schemathesis"}
"""What tests run and do not import."""


def sources(*folders: str) -> list[str]:
    return [path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py")]


def used(*folders: str) -> set[str]:
    """The distributions that the files of `folders` need."""
    texts = sources(*folders)
    imported = {name for text in texts for name in modules(text) if name.split(".")[0] not in OWN | sys.stdlib_module_names}
    return {home(name) for name in imported} | {name for name in COMMANDS if any(f'with_name("{name}' in text for text in texts)}


def home(module: str) -> str:
    """The distribution of `module`."""
    return next((HOMES[known] for known in HOMES if f"{module}.".startswith(f"{known}.")), normal(module.split(".")[0]))


def declared(section: str, option: str) -> dict[str, set[str]]:
    """The distributions that setup.cfg names there, with their extras."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    parts = (re.fullmatch(r"([\w.-]+)(?:\[(.+)\])?", line) for line in config[section][option].split())
    return {normal(part[1]): set((part[2] or "").split(",")) for part in parts}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


NEEDED = declared("options", "install_requires")
FOR_TESTS = declared("options.extras_require", "test")


def test_what_runs_declares_all_that_it_imports_and_nothing_else():
    assert used("marval_ray", "actors", "jobs") == set(NEEDED)


def test_what_tests_and_benches_import_besides_is_the_extra_for_tests():
    assert used("tests", "bench") - set(NEEDED) == set(FOR_TESTS)


def test_the_extras_of_ray_are_its_parts_that_are_imported_and_the_dashboard_for_submitted_jobs():
    extras = set(distribution("ray").metadata.get_all("Provides-Extra"))
    parts = {name.split(".")[1] for text in sources("actors", "jobs") for name in modules(text) if name.startswith("ray.")}
    assert NEEDED["ray"] == parts & extras | {"default"}


def test_every_declared_version_is_pinned():
    pins = {normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    assert NEEDED.keys() | FOR_TESTS.keys() | declared("options.extras_require", "lint").keys() <= pins
