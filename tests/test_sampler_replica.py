"""The replica that draws, as Ray Serve calls it, without Ray: which students it takes over, and which it refuses."""

import asyncio
import json
import shutil

import pytest
import torch
from small import wish

from actors.serving.endpoint import user_config
from actors.serving.endpoint_config import EndpointConfig
from actors.serving.sampler_replica import Sampler
from marval_ray.embedded import assets_index
from marval_ray.files.fit import save_weights
from marval_ray.files.tensors import read_state
from marval_ray.hub.layout import codec_beside, read_config

STUDENT = assets_index.STUDENT
CONFIG = EndpointConfig(threads=1, batch=1)
STATE = read_state(STUDENT)


def sampler_of(config: EndpointConfig) -> Sampler:
    return Sampler(config, read_config(STUDENT.parent), codec_beside(STUDENT))


@pytest.fixture(scope="module")
def sampler():
    sampler = sampler_of(CONFIG)
    asyncio.run(sampler.reconfigure(user_config(STUDENT)))
    yield sampler
    sampler.thread.close()


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


def another_codec(run) -> None:
    change_config(run, vae=str(run / "vae"))


def vanish(run) -> None:
    (run / "student-gsim.safetensors").unlink()


def overwrite(run) -> None:
    for path in run.iterdir():
        path.unlink()


def half_a_config(run) -> None:
    (run / "config.json").write_text("{", encoding="utf-8")


BAD = [
    (blank, "draws blank images"), (another_model, "another model"), (another_codec, "another autoencoder"), (vanish, "has no student now"),
    (overwrite, "has no student now"), (half_a_config, "config.json"),
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
