"""setup.cfg: it declares what is imported and nothing else; what an installation puts where."""

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from test_dockerfile import copied
from test_layers import modules

ROOT = Path(__file__).parent.parent
OWN = {"marval_ray", "actors", "jobs"} | {path.stem for folder in ("tests", "bench") for path in (ROOT / folder).glob("*.py")}
HOMES = {
    "PIL": "pillow", "grpc": "grpcio", "open_clip": "open-clip-torch", "yaml": "pyyaml", "torch.utils.tensorboard": "tensorboard",
}  # fmt: skip
"""Where modules come from that are not named as their distribution."""
NOT_IMPORTED = {
    "beartype": '"beartype.beartype"', "moto": '"moto_server"', "schemathesis": '"schemathesis"', "pytest-xdist": "--dist worksteal",
}  # fmt: skip
"""What tests hook in or run as a command, and the words that show it."""


def sources(*folders: str) -> list[str]:
    """The texts of all files but this one, which has those words."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != Path(__file__))
    return [path.read_text(encoding="utf-8") for path in paths]


def used(*folders: str) -> set[str]:
    """The distributions that the files of `folders` need."""
    texts = sources(*folders)
    imported = {name for text in texts for name in modules(text) if name.split(".")[0] not in OWN | sys.stdlib_module_names}
    commands = [*texts, (ROOT / "Makefile").read_text(encoding="utf-8")] if "tests" in folders else texts
    return {home(name) for name in imported} | {name for name, words in NOT_IMPORTED.items() if any(words in text for text in commands)}


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
DOCS = declared("options.extras_require", "docs")


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
    assert NEEDED.keys() | FOR_TESTS.keys() | declared("options.extras_require", "lint").keys() | DOCS.keys() <= pins


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What the image has of the project, in a folder of its own: builds leave things behind."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


def install(environment: Path, *what: object) -> Path:
    """The site-packages of a fresh environment after `pip install WHAT`; it sees this one's packages, but not its marval_ray."""
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # Of a folder that a .pth file names, Python does not read the .pth files, such as that of an editable installation.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    options = ("-q", "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed")
    output(sys.executable, "-m", "pip", "--python", environment, "install", *options, *what)
    return packages


def says(environment: Path, code: str) -> list[str]:
    """The words that `code` prints there; `-I`: whatever the folder and PYTHONPATH."""
    return output(environment / "bin" / "python", "-I", "-c", code).split()


def output(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_an_installation_is_the_library_with_its_data_and_nothing_else(checkout, tmp_path):
    packages = install(tmp_path, checkout)
    assert {path.name.split("-")[0] for path in packages.iterdir()} == {"marval_ray", "others.pth"}
    assert files(packages / "marval_ray") == files(ROOT / "marval_ray")
    model, teacher = says(
        tmp_path, "import marval_ray.families.mar.model as m, marval_ray.embedded.assets_index as a; print(m.__file__, a.TEACHER)"
    )
    assert Path(model) == packages / "marval_ray/families/mar/model.py"
    assert Path(teacher).is_relative_to(packages) and Path(teacher).exists()


def test_an_editable_installation_has_the_actors_too(checkout, tmp_path):
    install(tmp_path, "-e", checkout)
    found = says(tmp_path, "import actors, marval_ray; print(*actors.__path__, *marval_ray.__path__)")
    assert found == [str(checkout / "actors"), str(checkout / "marval_ray")]
