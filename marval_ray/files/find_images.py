"""Which images a path names: Parquet or tar shards, a folder of them, a data set on disk, or class folders."""

from collections import Counter
from pathlib import Path

from marval_ray.files.class_folders import list_classes, walk
from marval_ray.files.image_set import ImageSet
from marval_ray.files.image_tables import Columns, list_rows, pick_split
from marval_ray.files.saved_datasets import is_saved, saved_files
from marval_ray.files.tar_shards import list_samples


def find_images(path: Path, columns: Columns, split: str = "train", skip_bad: bool = False) -> ImageSet:
    """List the images of `path` and their classes, without decoding any.

    Raises ValueError when there are no images, or it is not plain which class they are of; of rows without a class only
    unless `skip_bad`.
    """
    left_out = Counter[str]()
    if not path.exists():
        raise ValueError(f"there are no images at {path}")
    if not path.is_dir():
        return list_samples([path], skip_bad, left_out) if is_tar(path) else list_rows([path], columns, skip_bad, left_out)
    if is_saved(path):
        return list_rows(saved_files(path, split, left_out), columns, skip_bad, left_out)
    files = list(walk(str(path), left_out))
    tables = [Path(file) for file in files if file.lower().endswith(".parquet")]
    if tables:
        left_out["beside the Parquet"] += len(files) - len(tables)
        return list_rows(pick_split(path, tables, split, left_out), columns, skip_bad, left_out)
    shards = [Path(file) for file in files if is_tar(Path(file))]
    if shards:
        left_out["beside the tar files"] += len(files) - len(shards)
        return list_samples(pick_split(path, sorted(shards), split, left_out), skip_bad, left_out)
    return list_classes(path, files, left_out)


def is_tar(path: Path) -> bool:
    return path.name.lower().endswith((".tar", ".tar.gz", ".tgz"))
