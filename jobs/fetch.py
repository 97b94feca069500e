"""Fetch published models, rewards and statistics by name. Nothing else in this project goes to the network for files.

    python jobs/fetch.py --list
    python jobs/fetch.py mar-b kl16 pickscore --plan
    python jobs/fetch.py mar-b kl16 pickscore
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro

from marval_ray import cli
from marval_ray.hub.download import fetch_file
from marval_ray.hub.published import PUBLISHED, Published


@dataclass(frozen=True)
class Config:
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to fetch; --list has the names."""
    to: Path = Path("models")
    """Each goes into a folder of its name in here."""
    list: bool = False
    """Say what there is."""
    plan: bool = False
    """Say how large it is, what is there already and what room the disk has."""
    hub: str | None = None
    """Another address of the Hugging Face Hub, such as a mirror."""


def main(config: Config) -> None:
    unknown = [name for name in config.names if name not in PUBLISHED]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is unknown; choose of {', '.join(PUBLISHED)}")
    if config.list:
        for name, published in PUBLISHED.items():
            print(described(name, published))
        return
    if not config.names:
        raise ValueError("give one name or several; --list has them")
    wanted = {name: PUBLISHED[name] for name in config.names}
    absent = [file for name, one in wanted.items() for file in one.files if not (config.to / name / file.name).exists()]
    missing, unsized = sum(file.size or 0 for file in absent), sum(file.size is None for file in absent)
    free = shutil.disk_usage(existing(config.to)).free
    if config.plan:
        for name, published in wanted.items():
            print(described(name, published))
        more = f" and {unsized} files of unknown size" if unsized else ""
        print(f"to fetch: {human(missing)}{more}; free at {config.to}: {human(free)}")
        return
    if missing > free:
        raise ValueError(f"{human(missing)} are to be fetched and {config.to} has room for {human(free)}: give another --to")
    for name, published in wanted.items():
        for file in published.files:
            print(fetch_file(file, config.to / name, config.hub), flush=True)


def described(name: str, published: Published) -> str:
    sources = sorted({file.source.rpartition("/")[0] if file.on_hub else file.source for file in published.files})
    note = f" ({published.note})" if published.note else ""
    size = "unknown" if published.size is None else human(published.size)
    return f"{name:16} {size:>8}  {published.licence:20}  {published.purpose}{note}\n{'':28}{', '.join(sources)}"


def existing(path: Path) -> Path:
    """Return the folder that is there already, in which `path` will be."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def human(size: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} B"


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
