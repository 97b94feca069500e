"""Put wheels of all that this project and its tests need, but PyTorch, into a folder, for a machine without network.

    python bench/pack_wheels.py --out wheels
    python bench/pack_wheels.py --out wheels --python 3.12.3    # of the other machine

Takes the packages of this environment in their versions. What has no wheel (DeepSpeed) is built here. `bench/gpu_check.py --wheels`
installs them beside the PyTorch of the other machine.
"""

import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from marval_ray import cli

LEFT_OUT = re.compile(r"(torch|torchvision|triton|(nvidia|cuda)[-_].*|pip|setuptools|marval[-_]ray)$")
"""What the other machine has of its own, in the build for its GPU, and this project itself, which is run from its folder."""
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "linux_x86_64")


@dataclass(frozen=True)
class Config:
    out: Path = Path("wheels")
    python: str = platform.python_version()
    """Version of the other machine's Python."""
    without_wheels: tuple[str, ...] = ("deepspeed",)
    """Packages that are built here, since nobody publishes wheels of them."""


def main(config: Config) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    found = {each.name.lower(): f"{each.name}=={each.version}" for each in distributions()}
    wanted = {name: text for name, text in found.items() if not LEFT_OUT.match(name)}
    built = [wanted.pop(name) for name in config.without_wheels if name in wanted]
    own = ["--only-binary=:all:", "--python-version", config.python, *(word for name in PLATFORMS for word in ("--platform", name))]
    pip("download", "--no-deps", *own, "--dest", str(config.out), *sorted(wanted.values()))
    if built:
        pip("wheel", "--no-deps", "--wheel-dir", str(config.out), *built)
    files = list(config.out.glob("*.whl"))
    print(f"{config.out}: {len(files)} wheels, {sum(file.stat().st_size for file in files) / 1e6:.0f} MB")


def pip(*arguments: str) -> None:
    """Raises ValueError when pip fails, which says why itself."""
    if subprocess.run([sys.executable, "-m", "pip", *arguments, "-q"], check=False).returncode:
        raise ValueError(f"pip {arguments[0]} failed, see above")


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
