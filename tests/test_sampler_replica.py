"""The replica that draws, as Ray Serve calls it, without Ray: which students it takes over, and which it refuses."""

import asyncio
import json
import os
import shutil
import time
from dataclasses import replace

import pytest
import torch
from api_client import MODEL, pixels, sampler_of, serving, wait_for_idle
from small import wish

from actors.serving.endpoint import user_config
from actors.serving.endpoint_config import EndpointConfig
from actors.serving.sampler_replica import Sampler
from marval_ray.embedded import assets_index
from marval_ray.files.fit import save_weights
from marval_ray.files.tensors import read_state
from marval_ray.hub.layout import save_model
from marval_ray.runs.students import readable_student_of, student_of

STUDENT = assets_index.STUDENT
CONFIG = EndpointConfig(threads=1, batch=2)
STATE = read_state(STUDENT)


@pytest.fixture(scope="module")
def sampler():
    with serving(CONFIG) as sampler:
        yield sampler


@pytest.fixture
def run(tmp_path):
    """A run whose newest student is the embedded one."""
    shutil.copy(STUDENT.parent / "config.json", tmp_path)
    shutil.copy(STUDENT, tmp_path / "student-gsim.safetensors")
    return tmp_path


def export(run, state: dict[str, torch.Tensor]) -> None:
    save_weights(run / "student.safetensors", state, torch.float32)


def change_config(run, **changes: object) -> None:
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    (run / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")


def blank(run) -> None:
    """Finite weights whose products are not."""
    export(run, {name: 1e30 * value.float() for name, value in STATE.items()})


def another_model(run) -> None:
    change_config(run, model=json.loads((run / "config.json").read_text(encoding="utf-8"))["model"] | {"student_timestep": 300})


def no_codec(run) -> None:
    change_config(run, vae="./codec")


def vanish(run) -> None:
    (run / "student-gsim.safetensors").unlink()


def overwrite(run) -> None:
    for path in run.iterdir():
        path.unlink()


def half_a_config(run) -> None:
    (run / "config.json").write_text("{", encoding="utf-8")


BAD = [
    (blank, "draws blank images"), (another_model, "another model"), (no_codec, "codec"), (vanish, "student-gsim.safetensors now"),
    (overwrite, "student-gsim.safetensors now"), (half_a_config, "config.json"),
    (lambda run: export(run, {}), "missing"), (lambda run: (run / "student.safetensors").write_bytes(b"half"), "student.safetensors"),
]  # fmt: skip


@pytest.mark.parametrize("spoil, sentence", BAD)
def test_a_bad_student_is_refused_and_the_one_before_draws_on(sampler, run, spoil, sentence):
    before = asyncio.run(sampler.draw(wish(1, 1, loops=4)))
    spoil(run)
    assert sentence in asyncio.run(sampler.reconfigure({"checkpoint": str(run)}))
    assert sentence in asyncio.run(sampler.state()).refused
    assert asyncio.run(sampler.draw(wish(1, 1, loops=4))) == before


def test_a_good_student_is_taken_over_and_ends_the_refusal(sampler, run):
    blank(run)
    assert asyncio.run(sampler.reconfigure({"checkpoint": str(run)}))
    export(run, {name: 1.05 * value for name, value in STATE.items()})
    assert asyncio.run(sampler.reconfigure({"checkpoint": str(run)})) is None
    state = asyncio.run(sampler.state())
    assert state.refused is None
    assert asyncio.run(sampler.reconfigure(user_config(STUDENT))) is None
    assert asyncio.run(sampler.state()).version != state.version


def test_a_new_replica_begins_with_the_newest_student_that_can_be_served(run):
    blank(run)
    sampler = sampler_of(CONFIG)
    asyncio.run(sampler.reconfigure({"checkpoint": str(run)}))
    assert asyncio.run(sampler.draw(wish(1, 1, loops=2))).version
    sampler.thread.close()


def test_a_new_replica_without_any_student_says_why(run):
    vanish(run)
    for spoil, sentence in ((lambda run: None, "has no student"), (blank, "draws blank images")):
        spoil(run)
        with pytest.raises(ValueError, match=sentence):
            asyncio.run(sampler_of(CONFIG).reconfigure({"checkpoint": str(run)}))


def test_an_image_that_nobody_waits_for_is_not_drawn_on(sampler):
    async def give_up():
        task = asyncio.create_task(sampler.draw(wish(1, 1, loops=64)))
        while not sampler.thread.active:
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(give_up())
    wait_for_idle(sampler)


def test_whoever_stops_waiting_does_not_stop_the_sampler(sampler):
    """asyncio cancels the future that it waits for; the sampler still ends it, and goes on."""
    ticket = sampler.thread.submit(wish(1, 1, loops=4))
    assert not ticket.picture.cancel()
    assert ticket.picture.result(timeout=30).pixels.shape == (28, 28, 1)
    for delay in (0.02 * k for k in range(12)):  # some of them end in the very loop that is the image's last
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(sampler.draw(wish(1, 1, loops=64)), delay / 10 + 0.001))
    assert asyncio.run(sampler.draw(wish(1, 1, loops=4))).version


def test_a_new_student_takes_over_between_images(sampler, run):
    """Images that are under way end with the student that they began with."""
    export(run, {name: 1.05 * value for name, value in STATE.items()})

    async def swap():
        before = asyncio.create_task(sampler.draw(wish(1, 1, loops=64)))
        while not sampler.thread.active:
            await asyncio.sleep(0.001)
        await sampler.reconfigure(user_config(run / "student.safetensors"))
        after = asyncio.create_task(sampler.draw(wish(1, 1, loops=64)))
        return await before, await after

    try:
        first = asyncio.run(sampler.draw(wish(1, 1, loops=64)))
        before, after = asyncio.run(swap())
    finally:
        asyncio.run(sampler.reconfigure(user_config(STUDENT)))
    assert before.version == first.version != after.version
    assert abs(pixels(before.content) - pixels(first.content)).max() <= 1
    assert (pixels(after.content) != pixels(first.content)).any()


def test_a_dead_thread_is_unhealthy_and_leaves_nobody_waiting():
    sampler = sampler_of(replace(CONFIG, queue=4))
    asyncio.run(sampler.reconfigure(user_config(STUDENT)))
    tickets = [sampler.thread.submit(wish(0, seed)) for seed in range(4)]
    sampler.thread.close()
    for ticket in [*tickets, sampler.thread.submit(wish(0, 9))]:
        with pytest.raises(RuntimeError, match="has ended"):
            ticket.picture.result(timeout=10)
    with pytest.raises(RuntimeError, match="has ended"):
        sampler.check_health()


def test_beyond_the_queue_nothing_is_drawn():
    async def crowd(sampler: Sampler) -> tuple[list, list]:
        await sampler.reconfigure(user_config(STUDENT))
        drawn = await asyncio.gather(*(sampler.draw(wish(1, seed, loops=64)) for seed in range(10)))
        return drawn, [item async for item in sampler.watch(wish(1, 1, loops=4), 1)]

    sampler = sampler_of(replace(CONFIG, queue=4))
    drawn, watched = asyncio.run(crowd(sampler))
    sampler.thread.close()
    assert [png is None for png in drawn] == [False] * 6 + [True] * 4
    assert len(watched) == 2


def test_a_student_draws_with_the_codec_of_its_run(sampler, run):
    before = asyncio.run(sampler.draw(wish(1, 1, loops=4)))
    shutil.copytree(assets_index.VAE, run / "codec")
    weights = run / "codec/diffusion_pytorch_model.safetensors"
    brighter = {name: value + 0.5 if name == "decoder.conv_out.bias" else value for name, value in read_state(weights).items()}
    save_weights(weights, brighter, torch.float32)
    change_config(run, vae="./codec")
    try:
        assert asyncio.run(sampler.reconfigure({"checkpoint": str(run)})) is None
        after = asyncio.run(sampler.draw(wish(1, 1, loops=4)))
    finally:
        asyncio.run(sampler.reconfigure(user_config(STUDENT)))
    assert pixels(after.content).mean() > pixels(before.content).mean() + 40


def test_of_a_run_the_newest_student_that_can_be_read_is_served_whatever_its_age(tmp_path):
    for name, age in (("student", 100), ("student-gsim", 0)):  # copies keep no ages
        save_model(tmp_path, name, STATE, MODEL, torch.float32)
        os.utime(tmp_path / f"{name}.safetensors", (time.time() - age,) * 2)
    assert readable_student_of(tmp_path).name == student_of(tmp_path).name == "student.safetensors"
    (tmp_path / "student.safetensors").write_bytes(b"half of a file")
    assert readable_student_of(tmp_path).name == "student-gsim.safetensors"
    assert student_of(tmp_path).name == "student.safetensors"  # whoever asks for images is told what is wrong
    (tmp_path / "student-gsim.safetensors").unlink()
    with pytest.raises(ValueError, match="has no student that can be read"):
        readable_student_of(tmp_path)
