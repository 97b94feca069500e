"""Configuration: one small frozen dataclass for each concern. `presets.py` has their values."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


def check_at_least(minimum: int, config: object, *names: str, prefix: str = "") -> None:
    """Raise ValueError when a field of `config` is smaller; a prefix "--" names it as an option of a command."""
    for name in names:
        if getattr(config, name) < minimum:
            shown = name.replace("_", "-") if prefix == "--" else name
            raise ValueError(f"{prefix}{shown} must be at least {minimum}, got {getattr(config, name)}")


def check_loops(loops: tuple[int, ...], name: str) -> None:
    """Raise ValueError when these are no numbers of AR loops."""
    if not loops or min(loops) < 1:
        raise ValueError(f"{name} must be one number or several, at least 1, got {' '.join(map(str, loops)) or 'none'}")


def check_seed(seed: int, name: str = "--seed") -> None:
    """Raise ValueError when torch or NumPy would refuse the seed, or take it for another."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"{name} must be in 0..2^63 - 1, got {seed}")


@dataclass(frozen=True)
class GSIMConfig:
    """The generator's loss (MARVAL, supplement, Table 1) and the auxiliary network's share of the work."""

    w: float = 1.2
    """Guidance scale of the teacher's score."""
    w_schedule: Literal["constant", "linear"] = "constant"
    """"linear": from 1 where no token of a context is known to w where all are, as MAR samples."""
    k: float = 1.0
    """Coefficient of L2; with the squared distance k = 1 is SiD's alpha 0.5 and k = -0.4 its alpha 1.2."""
    distance: Literal["pseudo_huber", "squared"] = "pseudo_huber"
    huber_radius: float = 1e-5
    detach_l2: bool = False
    """Cut the gradient of L2: with the squared distance this is score implicit matching (SIM)."""
    weighting: Literal["constant", "sigma", "sigma2", "sigma2/alpha"] = "constant"
    """lambda(t)."""
    t_min: int = 20
    t_max: int = 980
    """Timesteps are uniform in t_min..t_max (2 % to 98 %, as DMD2 draws them)."""
    auxiliary_updates: int = 1
    """Updates of the auxiliary network before each update of the student."""
    repeats: int = 1
    """Draws of (t, e) for each student token in an auxiliary update."""
    freeze_backbone: bool = False
    """Train the denoising heads alone, of student and auxiliary network."""

    def __post_init__(self) -> None:
        if not 0 <= self.t_min <= self.t_max <= 999:
            raise ValueError(f"timesteps need 0 <= t_min <= t_max <= 999, got t_min {self.t_min}, t_max {self.t_max}")
        check_at_least(1, self, "auxiliary_updates", "repeats", prefix="gsim.")


@dataclass(frozen=True)
class LearnerConfig:
    """Optimisation of student and auxiliary network, and how it is spread over workers."""

    steps: int = 75_000
    """Updates of the student; 75,000 of 512 images are the paper's 30 epochs."""
    seconds: float | None = None
    """End after so many seconds of updates even if some are left, with a checkpoint; counted anew in a resumed run."""
    batch: int = 64
    """Images a worker and update."""
    lr: float = 5e-6
    auxiliary_lr: float = 5e-6
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    lr_end: float = 1.0
    """Share of the learning rates that is left at the end, 0..1, where a cosine leads; 1 keeps them as they are."""
    warmup: int = 0
    """Updates of linear warm-up of the learning rates."""
    ema: float = 0.9999
    grad_clip: float = 1.0
    workers: int = 1
    gpus_per_worker: float = 0.0
    """A fraction leaves room for other roles on the GPU; two workers cannot share one."""
    cpus_per_worker: int = 1
    threads_per_worker: int | None = None
    """Threads of torch, on a CPU; by default as many as CPUs."""
    node: str | None = None
    """Only nodes that have this custom resource, such as those of one type in cluster.yaml; by default any."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO stage of both networks."""
    max_failures: int = 3
    """How often Ray Train restarts lost workers from the last checkpoint before it gives up."""
    max_bad_steps: int = 10
    """Stop after so many updates in a row with a loss or gradient that is not finite."""
    log_every: int = 10
    checkpoint_every: int = 1000

    def check(self, name: str) -> None:
        """Raise ValueError when a value is out of its range; `name` is what these options are called, as there are two of them."""
        positive = ("steps", "batch", "workers", "cpus_per_worker", "log_every", "checkpoint_every", "max_bad_steps")
        check_at_least(1, self, *positive, prefix=f"{name}.")
        if not 0 <= self.ema < 1:
            raise ValueError(f"{name}.ema must be in [0, 1), got {self.ema}")
        if not 0 <= self.lr_end <= 1:
            raise ValueError(f"{name}.lr-end must be in 0..1, got {self.lr_end}")

    def lr_factor(self, step: int) -> float:
        """Return the factor of the learning rates at update `step`."""
        return lr_factor(step, self.steps, self.warmup, self.lr_end)


def lr_factor(step: int, steps: int, warmup: int, end: float) -> float:
    """Return the factor of a learning rate at update `step` of `steps`: a linear warm-up, and a cosine from 1 to `end`."""
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return warm * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * step / steps)))


@dataclass(frozen=True)
class RoleConfig:
    """Actors of one role. Fractions of a GPU let several share one."""

    count: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1
    """Threads of torch, on a CPU. More than the machine has cores, over all actors that work at once, slow each other down many times."""
    node: str | None = None
    """Only nodes that have this custom resource; by default any."""

    def check(self, name: str) -> None:
        """Raise ValueError when a value is out of its range; `name` is what these options are called."""
        check_at_least(1, self, "count", "threads", prefix=f"{name}.")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What RL pays for, and how its gradient is found (MARVAL, supplement, Table 2)."""

    rewards: tuple[str, ...] = ("pickscore:models/pickscore",)
    """Weighted sum of [WEIGHT*]KIND:PLACE; kinds: pickscore, clip, hpsv2, image_reward, plugin."""
    held_out_rewards: tuple[str, ...] = ()
    """Rewards of the same form that nothing learns from, measured before and after: a reward that is trained on rises anyway."""
    loops: tuple[int, ...] = (64,)
    """N_AR of the rollouts; of several each update draws its own. Students are compared at the first one."""
    last: int = 64
    """K: the gradient goes back through the last K loops."""
    random_last: bool = False
    """Draw K anew for each update, from 1..last."""
    recompute: bool = True
    """Keep activations of one loop at a time, and compute them again on the way back: less memory, more time."""
    estimator: Literal["pathwise", "policy", "codes", "pathwise+codes"] = "pathwise"
    """policy: group-normalised policy gradient, for rewards without a gradient. codes: the same of discrete codes, whose draws explore by
    themselves; it leaves the denoising head alone. pathwise+codes: both at once."""
    code_weight: float = 1.0
    """Weight of the policy gradient of codes beside the pathwise one."""
    exploration: float = 0.1
    """Standard deviation of the policy around the one-step prediction."""
    group: int = 8
    """Images of one prompt that a policy gradient compares: for that of values of one start, so that exploration alone tells them apart."""
    epochs: int = 1
    """Updates of the policy on each batch, with the importance ratio to the weights that drew it."""
    clip: float = 0.2
    """The policy's importance ratio counts within 1 - clip .. 1 + clip."""
    saturate: float | None = None
    """Let the reward saturate this many standard deviations above the mean of the first batch."""
    gsim_weight: float = 0.0
    """Weight of the GSIM loss beside the reward."""
    drift_weight: float = 0.0
    """Weight of the squared distance to the predictions of the student before RL."""
    class_drift_weight: float = 0.0
    """Weight of the squared mean shift of each class's predictions: what all images of a class do alike costs extra."""
    freeze_head: bool = False
    """Leave the denoising head as it is: rewards spoil fine texture through it first."""
    freeze_backbone: bool = False
    """Train the denoising head alone."""
    lora_rank: int = 0
    """Train adapters of this rank in the place of the weights: gradients and optimiser take little memory. 0 trains all weights."""
    reward_scale: bool = True
    """Divide the reward by its standard deviation in the first batch."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "last", "group", "epochs", prefix="rl.")
        check_at_least(0, self, "lora_rank", prefix="rl.")
        check_loops(self.loops, "rl.loops")
        if self.freeze_backbone and (self.freeze_head or self.learns_codes):
            raise ValueError("rl.freeze_backbone leaves the head alone: it goes neither with rl.freeze_head nor with an estimator of codes")

    @property
    def learns_codes(self) -> bool:
        return self.estimator.endswith("codes")

    @property
    def in_groups(self) -> bool:
        """Whether images of one prompt are compared."""
        return self.estimator != "pathwise"


@dataclass(frozen=True)
class FlowConfig:
    """How weights and rollouts travel between learner and actors."""

    max_staleness: int = 0
    """Updates by which the weights of a rollout may be behind; 0 is synchronous."""
    chunk: int = 16
    """Images a request to a rollout actor."""
    timeout: float = 600.0
    """Seconds after which an actor that does not answer is replaced."""
    weight_dtype: Literal["float32", "bfloat16"] = "float32"
    transport: Literal["object_store", "direct"] = "object_store"
    """direct: Ray Direct Transport between GPUs, experimental."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "chunk", prefix="rl.")
        check_at_least(0, self, "max_staleness", prefix="rl.")

    @property
    def queue(self) -> int:
        """Batches in flight beyond the one that is learnt from."""
        return (self.max_staleness + 1) // 2

    @property
    def publish_every(self) -> int:
        """Updates between two versions: with `queue`, staleness keeps its bound and two versions live at most."""
        return self.max_staleness + 1 - self.queue


@dataclass(frozen=True)
class PlacementConfig:
    """Which actors work for RL, and where."""

    rollout: RoleConfig = RoleConfig()
    reward: RoleConfig = RoleConfig()
    judge: RoleConfig = RoleConfig()
    """One actor, which takes the held-out figures."""
    colocate: bool = False
    """Reward actors take their CPUs and GPUs from the rollout actors' bundles."""

    def __post_init__(self) -> None:
        for name in ("rollout", "reward", "judge"):
            getattr(self, name).check(f"rl.{name}")


@dataclass(frozen=True)
class RLConfig(PlacementConfig, FlowConfig, ObjectiveConfig):
    """Reinforcement learning of the one-step student: three parts, one flat set of options."""

    def __post_init__(self) -> None:
        for part in (ObjectiveConfig, FlowConfig, PlacementConfig):
            part.__post_init__(self)
        if self.learns_codes and self.max_staleness:
            raise ValueError(
                f"rl.max_staleness must be 0 for rl.estimator {self.estimator}: rollouts do not say how likely their codes were, got "
                f"{self.max_staleness}"
            )


@dataclass(frozen=True)
class GuardConfig:
    """Held-out figures of RL, and the bands in which they may move."""

    every: int = 10
    """Updates between two looks at the held-out scores."""
    samples: int = 500
    loops: tuple[int, ...] = (64,)
    """Looks are taken at each of these N_AR; the bands hold for all of them."""
    seed: int = 2_000
    max_fd: float = 1.0
    """Times the FD before RL."""
    min_diversity: float = 0.9
    """Times the diversity before RL."""
    min_recall: float = 0.8
    """Times the recall before RL."""
    max_accuracy_loss: float = 0.02
    patience: int = 2
    """Looks in a row outside the bands before something is done."""
    action: Literal["stop", "roll_back"] = "stop"
    """roll_back: go on from the best student with half the learning rate."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "every", "patience", prefix="guard.")
        check_loops(self.loops, "guard.loops")
        check_at_least(2, self, "samples", prefix="guard.")  # a covariance needs two
        check_seed(self.seed, "guard.seed")


@dataclass(frozen=True)
class Files:
    """What a preset brings along; published models bring nothing: their files must be named."""

    teacher: Path | None = None
    latents: Path | None = None
    vae: Path | None = None
    classifier: Path | None = None
    reference: Path | None = None
    classifier_b: Path | None = None
    reference_b: Path | None = None
    teacher_figures: Path | None = None
    class_names: tuple[str, ...] = ()
    texts: Path | None = None
    """Text encoder of a model that reads texts."""
    prompts: Path | None = None
    """What RL draws pictures of, where a model reads texts."""
    shown_prompts: Path | None = None
    """What it is measured by."""
