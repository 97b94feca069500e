"""All that only a GPU can prove, in one go: the tests that need one, and the speed of each part at MAR's sizes.

    python bench/gpu_check.py --out gpu-check
    python bench/gpu_check.py --out gpu-check --wheels wheels    # on a machine with PyTorch alone, and no network

Wants nothing but Python until the wheels (of bench/pack_wheels.py) are unpacked in OUT/site, beside the PyTorch that is there.
What is done is kept in OUT: called again with the same OUT, it goes on where it ended. Exit code 1: something failed, or is not done.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PARTS = {
    "mar-b": (
        "student bf16", "student graphs", "one image bf16", "one image graphs", "replay", "gsim", "reward", "student", "teacher bf16",
    ),
    "mar-h": ("student bf16",),
}  # fmt: skip
"""What bench/gpu.py measures of each preset, the most wanted first."""
VERDICT = re.compile(r"^(\S+::\S.*?) (PASSED|FAILED|ERROR|SKIPPED)", re.MULTILINE)
CARD = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '', torch.__version__, sep='|')"


@dataclass(frozen=True)
class Check:
    """The folder of a check's files, the environment of its commands, and when it has to be over (time.monotonic)."""

    out: Path
    environment: dict[str, str]
    end: float

    def run(self, *arguments: str, log: Path) -> None:
        """Run Python until it ends or time is up; add what it says to `log`."""
        with log.open("a", encoding="utf-8") as file:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )
            try:
                process.wait(max(1.0, self.end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with the Ray that it may have started
                process.wait()
                file.write("\nended: no time left\n")

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end


def main() -> int:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    out, site = options.out.resolve(), options.out.resolve() / "site"
    environment = dict(os.environ)
    if options.wheels is not None:
        install(options.wheels, site)
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(site), *filter(None, [environment.get("PYTHONPATH")])])
    card, torch = card_and_torch(environment)
    check = Check(out, environment, time.monotonic() + options.seconds)
    parts = {preset: tuple(options.parts or PARTS[preset]) for preset in options.presets}
    verdicts = tests(check, options.tests)
    speeds = measured(check, parts)
    report = {"card": card or "no GPU", "torch": torch, "tests": verdicts, "speeds": speeds}
    (check.out / "check.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    missing = [f"{preset} {part}" for preset, names in parts.items() for part in names if not done(speeds, preset, part)]
    print(table(report))
    for name, verdict in verdicts.items():
        if verdict != "PASSED":
            print(f"{verdict}: {name}, see {check.out / 'tests.log'}")
    for name in missing:
        print(f"not measured: {name}, see {check.out / 'speeds.log'}")
    if not verdicts:
        print(f"no test was run to its end, see {check.out / 'tests.log'}")
    return 0 if card and verdicts and set(verdicts.values()) == {"PASSED"} and not missing else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder of the results")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first, without network")
    parser.add_argument("--seconds", type=float, default=480, help="when to stop, installation not counted")
    parser.add_argument("--presets", nargs="+", default=list(PARTS), help="models whose speed is measured")
    parser.add_argument("--parts", nargs="+", help="parts of bench/gpu.py, in the place of the preset's own")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="files of tests")
    options = parser.parse_args()
    unknown = [preset for preset in options.presets if not options.parts and preset not in PARTS]
    if unknown:
        parser.error(f"nothing is known to be measured of {unknown[0]}: name --parts")
    return options


def install(wheels: Path, site: Path) -> None:
    """Unpack the wheels into a folder of their own, once. Ends the process with one line when there is none."""
    marker, files = site / "installed", sorted(map(str, wheels.glob("*.whl")))
    if not files:
        sys.exit(f"error: no wheels in {wheels}: make them with bench/pack_wheels.py where there is a network")
    if not marker.exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade", "--target", str(site), *files]
        subprocess.run(pip, check=True)
        marker.touch()


def card_and_torch(environment: dict[str, str]) -> tuple[str, str]:
    """Ends the process with one line when there is no PyTorch."""
    asked = subprocess.run([sys.executable, "-c", CARD], capture_output=True, text=True, check=False, env=environment)
    if asked.returncode:
        why = asked.stderr.strip().splitlines()[-1]
        sys.exit(f"error: {sys.executable} cannot import torch ({why}): run this with a Python that has PyTorch")
    card, torch = asked.stdout.strip().split("|")
    return card, torch


def tests(check: Check, files: list[str]) -> dict[str, str]:
    """Run those that have not passed; return the last verdict of each, by name."""
    log = check.out / "tests.log"
    passed = [name for name, verdict in verdicts_in(log).items() if verdict == "PASSED"]
    skip = [word for name in passed for word in ("--deselect", name)]
    if not check.over:
        check.run("-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "gpu", *skip, *files, log=log)
    return verdicts_in(log)


def verdicts_in(log: Path) -> dict[str, str]:
    return dict(VERDICT.findall(log.read_text(encoding="utf-8"))) if log.exists() else {}


def measured(check: Check, parts: dict[str, tuple[str, ...]]) -> list[dict]:
    """Measure what is not yet there, each part in a process of its own; return all that is."""
    speeds: list[dict] = []
    for preset, names in parts.items():
        for part in names:
            file = check.out / f"{preset}-{part.replace(' ', '-')}.json"
            if not file.exists() and not check.over:
                check.run("bench/gpu.py", "--presets", preset, "--parts", part, "--json", str(file), log=check.out / "speeds.log")
            speeds += json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return speeds


def done(speeds: list[dict], preset: str, part: str) -> bool:
    return any(speed["preset"] == preset and speed["part"] == part for speed in speeds)


def table(report: dict) -> str:
    """Return the figures as docs/scaling.md has them."""
    passed = sum(verdict == "PASSED" for verdict in report["tests"].values())
    lines = [f"{report['card']}, PyTorch {report['torch']}: {passed} of {len(report['tests'])} tests passed", ""]
    lines += ["| model | part | batch | ms an image | GB |", "| -- | -- | -- | -- | -- |"]
    for s in report["speeds"]:
        lines.append(f"| {s['preset']} | {s['part']} | {s['batch']} | {1000 * s['seconds']:.2f} | {s['gigabytes']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
