"""What Ray raises, as one sentence."""

import time
from pathlib import Path

import pytest
import ray
import ray.data

from actors.errors import answer, plainly, sentence
from actors.patience import CalledOff, Patience, started


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with ray.init(num_cpus=2, runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}):
        yield


class Worker:
    """Fails in many ways."""

    def __init__(self, fails: str = "", threads: int = 1):
        if fails:
            raise KeyError(fails)

    def start(self):
        pass

    def user(self):
        raise ValueError("the cup is empty: fill it\nand more")

    def programmer(self):
        raise RuntimeError("line 1\nline 2")

    def through(self, ref):
        return ray.get(ref[0])

    def sleep(self):
        time.sleep(600)


@pytest.fixture
def worker():
    actor = ray.remote(Worker).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    yield actor
    ray.kill(actor)


def raised_by(reference) -> BaseException:
    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.get(reference)
    return caught.value


def test_a_sentence_is_what_was_raised_first_wherever_that_was(worker):
    assert sentence(raised_by(worker.user.remote())) == "the cup is empty: fill it"
    assert sentence(raised_by(worker.programmer.remote())) == "RuntimeError: line 1"
    other = ray.remote(Worker).options(num_cpus=0).remote()
    assert sentence(raised_by(other.through.remote([worker.user.remote()]))) == "the cup is empty: fill it"


def test_an_error_in_ray_data_and_in_a_constructor_is_a_sentence_too():
    def broken(batch):
        raise OSError("no ink")

    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.data.range(2).map_batches(broken).take_all()
    assert sentence(caught.value) == "OSError: no ink"
    dead = ray.remote(Worker).options(num_cpus=0).remote("no key")
    assert sentence(raised_by(dead.start.remote())) == "KeyError: 'no key'"


def test_the_whole_error_is_in_the_log_that_the_sentence_names(worker, tmp_path):
    log = tmp_path / "new" / "error.log"
    with pytest.raises(ValueError) as caught, plainly(log):
        ray.get(worker.programmer.remote())
    assert str(caught.value) == f"RuntimeError: line 1 (more in {log})"
    assert "Traceback" in log.read_text(encoding="utf-8") and "\x1b" not in log.read_text(encoding="utf-8")


def test_waiting_has_an_end(worker):
    late = worker.sleep.remote()
    with pytest.raises(ValueError, match="the sleeper did not answer within 0.1 s"):
        answer(late, "the sleeper", 0.1)
    with pytest.raises(CalledOff):
        Patience(60, stopping=lambda: True).results([late], dict)
    patience = Patience(0.1, replacements=1)
    with pytest.raises(ValueError, match="no answer within 0.1 s from sleeper, replaced 1 times: raise rl.timeout"):
        patience.results([late], lambda late: {"sleeper": worker})
    assert patience.replaced == 2


def test_what_a_worker_raises_is_not_waited_for_again(worker):
    with pytest.raises(ValueError, match="^the cup is empty: fill it$"):
        Patience(60).results([worker.user.remote()], dict)
    dead = ray.remote(Worker).options(num_cpus=0).remote("no key")
    with pytest.raises(ValueError, match="^reward-0 cannot start: KeyError: 'no key'$"):
        started({"rollout-0": worker, "reward-0": dead})
    assert started({"rollout-0": worker}) >= 0
