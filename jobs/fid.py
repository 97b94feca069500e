"""FID and its kin as papers report them: FID, sFID, Inception score, precision, recall and KID, against reference statistics.

    python jobs/fetch.py inception adm-reference mar-b kl16
    python jobs/fid.py --preset mar-b --checkpoint runs/distill/student.safetensors --vae models/kl16/kl16.ckpt --workers.gpus 1
    python jobs/fid.py --images samples.npz --out runs/fid-samples

Draws 50 images of each class unless told otherwise, looks at each with the Inception network of 2015 and forgets it (--keep
writes it down). An interrupted run goes on with --resume. FID falls with the number of images: compare equal numbers only.
"""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from marval_ray.environment import before_ray

before_ray()

import torch
from tqdm import tqdm

from actors import errors, local_ray
from actors.features import Piece, Team, gather, hire
from marval_ray.config import RoleConfig, check_at_least
from marval_ray.evaluation.adm import Reference
from marval_ray.evaluation.inception import Inception, InceptionFeatures
from marval_ray.evaluation.inception_figures import Figures, inception_figures, row
from marval_ray.families.generation import Generation
from marval_ray.files.atomic import atomic_path, write_json
from marval_ray.files.checksums import sha256
from marval_ray.files.images import encode_png
from marval_ray.files.storage import ERRORS, Storage
from marval_ray.files.stored_images import FolderImages, StoredImages, open_images, write_shuffled_npz
from marval_ray.runs.lock import locked
from marval_ray.source import Source, defaults
from marval_ray.types import Prompts

USUAL = 50_000
"""Images of a published FID."""


@dataclass(frozen=True)
class Config(Source):
    labels: str = "0-999"
    """Class numbers, such as 3 or 0-9 or 0,2,5-7."""
    per_label: int = 50
    """Images of each class; 50 of ImageNet's thousand are what papers take."""
    images: Path | None = None
    """Look at these images instead of drawing some: an .npz with arr_0, or a flat folder of PNG or JPEG files."""
    inception: Path = Path("models/inception/weights-inception-2015-12-05-6726825d.pth")
    """Weights of torch-fidelity's Inception; jobs/fetch.py has them."""
    reference: Path = Path("models/adm-reference/VIRTUAL_imagenet256_labeled.npz")
    """An .npz with `mu` and `sigma` for FID, `mu_s` and `sigma_s` for sFID, and `arr_0`, images, for precision, recall and KID."""
    out: Path = Path("runs/fid")
    """A folder for figures.json, row.md and the features so far."""
    keep: Path | None = None
    """Write the images down too: NAME.npz in ADM's form, or a folder of 00000.png, 00001.png, ..."""
    workers: RoleConfig = field(default_factory=RoleConfig)
    """Processes that draw and look."""
    chunk: int = 500
    """Images at a time: as many are lost by a crash."""
    resume: bool = False
    """Go on with an interrupted run in the same --out."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, self, "chunk", prefix="--")
        if self.keep and self.images:
            raise ValueError("--keep writes down what is drawn, and --images are there already")
        self.workers.check("workers")


@dataclass(frozen=True)
class Folder:
    """Where a run lies. Features are in files of `chunk` images each."""

    path: Path
    chunk: int

    def missing(self, name: str, images: int) -> list[int]:
        """Return the numbers of the pieces of `images` images that are not there yet."""
        return [number for number in range(-(-images // self.chunk)) if not self.part(name, number).exists()]

    def part(self, name: str, number: int) -> Path:
        return self.path / name / f"{number:06d}.safetensors"

    def parts(self, name: str, images: int) -> Iterator[InceptionFeatures]:
        for number in range(-(-images // self.chunk)):
            yield InceptionFeatures.load(self.part(name, number))


def main(config: Config) -> None:
    with locked(Storage.of(str(config.out))):
        inception, reference = Inception.load(config.inception), Reference.load(config.reference)
        stored = open_images(config.images) if config.images else None
        generation = None if stored else config.generation()
        labels = config.label_tensor(generation.model.config.num_classes) if generation else torch.zeros(len(stored or ())).long()
        check(config, stored, generation, reference, len(labels))
        folder = begin(config)
        local_ray.begin(ignore_reinit_error=True, logging_level=logging.WARNING)
        team = hire(config.workers, inception, generation)
        if reference.images:
            look(team, folder, "reference", reference.images)
        if stored:
            look(team, folder, "samples", stored)
        else:
            draw(team, folder, config, labels)
        figures = measured(folder, reference, len(labels))
        write(config, figures, labels)


def begin(config: Config) -> Folder:
    """Open the run's folder. Raises ValueError when it holds another run, or one that is not to be gone on with."""
    folder, settings = Folder(config.out, config.chunk), config.out / "settings.json"
    now = json.loads(json.dumps(settings_of(config), default=str))
    if settings.exists() and not config.overwrite:
        if not config.resume:
            raise ValueError(f"{config.out} holds a run already: --resume goes on with it, --overwrite begins anew; or give another --out")
        before = json.loads(settings.read_text(encoding="utf-8"))
        changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
        if changed:
            raise ValueError(f"{config.out} began with other settings ({', '.join(changed)}): give the same, or --overwrite to begin anew")
    else:
        for path in [*config.out.glob("samples/*"), *config.out.glob("reference/*"), *config.out.glob("images/*")]:
            path.unlink()
        write_json(settings, now)
    return folder


def settings_of(config: Config) -> dict[str, Any]:
    """Return what the features depend on; files by their content."""
    free = ("out", "workers", "resume", "overwrite", "keep")
    named = {name: getattr(config, name) for name in ("checkpoint", "inception", "reference", "images")}
    sums = {f"SHA-256 of {name}": sha256(path) for name, path in named.items() if path and path.is_file()}
    return {name: value for name, value in asdict(config).items() if name not in free} | sums


def check(config: Config, stored: StoredImages | None, generation: Generation | None, reference: Reference, count: int) -> None:
    """Say before any work what would make the figures worthless."""
    if count < 2:
        raise ValueError(f"FID compares covariances, which take two images at least, not {count}")
    if reference.images is not None:
        size = (generation.model.config.image_size,) * 2 if generation else stored.size if stored else None
        if size != reference.images.size:
            raise ValueError(
                f"the images are {size} pixels, those of {config.reference} {reference.images.size}: "
                "FID of images of another size is another number"
            )
    if count != USUAL:
        print(f"warning: published FIDs are of {USUAL:,} images, and it falls with their number: this is of {count:,}", file=sys.stderr)


def look(team: Team, folder: Folder, name: str, images: StoredImages) -> None:
    """Have the features of images that are there already."""
    missing = folder.missing(name, len(images))
    pieces = (Piece(number, "look", (images.pixels(number * folder.chunk, (number + 1) * folder.chunk),)) for number in missing)
    collect(team, folder, name, len(images), pieces, None)


def draw(team: Team, folder: Folder, config: Config, labels: torch.Tensor) -> None:
    """Draw the images and have their features; write them down if somebody keeps them."""
    starts = {number: number * folder.chunk for number in folder.missing("samples", len(labels))}
    pieces = (
        Piece(number, "draw", (Prompts.of_labels(labels[first : first + folder.chunk]), config.seed, first, bool(config.keep)))
        for number, first in starts.items()
    )
    collect(team, folder, "samples", len(labels), pieces, pictures_of(config))


def collect(
    team: Team, folder: Folder, name: str, images: int, pieces: Iterator[Piece], pictures: Path | None
) -> None:
    """Write down what the team sees of the pieces, as it comes."""
    done = images - sum(min(folder.chunk, images - number * folder.chunk) for number in folder.missing(name, images))
    with tqdm(desc=name, total=images, initial=done, unit="image", mininterval=5) as bar:
        for number, seen in gather(team, pieces):
            if pictures and seen.pixels is not None:  # before the features, whose file says that the piece is done
                for index, pixels in enumerate(seen.pixels, number * folder.chunk):
                    with atomic_path(pictures / f"{index:05d}.png") as temporary:
                        temporary.write_bytes(encode_png(pixels))
            seen.features.save(folder.part(name, number))
            bar.update(len(seen.features))


def pictures_of(config: Config) -> Path | None:
    """Return the folder of the images that are kept; those of an .npz wait there for the others."""
    return config.out / "images" if config.keep and config.keep.suffix == ".npz" else config.keep


def measured(folder: Folder, reference: Reference, images: int) -> Figures:
    """Compare all features with the reference's."""
    real = torch.cat([part.pooled for part in folder.parts("reference", len(reference.images))]) if reference.images else None
    return inception_figures(folder.parts("samples", images), images, reference, real)


def write(config: Config, figures: Figures, labels: torch.Tensor) -> None:
    """Write figures.json and row.md, and the .npz of the images if it is wanted."""
    model = str(config.images or config.checkpoint or "default")
    facts = {"model": model, "images": len(labels)} | ({} if config.images else {"n_ar": config.n_ar, "seed": config.seed})
    write_json(config.out / "figures.json", facts | figures | {"reference": str(config.reference)})
    text = row(facts, figures)
    with atomic_path(config.out / "row.md") as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    print(text)
    if config.keep and config.keep.suffix == ".npz":
        images = FolderImages(config.out / "images")
        if len(images) != len(labels):
            raise ValueError(
                f"{len(images)} of {len(labels)} images were kept, the others were drawn without --keep: --overwrite draws all again"
            )
        write_shuffled_npz(config.keep, images, labels.numpy())


def log_of(config: Config) -> Path:
    """Return the file for what Ray has to say."""
    return config.out / ERRORS


if __name__ == "__main__":
    errors.run(main, Config, __doc__, log_of, defaults(Config))
