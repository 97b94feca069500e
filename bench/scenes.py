"""Draw docs/images/scenes.png: held-out scenes, each above its prompt."""

from dataclasses import dataclass
from pathlib import Path

from marval_ray import cli
from marval_ray.embedded.sheet import sheet
from marval_ray.files.atomic import atomic_path
from marval_ray.scenes.drawing import draw


@dataclass(frozen=True)
class Config:
    out: Path = Path("docs/images/scenes.png")
    scenes: int = 40
    seed: int = 0


def main(config: Config) -> None:
    drawn = [draw(config.seed, number, "held-out") for number in range(config.scenes)]
    page = sheet([picture for _, picture, _ in drawn], [scene.prompt() for scene, _, _ in drawn])
    with atomic_path(config.out) as temporary:
        page.save(temporary, "PNG", optimize=True)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
