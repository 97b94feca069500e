"""FID and its kin as papers report them: FID, sFID, Inception score, precision, recall and KID, against reference statistics.

    python jobs/fetch.py inception adm-reference mar-b kl16
    python jobs/fid.py --checkpoint runs/distill --workers.gpus 1
    python jobs/fid.py --images samples.npz --out runs/fid-samples
    python jobs/fid.py --preset mar-b --checkpoint ... --rewards clip:models/clip image_reward:models/image-reward

Draws 50 images of each class unless told otherwise, looks at each with the Inception network of 2015 and forgets it (--keep
writes it down). An interrupted run goes on with --resume. FID falls with the number of images: compare equal numbers only.
"""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from marval_ray.environment import before_ray

before_ray()

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from actors import errors, local_ray
from actors.features import Piece, Team, gather, hire
from marval_ray.class_names import prompts_of
from marval_ray.config import RoleConfig, check_at_least
from marval_ray.evaluation.adm import Reference
from marval_ray.evaluation.bootstrap import reward_figures
from marval_ray.evaluation.inception import Inception, InceptionFeatures
from marval_ray.evaluation.inception_figures import Figures, inception_figures, row
from marval_ray.families.generation import Generation
from marval_ray.files.atomic import atomic_path, write_json
from marval_ray.files.checksums import sha256
from marval_ray.files.images import encode_png
from marval_ray.files.storage import ERRORS, Storage
from marval_ray.files.stored_images import FolderImages, StoredImages, open_images, write_shuffled_npz
from marval_ray.prompts import read_prompts_of
from marval_ray.rewards import SeparateRewards
from marval_ray.rewards.spec import reward_names
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
    rewards: tuple[str, ...] = ()
    """Score the same images with these too: KIND:PLACE, such as clip:models/clip, as --rl.rewards."""
    prompts: Path | None = None
    """What rewards read: a text file with a line for each class; by default made of the class names, which --images do not have."""
    out: Path = Path("runs/fid")
    """A folder for figures.json, row.md and the features and scores so far."""
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
        if self.rewards and self.images and not self.prompts:
            raise ValueError("--rewards need to know what --images show: give --prompts, a text file with a line for each class")
        self.workers.check("workers")


@dataclass(frozen=True)
class Folder:
    """Where a run lies. Features are in files of `chunk` images each, scores by rewards in files beside them."""

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

    def scores(self, rewards: Iterable[str], images: int) -> dict[str, Float[Tensor, " N"]]:
        """Return the scores of all images by each of `rewards`, in their order, which the files do not keep."""
        paths = [self.part("scores", number) for number in range(-(-images // self.chunk))]
        return {name: torch.cat([load_file(path)[name] for path in paths]) for name in rewards}


def main(config: Config) -> None:
    with locked(Storage.of(str(config.out))):
        SeparateRewards.check(config.rewards)
        stored = open_images(config.images) if config.images else None
        generation = None if stored else config.generation()
        prompts = prompts_to_draw(config, generation) if generation else prompts_of_stored(config, stored)
        inception, reference = Inception.load(config.inception), Reference.load(config.reference)
        check(config, stored, generation, reference, len(prompts))
        loops = generation.loops if generation else None
        folder = begin(config, loops)
        local_ray.begin(ignore_reinit_error=True, logging_level=logging.WARNING)
        team = hire(config.workers, inception, generation, config.rewards)
        if reference.images:
            look(team, folder, "reference", reference.images)
        if stored:
            look(team, folder, "samples", stored, prompts.texts)
        else:
            draw(team, folder, config, prompts)
        figures = measured(folder, reference, prompts, reward_names(config.rewards))
        write(config, figures, prompts, loops)


def prompts_to_draw(config: Config, generation: Generation) -> Prompts:
    """Return the prompts of the images that are drawn; texts say something where rewards read them."""
    classes = generation.model.config.num_classes
    labels = config.label_tensor(classes)
    return prompts_of(config.weights, classes, config.prompts)[labels.tolist()] if config.rewards else Prompts.of_labels(labels)


def prompts_of_stored(config: Config, stored: StoredImages | None) -> Prompts:
    """Return those of images that are there already. Raises ValueError when rewards read them and nobody noted the classes."""
    assert stored is not None
    if config.prompts is None:
        return Prompts.of_labels(torch.zeros(len(stored)).long())
    if stored.labels is None:
        raise ValueError(f"{config.images} does not say which classes its images show: prompts go with an .npz with arr_1, integers (N,)")
    return read_prompts_of(config.prompts, torch.from_numpy(stored.labels))


def begin(config: Config, loops: int | None) -> Folder:
    """Open the run's folder. loops: N_AR of what is drawn.

    Raises ValueError when it holds another run, or one that is not to be gone on with.
    """
    folder, settings = Folder(config.out, config.chunk), config.out / "settings.json"
    now = json.loads(json.dumps(settings_of(config) | {"n_ar": loops}, default=str))
    if settings.exists() and not config.overwrite:
        if not config.resume:
            raise ValueError(f"{config.out} holds a run already: --resume goes on with it, --overwrite begins anew; or give another --out")
        before = json.loads(settings.read_text(encoding="utf-8"))
        changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
        if changed:
            raise ValueError(f"{config.out} began with other settings ({', '.join(changed)}): give the same, or --overwrite to begin anew")
    else:
        for path in (path for name in ("samples", "reference", "scores", "images") for path in config.out.glob(f"{name}/*")):
            path.unlink()
        write_json(settings, now)
    return folder


def settings_of(config: Config) -> dict[str, Any]:
    """Return what the features depend on; files by their content."""
    free = ("out", "workers", "resume", "overwrite", "keep")
    named = {name: getattr(config, name) for name in ("inception", "reference", "images", "prompts")}
    named["checkpoint"] = None if config.images else config.weights
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


def look(team: Team, folder: Folder, name: str, images: StoredImages, texts: Sequence[str] = ()) -> None:
    """Have the features of images that are there already, and scores of those that have prompts."""
    parts = {number: slice(number * folder.chunk, (number + 1) * folder.chunk) for number in folder.missing(name, len(images))}
    pieces = (Piece(number, "look", (images.pixels(part.start, part.stop), texts[part])) for number, part in parts.items())
    collect(team, folder, name, len(images), pieces, None)


def draw(team: Team, folder: Folder, config: Config, prompts: Prompts) -> None:
    """Draw the images and have their features and scores; write them down if somebody keeps them."""
    starts = {number: number * folder.chunk for number in folder.missing("samples", len(prompts))}
    pieces = (
        Piece(number, "draw", (prompts[first : first + folder.chunk], config.seed, first, bool(config.keep)))
        for number, first in starts.items()
    )
    collect(team, folder, "samples", len(prompts), pieces, pictures_of(config))


def collect(
    team: Team, folder: Folder, name: str, images: int, pieces: Iterator[Piece], pictures: Path | None
) -> None:
    """Write down what the team sees of the pieces, as it comes."""
    done = images - sum(min(folder.chunk, images - number * folder.chunk) for number in folder.missing(name, images))
    with tqdm(desc=name, total=images, initial=done, unit="image", mininterval=5) as bar:
        for number, seen in gather(team, pieces):
            # Before the features, whose file says that the piece is done.
            if seen.scores:
                with atomic_path(folder.part("scores", number)) as temporary:
                    save_file(seen.scores, temporary)
            if pictures and seen.pixels is not None:
                for index, pixels in enumerate(seen.pixels, number * folder.chunk):
                    with atomic_path(pictures / f"{index:05d}.png") as temporary:
                        temporary.write_bytes(encode_png(pixels))
            seen.features.save(folder.part(name, number))
            bar.update(len(seen.features))


def pictures_of(config: Config) -> Path | None:
    """Return the folder of the images that are kept; those of an .npz wait there for the others."""
    return config.out / "images" if config.keep and config.keep.suffix == ".npz" else config.keep


def measured(folder: Folder, reference: Reference, prompts: Prompts, rewards: Iterable[str]) -> Figures:
    """Compare all features with the reference's, and take the means of scores."""
    real = torch.cat([part.pooled for part in folder.parts("reference", len(reference.images))]) if reference.images else None
    figures = inception_figures(folder.parts("samples", len(prompts)), len(prompts), reference, real)
    assert prompts.labels is not None  # whoever draws or opens images knows them
    return figures | reward_figures(folder.scores(rewards, len(prompts)), prompts.labels)


def write(config: Config, figures: Figures, prompts: Prompts, loops: int | None) -> None:
    """Write figures.json and row.md, and the .npz of the images if it is wanted."""
    model = str(config.images or config.checkpoint or "default")
    facts = {"model": model, "images": len(prompts)} | ({} if config.images else {"n_ar": loops, "seed": config.seed})
    write_json(config.out / "figures.json", facts | figures | {"reference": str(config.reference)})
    text = row(facts, figures)
    with atomic_path(config.out / "row.md") as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    print(text)
    if config.keep and config.keep.suffix == ".npz":
        images = FolderImages(config.out / "images")
        if len(images) != len(prompts):
            raise ValueError(
                f"{len(images)} of {len(prompts)} images were kept, the others were drawn without --keep: --overwrite draws all again"
            )
        assert prompts.labels is not None
        write_shuffled_npz(config.keep, images, prompts.labels.numpy())


def log_of(config: Config) -> Path:
    """Return the file for what Ray has to say."""
    return config.out / ERRORS


if __name__ == "__main__":
    errors.run(main, Config, __doc__, log_of, defaults(Config))
