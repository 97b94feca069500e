"""Presets: sizes of models and the settings of both stages for each, as one table."""

from dataclasses import dataclass, replace
from typing import Literal

from marval_ray.config import Files, GSIMConfig, GuardConfig, LearnerConfig, RLConfig, RoleConfig
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.embedded import assets_index
from marval_ray.embedded.fashion_mnist import CLASS_NAMES
from marval_ray.families.dcar import presets as dcar
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.mar import presets as mar
from marval_ray.families.mar.config import ModelConfig

ClassPresetName = Literal["tiny", "tiny-paper", "mar-b", "mar-l", "mar-h", "detok-b", "detok-l", "mar-b-24gb", "mar-b-80gb"]
PresetName = Literal[ClassPresetName, "tiny-t2i", "dc-ar-512"]
"""As options have them; a test holds that these are the keys of the tables."""

_TINY = ModelConfig(
    latent_size=8, latent_channels=4, num_classes=10, buffer_size=8,
    encoder_width=128, encoder_depth=2, encoder_heads=4,
    decoder_width=128, decoder_depth=4, decoder_heads=4,
    head_width=192, head_depth=3, student_reveal=3.5, masking="cosine", image_size=28,
)  # fmt: skip
_ONE_GPU = {"mar-b-24gb": "mar-b", "mar-b-80gb": "mar-b"}
"""What presets for one GPU are made of."""
MAR_MODELS: dict[str, ModelConfig] = {"tiny": _TINY, "tiny-paper": replace(_TINY, student_reveal=None), **mar.MODELS}
MAR_MODELS |= {name: MAR_MODELS[model] for name, model in _ONE_GPU.items()}
MODELS: dict[str, ModelConfig | DCARConfig] = {**MAR_MODELS, "tiny-t2i": dcar.SCENES, **dcar.MODELS}
_TINY_SAMPLER = assets_index.teacher_sampler()
SAMPLERS: dict[str, Ancestral] = dict.fromkeys(("tiny", "tiny-paper"), _TINY_SAMPLER) | mar.SAMPLERS
SAMPLERS |= {name: SAMPLERS[model] for name, model in _ONE_GPU.items()}
SAMPLERS |= {"tiny-t2i": assets_index.teacher_sampler(assets_index.SCENE_FIGURES)} | dcar.SAMPLERS
"""How each teacher draws best."""


@dataclass(frozen=True)
class Preset:
    """loops: N_AR at which students are shown and measured."""

    model: ModelConfig | DCARConfig
    gsim: GSIMConfig
    learner: LearnerConfig
    rl: RLConfig
    rl_learner: LearnerConfig
    guard: GuardConfig = GuardConfig()
    files: Files = Files()
    loops: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    stages: Literal["gsim,rl", "gsim", "rl"] = "gsim,rl"


# Of the published models; docs/method.md says of each setting whether it is the paper's, and why, where it is ours.
_PAPER = LearnerConfig(workers=8, gpus_per_worker=1, cpus_per_worker=4, zero_stage=1, betas=(0.0, 0.999))
_PUBLISHED_GSIM = GSIMConfig(weighting="sigma2")
# 5 epochs of 1.28 million images in batches of 2 on 8 GPUs; each learner GPU has one of rollouts and half of one of rewards.
_PAPER_RL = replace(_PAPER, batch=2, steps=400_000)
_PAPER_ROLES = RLConfig(
    rollout=RoleConfig(count=8, gpus=1), reward=RoleConfig(count=4, gpus=1), judge=RoleConfig(gpus=1), max_staleness=1,
    chunk=2,
)  # fmt: skip


def _on_one_gpu(paper: LearnerConfig, batch: int) -> LearnerConfig:
    """Return the paper's learner as a single rank of so many images: as many images in all, the average over as many of them, and the
    square-root rule for Adam's learning rates (Malladi et al., arXiv 2205.10287). One rank gains nothing by ZeRO, whose bucket takes 2 GB.
    """
    fewer = paper.workers * paper.batch / batch
    return replace(
        paper, workers=1, batch=batch, steps=round(fewer * paper.steps), lr=paper.lr / fewer**0.5, zero_stage=0,
        auxiliary_lr=paper.auxiliary_lr / fewer**0.5, ema=1 - (1 - paper.ema) / fewer, gpus_per_worker=0.4,
    )  # fmt: skip


def _preset_for_one_gpu(model: ModelConfig, batch: int, rl_batch: int, chunk: int) -> Preset:
    """Return the paper's recipe where all roles share a GPU and work in turns; `--plan` says that it fits."""
    role = RoleConfig(gpus=0.2)
    return Preset(
        model=model, gsim=_PUBLISHED_GSIM, learner=_on_one_gpu(_PAPER, batch), rl_learner=_on_one_gpu(_PAPER_RL, rl_batch),
        rl=RLConfig(rollout=role, reward=role, judge=role, chunk=chunk, weight_dtype="bfloat16"),
    )  # fmt: skip


# Guidance is the one with which the teacher samples best; it, lambda(t) and the learning rates won trials of this length, the rest
# stays by an ablation of short runs (LOG.md).
_TINY_PRESET = Preset(
    model=_TINY,
    gsim=GSIMConfig(w=_TINY_SAMPLER.cfg, w_schedule=_TINY_SAMPLER.cfg_schedule, k=-0.4, weighting="sigma2"),
    learner=LearnerConfig(
        steps=230, batch=64, lr=2.5e-4, auxiliary_lr=5e-4, betas=(0.0, 0.999), lr_end=0.3, warmup=10, ema=0.98,
        cpus_per_worker=2, checkpoint_every=50,
    ),
    rl=RLConfig(
        rewards=("pickscore:embedded/reward",), loops=(6,), last=1, drift_weight=2.0, class_drift_weight=60.0, freeze_head=True,
        recompute=False, chunk=40,
        rollout=RoleConfig(cpus=0.5, threads=2), reward=RoleConfig(cpus=0.25, threads=2),
        judge=RoleConfig(cpus=0.25, threads=2),
    ),
    rl_learner=LearnerConfig(
        steps=52, batch=40, lr=2e-4, auxiliary_lr=1e-4, betas=(0.0, 0.999), warmup=5, ema=0.9, log_every=1,
        threads_per_worker=2, checkpoint_every=13,
    ),
    guard=GuardConfig(every=13, samples=1000, loops=(6,), max_fd=1.1), loops=(1, 2, 4, 6, 8, 16, 32, 64),
    files=Files(
        teacher=assets_index.TEACHER, latents=assets_index.LATENTS, vae=assets_index.VAE,
        classifier=assets_index.CLASSIFIER, reference=assets_index.REFERENCE,
        classifier_b=assets_index.CLASSIFIER_B, reference_b=assets_index.REFERENCE_B,
        teacher_figures=assets_index.TEACHER_FIGURES, class_names=CLASS_NAMES,
    ),
)  # fmt: skip
# The head alone in the first stage, so that codes stay the teacher's; codes and head in the second.
_SCENES_SAMPLER = SAMPLERS["tiny-t2i"]
_SCENES_PRESET = Preset(
    model=dcar.SCENES,
    gsim=GSIMConfig(w=_SCENES_SAMPLER.cfg, k=-0.4, weighting="sigma2", freeze_backbone=True),
    learner=LearnerConfig(
        steps=150, batch=64, lr=1e-4, auxiliary_lr=3e-4, betas=(0.0, 0.999), lr_end=0.3, warmup=10, ema=0.98, cpus_per_worker=2,
        checkpoint_every=50,
    ),
    rl=RLConfig(
        rewards=("pickscore:embedded/scene-reward",), loops=(6,), last=1, estimator="pathwise+codes", group=4, chunk=32, recompute=False,
        rollout=RoleConfig(cpus=0.5, threads=2), reward=RoleConfig(cpus=0.25, threads=2), judge=RoleConfig(cpus=0.25, threads=2),
    ),
    rl_learner=LearnerConfig(
        steps=24, batch=64, lr=1e-4, auxiliary_lr=1e-4, betas=(0.0, 0.999), warmup=5, ema=0.9, log_every=1, threads_per_worker=2,
        checkpoint_every=8,
    ),
    guard=GuardConfig(every=8, samples=500, loops=(6,), max_fd=1.1), loops=(4, 6, 8, 12),
    files=Files(
        teacher=assets_index.SCENE_TEACHER, latents=assets_index.SCENE_CODES, vae=assets_index.SCENE_CODEC,
        classifier=assets_index.SCENE_CLASSIFIER, reference=assets_index.SCENE_REFERENCE,
        classifier_b=assets_index.SCENE_CLASSIFIER_B, reference_b=assets_index.SCENE_REFERENCE_B,
        teacher_figures=assets_index.SCENE_FIGURES, texts=assets_index.SCENE_TEXTS,
        prompts=assets_index.SCENE_PROMPTS, shown_prompts=assets_index.HELD_OUT_PROMPTS,
    ),
)  # fmt: skip
TEACHERS: dict[str, LearnerConfig] = {
    "tiny": LearnerConfig(
        steps=7_500, batch=32, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.02, warmup=300, lr_end=0.0, ema=0.999, cpus_per_worker=2,
        checkpoint_every=500,
    ),
    # MAR's own: 400 epochs of 1.28 million images in batches of 2,048, a hundred of them of warm-up.
    **dict.fromkeys(mar.MODELS, LearnerConfig(
        steps=250_000, batch=256, lr=8e-4, betas=(0.9, 0.95), weight_decay=0.02, warmup=62_500, ema=0.9999, grad_clip=3.0, workers=8,
        gpus_per_worker=1, cpus_per_worker=4, zero_stage=1,
    )),
}  # fmt: skip
"""How teachers are trained (MAR, arXiv 2406.11838, and its README)."""
PRESETS: dict[str, Preset] = {
    "tiny": _TINY_PRESET,
    # What the paper says of both stages, at this size and length: nothing but the reward holds the student, through all loops.
    "tiny-paper": replace(
        _TINY_PRESET, model=MAR_MODELS["tiny-paper"], gsim=GSIMConfig(), guard=replace(_TINY_PRESET.guard, loops=(8,)),
        rl=replace(_TINY_PRESET.rl, loops=(8,), last=8, drift_weight=0.0, class_drift_weight=0.0, freeze_head=False),
    ),
    **{
        name: Preset(model=model, gsim=_PUBLISHED_GSIM, learner=_PAPER, rl=_PAPER_ROLES, rl_learner=_PAPER_RL)
        for name, model in mar.MODELS.items()
    },
    "mar-b-24gb": _preset_for_one_gpu(MAR_MODELS["mar-b-24gb"], batch=32, rl_batch=8, chunk=4),
    "mar-b-80gb": _preset_for_one_gpu(MAR_MODELS["mar-b-80gb"], batch=128, rl_batch=16, chunk=16),
    "tiny-t2i": _SCENES_PRESET,
    # Guidance is the one with which its authors draw; the head alone is trained, so that codes stay the teacher's.
    "dc-ar-512": Preset(
        model=dcar.MODELS["dc-ar-512"], gsim=replace(_PUBLISHED_GSIM, w=dcar.SAMPLERS["dc-ar-512"].cfg, freeze_backbone=True),
        learner=_PAPER, rl=replace(_PAPER_ROLES, loops=(dcar.LOOPS,), last=1, freeze_backbone=True), rl_learner=_PAPER_RL,
        loops=(dcar.LOOPS,), stages="gsim",
    ),
}  # fmt: skip
"""Defaults of `jobs/distill.py`; those of mar-* and detok-* are the paper's (supplement, Tables 1 and 2) where it says something, whose own
teachers are MAR's. Of DC-AR it says nothing: its learner is that of MAR."""
