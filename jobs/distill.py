"""Distil a teacher, MAR or DC-AR, into a one-step student by guided score implicit matching (GSIM), then raise a reward by
reinforcement learning (RL), on Ray. `--stages gsim` or `--stages rl` does one of them.

Runs alike as `python jobs/distill.py` (starts a local Ray), under `ray job submit --working-dir . -- python
jobs/distill.py`, and against the cluster that RAY_ADDRESS names. Without options it distils the embedded teacher.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from marval_ray.environment import before_ray

before_ray()

import torch
import tyro

from actors import local_ray
from actors.crew.painter import RemotePainter
from actors.errors import plainly
from actors.learning.gsim import GSIMRun, Matching
from actors.learning.plan import Plan
from actors.learning.tasks import Demands, Distillation, Reinforcement, Task
from actors.resources import check_resources, node_resources
from actors.signals import Stopped, handled, stop_now
from marval_ray import cli
from marval_ray.config import GSIMConfig, GuardConfig, LearnerConfig, RLConfig, check_seed
from marval_ray.device import own_device
from marval_ray.families.base import Backbone
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.generation import Generation, Painter
from marval_ray.families.mar.config import ModelConfig
from marval_ray.files.fit import save_weights
from marval_ray.files.storage import ERRORS, Storage
from marval_ray.files.tensors import read_state
from marval_ray.hub.layout import load_model
from marval_ray.presets import PRESETS, SAMPLERS
from marval_ray.prompt_sets import read_set
from marval_ray.prompts import class_prompts, imagenet_names, read_prompts
from marval_ray.rewards import check_rewards
from marval_ray.rewards.spec import held_out_names
from marval_ray.runs.card import index_of, present
from marval_ray.runs.figures import Figures, FiguresConfig
from marval_ray.runs.folder import RECORDS, SETTINGS, check_run_folder, open_run_folder
from marval_ray.runs.lock import locked
from marval_ray.runs.stage import GSIM, RL, STUDENT, stages_of
from marval_ray.types import Prompts

Result = TypeVar("Result")

PICTURED = Path(__file__).parent.parent / "prompts/fig3.txt"
"""Prompts of MARVAL's own pictures (supplement, Figure 3)."""
UNNAMED = Path("unnamed")
"""Where a plan needs no file."""
REWARD_SAMPLES = 500
"""Images whose mean reward is compared before and after RL; it is known from fewer than FD."""


@dataclass(frozen=True)
class Config:
    preset: str
    """Defaults for all that follows: tiny (embedded), tiny-paper (the same by the paper's recipe), mar-b, mar-l, mar-h, detok-b,
    detok-l, mar-b on one GPU (mar-b-24gb, mar-b-80gb); or of models that read texts: tiny-t2i (embedded), dc-ar-512."""
    teacher: Path
    """MAR's checkpoint-last.pth, DC-AR's pytorch_model.bin, or safetensors."""
    latents: Path
    """Arrow or Parquet written by jobs/encode.py: a file or a folder."""
    vae: Path
    """Decoder of the pictures: a diffusers folder, KL-16's file, or DC-HT's folder."""
    model: tyro.conf.AvoidSubcommands[ModelConfig | DCARConfig]
    """Sizes, of the preset's kind of model."""
    gsim: GSIMConfig
    learner: LearnerConfig
    """Of the GSIM stage."""
    rl: RLConfig
    rl_learner: LearnerConfig
    """Of the RL stage."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    figures: FiguresConfig = field(default_factory=FiguresConfig)
    stages: Literal["gsim,rl", "gsim", "rl"] = "gsim,rl"
    student: Path | None = None
    """A student to start from, for --stages rl."""
    prompts: Path | None = None
    """A text file with a prompt for each class, by default the classes' names in a template; of a model that reads texts the prompts of
    RL, in any form that jobs/sample.py takes, by default those of prompts/fig3.txt; --figures.prompts names others to measure it by."""
    texts: Path | None = None
    """Text encoder of a model that reads texts: T5's folder."""
    out: str = "runs/distill"
    """A folder, s3://BUCKET/... or gs://BUCKET/...."""
    seed: int = 0
    resume: bool = False
    """Continue the run in OUT from its last checkpoint."""
    overwrite: bool = False
    """Throw away the run in OUT."""
    plan: Literal[24, 40, 80, 141] | None = None
    """Print what each role takes, what fits and hours on GPUs of so many GB, and end. Needs no files."""

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other")
        if (self.student is None) == (self.stages == "rl"):
            raise ValueError("--student goes with --stages rl, which needs it")
        if self.model.num_classes is not None and self.texts is not None:
            raise ValueError(f"--texts {self.texts}: this model reads classes, not texts")
        check_seed(self.seed)
        for name in ("learner", "rl_learner"):
            getattr(self, name).check(name)

    @property
    def start(self) -> Path:
        """What the first stage begins with."""
        return self.student or self.teacher


def main(config: Config) -> None:
    if config.plan is not None:
        print(plan_text(config, config.plan))
        return
    storage = Storage.of(config.out)
    stages = stages_of(config.stages)
    with locked(storage):
        storage.pull(*RECORDS)
        check_run_folder(storage, config, config.resume, config.overwrite)
        family = config.model.family
        codec = family.codec(config.vae, config.model)
        family.conditioner(config.model, own_device(), config.texts)  # so is a text encoder
        draw, texts = painter(getattr(config, stages[0].learner)), matching_of(config).texts
        prompts = shown_prompts_of(config) if config.model.num_classes is None else None
        figures = Figures(config.figures, codec, storage.folder, draw, texts, prompts)
        figures.check(config.model)
        family.check_data(config.latents, config.model, codec.id)
        tasks = [TASKS[stage.name](config, storage) for stage in stages]
        first = load_model(config.start, config.model)  # one that does not fit is refused before Ray starts
        local_ray.begin()
        with handled(stop_now), plainly(storage.folder / ERRORS):
            check_resources(largest_demands(tasks), node_resources())
            open_run_folder(storage, config, config.overwrite)
            print((storage.folder / SETTINGS).read_text(encoding="utf-8"))
            introduce(config, storage.folder, tasks[-1].loops)
            work(config, storage, tasks, figures, first)
            introduce(config, storage.folder, tasks[-1].loops)
            storage.push()
    print(f"student: {storage}/{STUDENT}\nreport:  {storage}/report.html")


def work(config: Config, storage: Storage, tasks: list[Task], figures: Figures, model: Backbone) -> None:
    """Run the stages from `model` on, and draw what is shown of them."""
    began, last = time.perf_counter(), tasks[-1]
    for task in tasks[1:]:
        task.rehearse()
    extra: dict[str, float] = {}
    for done, task in enumerate(tasks):
        task.show_before(figures, model, last.loops)
        figures.show(asdict(config), [earlier.stage for earlier in tasks[:done]], extra)
        storage.push()
        torch.cuda.empty_cache()  # of the pictures: the learner may share their GPU
        (student, more), seconds = timed(task.run)
        extra |= {task.stage.seconds: seconds} | more
        model = load_model(student, config.model)
    last.show_after(figures, model)
    save_weights(storage.folder / STUDENT, read_state(student), torch.float32)
    extra["seconds_total"] = time.perf_counter() - began
    figures.write(asdict(config), [task.stage for task in tasks], extra)


def introduce(config: Config, folder: Path, loops: int) -> None:
    """Write what the folder says of its student, as far as the run has come. loops: N_AR as long as no figures tell a better one."""
    present(folder, index_of(folder, loops, class_names_of(config)), folder)


def painter(learner: LearnerConfig) -> Callable[[Generation], Painter]:
    """Have pictures drawn here, unless here is a machine without GPU of a cluster with some."""
    gpus = min(1.0, learner.gpus_per_worker)
    if not gpus or torch.cuda.is_available():
        return lambda here: here
    return lambda here: RemotePainter(here, gpus)


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return (result, seconds)."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def largest_demands(tasks: list[Task]) -> Demands:
    """Return those of the stage that takes most at once."""
    return max((task.demands() for task in tasks), key=lambda roles: sum(len(needs) for needs in roles.values()))


def distillation(config: Config, storage: Storage) -> Task:
    run = GSIMRun(model=config.model, matching=matching_of(config), learner=config.learner, seed=config.seed)
    return Distillation(storage, loops=config.figures.loops[-1], learning=run)


def reinforcement(config: Config, storage: Storage) -> Task:
    """Return the stage of RL. Raises ValueError when rewards, settings or prompts do not fit."""
    check_rewards((*config.rl.rewards, *config.rl.held_out_rewards))
    held_out_names(config.rl.held_out_rewards)
    plan = Plan(
        model=config.model,
        rl=config.rl,
        guard=config.guard,
        learner=config.rl_learner,
        student=(config.student or storage.folder / GSIM.student).absolute(),
        matching=matching_of(config),
        codec=config.vae.absolute(),
        prompts=prompts_of(config),
        judge=config.figures.judge(),
        measured=min(REWARD_SAMPLES, config.figures.samples),
        seed=config.seed,
    )
    return Reinforcement(storage, loops=config.rl.loops[0], plan=plan)


TASKS = {GSIM.name: distillation, RL.name: reinforcement}


def prompts_of(config: Config) -> Prompts:
    """Return a prompt for each class, or all prompts for a model that reads texts."""
    classes = config.model.num_classes
    if classes is None:
        return read_set(config.prompts or PICTURED).prompts
    if config.prompts is not None:
        return Prompts.of_classes(read_prompts(config.prompts, classes))
    names = class_names_of(config)
    if not names:
        raise ValueError(f"RL needs a prompt for each of {classes} classes: give --prompts FILE")
    return Prompts.of_classes(class_prompts(names))


def shown_prompts_of(config: Config) -> Prompts:
    """Return what pictures and figures of a model that reads texts are of."""
    return read_set(config.figures.prompts or config.prompts or PICTURED).prompts


def class_names_of(config: Config) -> tuple[str, ...]:
    """Return a name for each class, none where nobody knows them."""
    names = config.figures.class_names or (imagenet_names() if config.model.num_classes == 1000 else ())
    return names if len(names) == config.model.num_classes else ()


def matching_of(config: Config) -> Matching:
    texts = config.texts.absolute() if config.texts else None
    return Matching(gsim=config.gsim, teacher=config.teacher.absolute(), data=config.latents.absolute(), texts=texts)


def plan_text(config: Config, size: int) -> str:
    """Return what the run takes on GPUs of `size` GB."""
    from marval_ray.plan.kinds import kind_of  # they take seconds, and few ask for them
    from marval_ray.plan.report import Planned, text_of

    planned = Planned(
        model=kind_of(config.model).without_files(config.model, config.texts), gsim=config.gsim, learner=config.learner,
        rl=config.rl, rl_learner=config.rl_learner,
        stages=[stage.name for stage in stages_of(config.stages)],
        codec=None if config.vae == UNNAMED else config.model.family.codec(config.vae, config.model),
        judged=config.figures.judge() is not None, pictures=config.figures.batch,
    )  # fmt: skip
    return text_of(planned, size)


def defaults(name: str, unnamed: Any = tyro.MISSING) -> Config:
    """Return the settings of a preset; `unnamed` stands for the files that it does not bring along and that must be named."""
    preset = PRESETS[name]
    return Config(
        preset=name,
        teacher=preset.files.teacher or unnamed,
        latents=preset.files.latents or unnamed,
        vae=preset.files.vae or unnamed,
        texts=preset.files.texts,
        prompts=preset.files.prompts,
        model=preset.model,
        gsim=preset.gsim,
        learner=preset.learner,
        rl=preset.rl,
        rl_learner=preset.rl_learner,
        guard=preset.guard,
        figures=FiguresConfig.of(preset.files, SAMPLERS[name], preset.loops),
        stages=preset.stages,
    )


if __name__ == "__main__":
    try:
        unnamed = UNNAMED if cli.given("--plan") is not None else tyro.MISSING
        cli.run(main, Config, __doc__, defaults(cli.preset_of(PRESETS), unnamed))
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.number)
