"""Run the benchmarks of the CPU, one after the other on an idle machine, and write docs/performance.md and the README's table.

    python bench/performance.py --mar PATH
    python bench/performance.py --only serving

What each one printed is kept in docs/performance.json with its command and machine, so that a single one can be measured anew.
mar is a checkout of https://github.com/LTH14/mar, beside which sampling and training are timed; without it those figures stay.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from records import write, write_between

from marval_ray import cli
from marval_ray.files.atomic import write_json

ROOT = Path(__file__).parent.parent
Name = Literal["reference", "sampling", "updates", "encode", "latents", "weights", "serving", "control_plane", "memory"]
NEEDS_MAR: Name = "reference"
BEGIN, END = "<!-- performance: written by `make bench` -->\n", "<!-- end of performance -->\n"


@dataclass(frozen=True)
class Bench:
    """options: of bench/NAME.py. says: what its table shows."""

    title: str
    says: str
    options: tuple[str, ...] = ()


BENCHES: dict[Name, Bench] = {
    "reference": Bench(
        "Beside the authors' code",
        "The same loops and updates by github.com/LTH14/mar and by this project in turn, with the same weights and draws, whose results "
        "are compared before anything is timed; float32.",
        ("--measured", "2", "--rounds", "2"),
    ),
    "sampling": Bench(
        "Sampling: share of the machine's matmul peak",
        "Loops of a student and of its teacher (100 steps, guidance 3), MAR-B's sizes; the peak is the best large product between them.",
    ),
    "updates": Bench(
        "Learning: share of the machine's matmul peak",
        "gsim: whole updates of student and auxiliary network, with their optimisers. replay: the last 8 of 64 loops, forward and back.",
    ),
    "encode": Bench(
        "Encoding images",
        "`jobs/encode.py` with one worker of one thread beside the codec's own loop in one thread; Ray decodes on the other core.",
        ("--repeats", "1", "--cores", "2"),
    ),
    "latents": Bench(
        "Reading latents", "One rank, latents in as many groups as ImageNet's; an update is a pause of 0.285 s.", ("--gigabytes", "1")
    ),
    "weights": Bench(
        "Handing weights over", "From a learner to a worker through Ray's object store, over as many plain copies.", ("--gigabytes", "0.4")
    ),
    "serving": Bench(
        "The endpoint under load",
        "64 clients that ask for one image of 64 loops each, beside the sampler alone; `wrong` differ from its images.",
        ("--replicas", "2", "--threads", "1", "--seconds", "40"),
    ),
    "control_plane": Bench(
        "One controller and many workers",
        "The real flow of batches and weights with workers that only sleep.",
        ("--batches", "4", "--actors", "8", "64"),
    ),
    "memory": Bench("Peak memory", "Of processes on the CPU, resident, GB of 10^9 bytes.", ("--parts", "gsim", "rl", "mar-b")),
}


@dataclass(frozen=True)
class Config:
    only: tuple[Name, ...] = get_args(Name)
    """Those that are measured anew."""
    mar: Path | None = None
    """A checkout of https://github.com/LTH14/mar; `reference` is left out without."""
    records: Path = ROOT / "docs/performance.json"
    document: Path = ROOT / "docs/performance.md"
    readme: Path = ROOT / "README.md"


def main(config: Config) -> None:
    records = json.loads(config.records.read_text(encoding="utf-8")) if config.records.exists() else {}
    for name in config.only:
        if name == NEEDS_MAR and config.mar is None:
            print("reference is left out: it wants --mar, a checkout of https://github.com/LTH14/mar", file=sys.stderr)
            continue
        records[name] = measured(name, config.mar)
        write_json(config.records, records)
    write(config.document, document(records))
    write_between(config.readme, BEGIN, END, first_screen(records))


def measured(name: Name, mar: Path | None) -> dict[str, str | float]:
    """Run one benchmark; what it prints besides its tables is only shown. Raises ValueError when it fails."""
    options = [*([str(mar)] if name == NEEDS_MAR else []), *BENCHES[name].options]
    print(f"bench/{name}.py", *options, file=sys.stderr)
    began = time.monotonic()
    done = subprocess.run([sys.executable, f"bench/{name}.py", *options], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, file=sys.stderr)
    if done.returncode:
        raise ValueError(f"bench/{name}.py failed, see above")
    return {
        "command": shlex.join(["python", f"bench/{name}.py", *(["PATH"] if name == NEEDS_MAR else []), *BENCHES[name].options]),
        "table": "\n".join(line for line in done.stdout.splitlines() if line.startswith("|")),
        "machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "seconds": round(time.monotonic() - began),
    }  # fmt: skip


def machine() -> str:
    """Name processor and cores."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor() or platform.machine()}"


def document(records: dict[str, dict]) -> str:
    parts = [section(bench, records[name]) for name, bench in BENCHES.items() if name in records]
    total = sum(record["seconds"] for record in records.values()) / 60
    return TEXT.format(minutes=total, parts="\n\n".join(parts))


def section(bench: Bench, record: dict) -> str:
    return f"## {bench.title}\n\n{bench.says}\n\n{record['table']}\n\n`{record['command']}`, {record['date']}, {record['machine']}."


def first_screen(records: dict[str, dict]) -> str:
    """Return the table beside the authors' code, where it was measured."""
    if NEEDS_MAR not in records:
        return ""
    return f"{records[NEEDS_MAR]['table']}\n\nMAR-B in float32, {records[NEEDS_MAR]['machine']}.\n"


TEXT = """# Performance on CPUs

Made by `make bench MAR=PATH` ({minutes:.0f} minutes in all), one benchmark after the other. Times are of the machine that is named; what
may be carried over are ratios, whose two sides ran in turn. Figures of a GPU are in [scaling](scaling.md).

{parts}
"""


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
