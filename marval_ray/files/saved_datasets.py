"""Folders that `save_to_disk` of Hugging Face `datasets` writes: Arrow streams, and JSON that tells their order."""

from collections import Counter
from pathlib import Path

from marval_ray.files.text import read_json

SPLITS, STATE = "dataset_dict.json", "state.json"
"""What marks a folder of splits, and one data set."""


def is_saved(folder: Path) -> bool:
    return (folder / SPLITS).exists() or (folder / STATE).exists()


def saved_files(folder: Path, split: str, left_out: Counter[str]) -> list[Path]:
    """Return the Arrow files of a data set in their order; of a folder of splits, those of `split`.

    Raises ValueError when there is no such split, when the rows are a selection by numbers, and when the JSON is of another kind.
    """
    if (folder / SPLITS).exists():
        names = _listed(folder / SPLITS, "splits")
        if split not in names:
            raise ValueError(f"{folder} holds the split(s) {', '.join(names)} and no {split}: choose by --split")
        left_out[f"split(s) other than {split}"] += len(names) - 1
        folder /= split
    if read_json(folder / STATE).get("_indices_data_files"):
        raise ValueError(f"{folder} keeps a selection of rows by their numbers: call its flatten_indices(), then save_to_disk() again")
    return [folder / part["filename"] for part in _listed(folder / STATE, "_data_files")]


def _listed(file: Path, key: str) -> list:
    found = read_json(file).get(key)
    if not found or not isinstance(found, list):
        raise ValueError(f"{file} is not what save_to_disk() of `datasets` writes: it lists no {key}")
    return found
