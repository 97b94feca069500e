"""Fashion-MNIST (Zalando SE, MIT licence): the real data behind the embedded default."""

import gzip
from pathlib import Path

import numpy as np

CLASS_NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
SPLITS = {"train": "train", "test": "t10k"}
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images (N, 28, 28) uint8 and labels (N,) int64 of `split` ("train" or "test") from the IDX files in `folder`.

    Raises ValueError when a file is not an IDX file of the expected kind.
    """
    images = _read_idx(folder / f"{SPLITS[split]}-images-idx3-ubyte.gz", dimensions=3)
    labels = _read_idx(folder / f"{SPLITS[split]}-labels-idx1-ubyte.gz", dimensions=1)
    return images, labels.astype(np.int64)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    content = gzip.decompress(path.read_bytes())
    magic = int.from_bytes(content[:4], "big")
    if magic != 0x0800 + dimensions:
        raise ValueError(f"{path} is not an IDX file of {dimensions} dimensions (magic {magic:#x})")
    header = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:header], dtype=">u4")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
