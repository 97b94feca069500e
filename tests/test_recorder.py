"""What the recorder keeps of a run, in this process."""

import signal

import numpy as np

from actors.recorder import Recorder
from marval_ray.files.storage import Storage
from marval_ray.runs.looks import read_looks
from marval_ray.runs.stage import RL

PICTURES = np.zeros((10, 28, 28, 1), np.uint8)


def recorder(folder) -> Recorder:
    made = Recorder(Storage.of(str(folder)), total=3, stage=RL, bar=False)
    made.begin(0)
    return made


def test_pictures_are_kept_by_the_update_that_they_are_of(tmp_path):
    kept = recorder(tmp_path)
    for step in (0, 2):
        kept.show(step, PICTURES)
    assert list(read_looks(tmp_path)) == [0, 2] and kept.finish() is None


def test_pictures_that_cannot_be_written_end_the_run(tmp_path):
    (tmp_path / "looks").write_text("in the way", encoding="utf-8")
    kept = recorder(tmp_path)
    kept.show(0, PICTURES)
    assert kept.stopping() == signal.SIGTERM and "pictures cannot be written: " in kept.finish()
