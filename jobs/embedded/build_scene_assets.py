"""Write the embedded text-to-image default from what was trained: teacher, codec, text encoder, reward, codes of some scenes, prompts.

python jobs/encode.py --images data/scenes/train.parquet --vae runs/scene-teacher/codec --size 64 --out data/scenes/codes.parquet
python jobs/embedded/build_scene_assets.py
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from jobs.embedded.build_assets import slice_parquet
from marval_ray import cli
from marval_ray.embedded import assets_index, scene_texts
from marval_ray.files.atomic import atomic_path, write_json
from marval_ray.files.fit import save_weights
from marval_ray.files.text import read_json
from marval_ray.hub.exported import CODEC
from marval_ray.hub.layout import described, load_model
from marval_ray.scenes.drawing import draw
from marval_ray.scenes.scene import Split

PROMPTS_SEED = 1
"""Other scenes than those of data/scenes."""


@dataclass(frozen=True)
class Config:
    teacher: Path = Path("runs/scene-teacher")
    reward: Path = Path("runs/scene-reward")
    codes: Path = Path("data/scenes/codes.parquet")
    scenes: int = 3000
    """How many of the first rows of `codes` are shipped."""
    prompts: int = 3000
    """For RL."""
    held_out: int = 1000
    """Prompts of held-out combinations, for figures."""


def main(config: Config) -> None:
    model = load_model(config.teacher / "teacher.safetensors")
    figures = read_json(config.teacher / "figures.json")
    drawn_best = replace(model.config, code_guidance=figures["sampler"]["cfg"], code_temperature=figures["temperature"])
    assets_index.SCENE_MODEL.mkdir(exist_ok=True)
    save_weights(assets_index.SCENE_TEACHER, model.state_dict(), torch.float16)
    beside = {"vae": f"./{CODEC}", "texts": f"./{scene_texts.FOLDER}"}
    write_json(assets_index.SCENE_MODEL / "config.json", described(drawn_best) | beside)
    for source, target in (
        (config.teacher / CODEC, assets_index.SCENE_CODEC),
        (config.teacher / scene_texts.FOLDER, assets_index.SCENE_TEXTS),
        (config.reward, assets_index.SCENE_REWARD),
    ):
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("state.pt"))
    shutil.copy(config.teacher / "figures.json", assets_index.SCENE_FIGURES)
    slice_parquet(config.codes, assets_index.SCENE_CODES, config.scenes)
    write_prompts(assets_index.SCENE_PROMPTS, "train", config.prompts)
    write_prompts(assets_index.HELD_OUT_PROMPTS, "held-out", config.held_out)


def write_prompts(target: Path, split: Split, count: int) -> None:
    """Write different prompts of a split: for training in all phrasings, for figures in the first."""
    texts: dict[str, None] = {}
    index = 0
    while len(texts) < count:
        scene, _, phrased = draw(PROMPTS_SEED, index, split)
        texts[scene.prompt() if split == "held-out" else phrased] = None
        index += 1
    with atomic_path(target) as temporary:
        temporary.write_text("\n".join(texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
