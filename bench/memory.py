"""Peak memory (resident, of the CPU) of each kind of process, of real commands.

    python bench/memory.py
    python bench/memory.py --parts mar-h

gsim, rl: the stages of jobs/distill.py with the preset tiny and its batches, a few updates of each. mar-b, mar-h: one image of a
student through KL-16's decoder by jobs/sample.py. learner: one update of GSIM of MAR-B, one image, as the learner does it. MAR's
weights are random. The peaks are the system's own (VmHWM), looked at five times a second; memory that processes share counts for each.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import psutil
import torch
import torch.distributed as dist
from sampling import random_model

from actors.learning.gsim import GSIMLearner, GSIMRun, Matching
from marval_ray import cli
from marval_ray.config import LearnerConfig
from marval_ray.embedded import assets_index
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.families.mar.autoencoder import KL16
from marval_ray.files.latent_files import write_latents
from marval_ray.hub.layout import save_model
from marval_ray.presets import MAR_MODELS, PRESETS

ROOT = Path(__file__).parent.parent
Part = Literal["gsim", "rl", "mar-b", "mar-h", "learner"]
SHORT = (
    "--figures.teacher", "None", "--figures.samples", "20", "--figures.sets", "1", "--figures.loops", "8", "--figures.sampler.steps", "2",
)  # fmt: skip
STAGES = {
    "gsim": ("--stages", "gsim", "--learner.steps", "4"),
    "rl": ("--stages", "rl", "--student", str(assets_index.STUDENT), "--rl-learner.seconds", "45", "--guard.samples", "100"),
}
ROLES = {"RayTrainWorker": "learner", "RolloutWorker": "rollout", "RewardWorker": "reward", "Judge": "judge"}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Config:
    parts: tuple[Part, ...] = get_args(Part)
    loops: int = 2
    """AR loops of an image of MAR."""
    update: Path | None = None
    """What --parts learner runs in a process of its own: the folder of a teacher and of latents."""


def main(config: Config) -> None:
    if config.update is not None:
        update(config.update)
        return
    rows = []
    for part in config.parts:
        with tempfile.TemporaryDirectory() as folder:
            for role, peak in sorted(peaks(command(part, Path(folder), config)).items()):
                rows.append([part, role, f"{peak / 1e9:.2f}"])
                print(f"{part} {role}: {peak / 1e9:.2f} GB", flush=True)
    print(markdown_table(["part", "process", "peak, GB"], rows))


def command(part: Part, folder: Path, config: Config) -> list[str]:
    """Return what is run, once its files are there."""
    if part in STAGES:
        return ["jobs/distill.py", "--out", str(folder / "run"), *STAGES[part], *SHORT]
    preset = "mar-b" if part == "learner" else part
    write_teacher(preset, folder)
    if part == "learner":
        return ["bench/memory.py", "--update", str(folder)]
    torch.manual_seed(0)
    KL16.build().save_pretrained(folder / "kl16")
    files = ["--checkpoint", str(folder / "teacher.safetensors"), "--vae", str(folder / "kl16"), "--out", str(folder / "image.png")]
    return ["jobs/sample.py", "--preset", preset, *files, "--labels", "207", "--per-label", "1", "--n-ar", str(config.loops)]


def write_teacher(preset: str, folder: Path) -> None:
    model = MAR_MODELS[preset]
    save_model(folder, "teacher", random_model(model, CPU).state_dict(), model, torch.float32)


def update(folder: Path) -> None:
    """Do one update of GSIM with one image."""
    model, latents = MAR_MODELS["mar-b"], folder / "latents.arrow"
    values = np.random.default_rng(0).standard_normal((1, *model.latent_shape))
    write_latents(latents, values, 0 * values, np.zeros(1, int))
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    matching = Matching(PRESETS["mar-b"].gsim, folder / "teacher.safetensors", latents)
    GSIMLearner(GSIMRun(model, matching, LearnerConfig(batch=1)), CPU).step(0)
    dist.destroy_process_group()


def peaks(arguments: list[str]) -> dict[str, int]:
    """Run a command and return the most bytes that a process of each kind had."""
    driver = psutil.Process(subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL).pid)
    found: Counter[str] = Counter()
    while driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
        for process in [driver, *driver.children(recursive=True)]:
            look(process, "driver" if process == driver else None, found)
        time.sleep(0.2)
    if driver.wait():
        raise ValueError(f"{' '.join(arguments)} failed, see above")
    return dict(found)


def look(process: psutil.Process, role: str | None, found: Counter[str]) -> None:
    """Raise the peak in `found` of what a process is; one that has ended meanwhile, or is none of `ROLES`, is passed over."""
    try:
        title = process.cmdline()[:1]
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    except (psutil.NoSuchProcess, psutil.ZombieProcess, FileNotFoundError, ProcessLookupError):
        return
    role = role or next((role for name, role in ROLES.items() if title and name in title[0]), None)
    if role and "VmHWM:" in status:
        found[role] = max(found[role], 1024 * int(status.split("VmHWM:")[1].split()[0]))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
