"""Load test: many clients at once against a real server, beside the sampler alone at its best batch size.

    python bench/serving.py

Starts jobs/serve.py on this machine and measures the sampler in this process before and after, so that all numbers come from
one run. Every answer is checked: the image must equal the one that the sampler alone draws for its class and seed.
"""

import asyncio
import base64
import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

from marval_ray import cli
from marval_ray.draws import Draws
from marval_ray.embedded import assets_index
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.evaluation.sweep import images_per_second
from marval_ray.families.base import Backbone, Codec
from marval_ray.families.generation import student_generation
from marval_ray.files.atomic import write_json
from marval_ray.files.images import to_pixels
from marval_ray.hub.layout import load_model
from marval_ray.types import Prompts

SERVE = Path(__file__).parent.parent / "jobs/serve.py"


@dataclass(frozen=True)
class Config:
    clients: int = 64
    seconds: float = 60.0
    steps: int = 64
    """N_AR of each request."""
    batches: tuple[int, ...] = (16, 32, 64, 128)
    """Of the sampler alone; the best counts."""
    replicas: int = 1
    """On CPUs more than one, with fewer threads each, waste less time waiting for each other."""
    threads: int = 0
    """Of each replica; 0 takes all."""
    port: int = 8765
    checked: int = 200
    """Answers that are compared with the sampler's own images, spread over the run."""
    out: Path | None = None
    """A JSON file for the figures."""


@dataclass
class Answer:
    seed: int
    status: int
    seconds: float
    content: bytes


def main(config: Config) -> None:
    before = best_alone(config)
    server = start(config)
    try:
        got, took = asyncio.run(load(config))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    after = best_alone(config)
    alone = (before + after) / 2
    served = sum(answer.status == 200 for answer in got) / took
    latency = np.percentile([answer.seconds for answer in got], [50, 95])
    figures = {
        "clients": config.clients, "replicas": config.replicas, "n_ar": config.steps, "answers": len(got),
        "lost": sum(answer.status != 200 for answer in got),
        "wrong": wrong(got, config), "images_per_second": served, "alone_images_per_second": alone, "share": served / alone,
        "p50_s": latency[0], "p95_s": latency[1],
    }  # fmt: skip
    print(markdown_table([name.replace("_", " ") for name in figures], [[f"{value:.3g}" for value in figures.values()]]))
    if config.out:
        write_json(config.out, figures)


def best_alone(config: Config) -> float:
    """Images/s of the sampler without a server, at the best of the batch sizes."""
    model, codec = embedded()

    def speed(batch: int, steps: int) -> float:
        prompts = Prompts.classes_in_turn(model.config.num_classes, batch)
        return images_per_second(student_generation(model, codec, steps, batch), prompts)

    speed(max(config.batches), 8)  # until it has seen the largest, glibc gives memory back and asks for it again in each loop
    speeds = [speed(batch, config.steps) for batch in config.batches]
    print("alone, images/s by batch:", dict(zip(config.batches, np.round(speeds, 1).tolist())), flush=True)
    return max(speeds)


def embedded() -> tuple[Backbone, Codec]:
    """The student that is served, and its codec."""
    model = load_model(assets_index.STUDENT).eval()
    return model, model.config.family.codec(assets_index.VAE, model.config)


def start(config: Config) -> subprocess.Popen:
    """A server that is ready. Raises ValueError when it ends before."""
    options = {
        "port": config.port, "threads": config.threads, "cpus": 0.5, "min-replicas": config.replicas, "max-replicas": config.replicas,
    }  # fmt: skip
    command = [sys.executable, str(SERVE), *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not answers(config.port):
        if process.poll() is not None:
            raise ValueError(f"the server ended before it was ready: see {' '.join(command[1:])}")
        time.sleep(0.5)
    return process


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


async def load(config: Config) -> tuple[list[Answer], float]:
    """What all clients got, and how long it took until the last one had its answer."""
    url, got = f"http://127.0.0.1:{config.port}/v1/images/generations", list[Answer]()
    began = time.perf_counter()

    async def client(number: int) -> None:
        async with httpx.AsyncClient(timeout=120) as session:
            seed = number
            while time.perf_counter() - began < config.seconds:
                asked = time.perf_counter()
                reply = await session.post(url, json={"class": seed % 10, "seed": seed, "steps": config.steps})
                got.append(Answer(seed, reply.status_code, time.perf_counter() - asked, reply.content))
                seed += config.clients

    async with asyncio.TaskGroup() as group:
        for number in range(config.clients):
            group.create_task(client(number))
    return got, time.perf_counter() - began


@torch.inference_mode()
def wrong(got: list[Answer], config: Config) -> int:
    """How many of some answers differ from the sampler's own images by more than one grey level."""
    model, codec = embedded()
    family, count = model.config.family, 0
    for answer in got[:: max(1, len(got) // config.checked)]:
        if answer.status != 200:
            continue
        *_, tokens = family.reveal(model, model.one_step, torch.tensor([answer.seed % 10]), Draws(answer.seed, (0,)), config.steps)
        own = to_pixels(codec.decode(tokens))[0, ..., 0].astype(int)
        png = base64.b64decode(json.loads(answer.content)["data"][0]["b64_json"])
        count += bool(abs(np.asarray(Image.open(io.BytesIO(png))).astype(int) - own).max() > 1)
    return count


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
