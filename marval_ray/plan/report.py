"""What `--plan` prints: the memory of each role, what lies on a GPU at once and whether it fits, hours."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from marval_ray.config import GSIMConfig, LearnerConfig, RLConfig
from marval_ray.evaluation.metrics import markdown_table
from marval_ray.families.base import Backbone, Codec, FamilyConfig
from marval_ray.plan.cost import GPU, Work, gsim_seconds, rl_seconds
from marval_ray.plan.counting import parameters_of
from marval_ray.plan.kinds import kind_of
from marval_ray.plan.learners import gsim_learner, learning, rl_learner, rl_learners, trained
from marval_ray.plan.need import Need
from marval_ray.plan.workers import clip_of, drawing, reward_worker, rollout_worker, scorer_of
from marval_ray.plan.zero import Held

GB = 1e9
CONTEXT = 0.5 * GB
"""Of each process on a GPU: CUDA's context and its libraries. Assumed."""
GAPS = 1.1
"""Memory that PyTorch's allocator holds over what is in use. Assumed."""
KINDS = {
    24: ("RTX 4090", GPU(tflops=165.0, price=0.5)),
    40: ("A100", GPU()),
    80: ("H100", GPU(tflops=989.0, price=3.5)),
    141: ("H200", GPU(tflops=989.0, price=4.0)),
}
"""GPUs by their GB: one of that size, its peak in bf16 and an assumed price."""


@dataclass(frozen=True)
class Actor:
    """One process of a role. images: at once. gpus: its share of a GPU, 0 on a CPU."""

    role: str
    images: int
    count: int
    gpus: float
    need: Need

    @property
    def row(self) -> list[str]:
        place = f"{self.count} x {self.gpus:g} GPU" if self.gpus else f"{self.count} x CPU"
        sizes = (self.need.weights, self.need.optimiser, self.need.working, self.need.total)
        return [self.role, place, str(self.images), *(f"{size / GB:.2f}" for size in sizes)]


@dataclass(frozen=True)
class Planned:
    """A run of jobs/distill.py as far as its plan goes.

    model: needs no files (`Kind.without_files`). codec: None for one of the published sizes.
    judged: whether held-out figures are taken. pictures: drawn at once for the report.
    """

    model: FamilyConfig
    gsim: GSIMConfig
    learner: LearnerConfig
    rl: RLConfig
    rl_learner: LearnerConfig
    stages: Sequence[str]
    codec: Codec | None
    judged: bool
    pictures: int

    @cached_property
    def actors(self) -> dict[str, list[Actor]]:
        """All that work at once in each stage."""
        return {stage: {"gsim": self._gsim, "rl": self._rl}[stage]() for stage in self.stages}

    def _gsim(self) -> list[Actor]:
        learner = self.learner
        need = gsim_learner(self.model, self.gsim, learner, learner.gpus_per_worker > 0)
        return [Actor("GSIM learner", learner.batch, learner.workers, learner.gpus_per_worker, need)]

    def _rl(self) -> list[Actor]:
        c, rl, learner = self.model, self.rl, self.rl_learner
        replay = rl_learner(c, rl, self.gsim, learner, learner.gpus_per_worker > 0)
        actors = [
            Actor(f"RL learner, K = {rl.last}", learner.batch, learner.workers, learner.gpus_per_worker, replay),
            Actor("rollout", rl.chunk, rl.rollout.count, rl.rollout.gpus, rollout_worker(c, rl, rl.rollout.gpus > 0)),
            Actor(
                "decoder and reward", rl.chunk, rl.reward.count, rl.reward.gpus,
                reward_worker(c, rl, self.codec, clip_of(rl.rewards)),
            ),
        ]  # fmt: skip
        return actors + ([Actor("judge", 64, 1, rl.judge.gpus, drawing(c, self.codec, 64))] if self.judged else [])

    @cached_property
    def driver(self) -> Actor:
        """What draws the pictures between the stages, and keeps its models while they work."""
        on_gpu = any(actor.gpus for actors in self.actors.values() for actor in actors)
        return Actor("pictures", self.pictures, 1, float(on_gpu), drawing(self.model, self.codec, self.pictures))

    @property
    def learners(self) -> dict[str, LearnerConfig]:
        return {stage: {"gsim": self.learner, "rl": self.rl_learner}[stage] for stage in self.stages}

    def network(self, stage: str) -> Backbone:
        """Return what a stage trains."""
        return trained(self.model, self.gsim) if stage == "gsim" else learning(self.model, self.rl)[0].backbone


def text_of(planned: Planned, size: int) -> str:
    """Return the plan for GPUs of `size` GB, as Markdown."""
    name, gpu = KINDS[size]
    parts = [f"GPUs of {size} GB ({name}); GB are 10^9 bytes.", roles_table(planned), fits_table(planned, size), zero_table(planned)]
    if "rl" in planned.stages:
        parts.append(replay_table(planned))
    return "\n\n".join([*parts, hours_table(planned, gpu)])


def roles_table(planned: Planned) -> str:
    heads = ["role", "actors", "images at once", "weights", "optimiser", "activations and gradients", "GB of each"]
    return markdown_table(heads, [actor.row for actors in planned.actors.values() for actor in actors] + [planned.driver.row])


def fits_table(planned: Planned, size: int) -> str:
    rows = []
    for stage, actors in (*planned.actors.items(), ("between", [planned.driver])):
        gpus = loads(actors, planned.driver.need.weights if stage in OPTIONS else 0)
        if gpus:
            fits = "fits" if max(gpus) <= size * GB else f"DOES NOT FIT: lower {OPTIONS.get(stage, '--figures.batch')}"
            rows.append([stage, str(len(gpus)), f"{max(gpus) / GB:.1f}", fits])
    if not rows:
        return "No role asks for a GPU: all of it lies in the memory of the machine."
    return markdown_table(["stage", "GPUs", f"GB on the fullest, with {GAPS - 1:.0%} of gaps and {CONTEXT / GB} GB a process", ""], rows)


OPTIONS = {"gsim": "--learner.batch", "rl": "--rl.chunk (decoder and reward) or --rl-learner.batch"}
"""What the memory of a stage depends on."""


def loads(actors: Sequence[Actor], driver: int) -> list[float]:
    """Return the bytes on each GPU when actors go where there is room for their share; the driver's models stay on the first one."""
    gpus: list[tuple[float, float]] = []  # share that is left, bytes
    for actor in sorted(actors, key=lambda actor: actor.gpus, reverse=True):
        if not actor.gpus:
            continue
        taken = GAPS * actor.need.total + CONTEXT
        for _ in range(actor.count):
            share = min(1.0, actor.gpus)
            place = next((i for i, (left, _) in enumerate(gpus) if round(left - share, 4) >= 0), len(gpus))
            left, used = gpus[place] if place < len(gpus) else (1.0, 0.0 if gpus else GAPS * driver + CONTEXT)
            gpus[place : place + 1] = [(left - share, used + taken)]
    return [used for _, used in gpus]


def zero_table(planned: Planned) -> str:
    """Return what a trained network takes on each rank; GSIM trains two."""
    every, rows = parameters_of(planned.model), []
    for ranks, parameters in sorted({(learner.workers, trained_of(planned.network(stage))) for stage, learner in planned.learners.items()}):
        part = "" if parameters == every else f", {parameters / 1e6:.1f}M trained"
        for stage in (0, 1, 2, 3):
            held = Held.of(parameters, stage, ranks)
            numbers = (every - parameters + held.weights, held.gradients, held.optimiser, held.bucket)
            rows.append([f"{stage}{part}", str(ranks), *(f"{4 * count / GB:.2f}" for count in (*numbers, sum(numbers)))])
    heads = ["ZeRO stage", "ranks", "weights of a network", "gradients", "optimiser", "bucket", "GB in all"]
    return markdown_table(heads, rows)


def trained_of(network: Backbone) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def replay_table(planned: Planned) -> str:
    """Return what the RL learner takes for the last K loops."""
    c, rl, learner = planned.model, planned.rl, planned.rl_learner
    lasts, rows = kind_of(c).replays(rl), []
    for recompute in (True, False):
        needs = rl_learners(c, replace(rl, recompute=recompute), planned.gsim, learner, learner.gpus_per_worker > 0, lasts)
        rows.append(["activations again" if recompute else "activations kept", *(f"{need.total / GB:.2f}" for need in needs)])
    return markdown_table([f"RL learner, {learner.batch} images, GB", *(f"K = {last}" for last in lasts)], rows)


def hours_table(planned: Planned, gpu: GPU) -> str:
    """Return hours and cost of each stage by the model of docs/scaling.md."""
    rows = []
    c, rl = planned.model, planned.rl
    work = kind_of(c).work(c, planned.gsim, rl, scorer_of(c, planned.codec, clip_of(rl.rewards)))
    for stage, learner in planned.learners.items():
        gpus = len(loads(planned.actors[stage], 0))
        if gpus:
            hours = {"gsim": gsim_hours, "rl": rl_hours}[stage](planned, gpu, work)
            images = learner.batch * learner.workers
            rows.append([stage, f"{learner.steps:,}", str(images), f"{hours:,.1f}", f"{hours * gpus * gpu.price:,.0f}"])
    if not rows:
        return "Hours are known of GPUs alone."
    return markdown_table(["stage", "updates", "images an update", "hours, by a model", "$"], rows)


def gsim_hours(planned: Planned, gpu: GPU, work: Work) -> float:
    learner, parameters = planned.learner, trained_of(planned.network("gsim"))
    return learner.steps * gsim_seconds(gpu, work, parameters, learner.batch, learner.workers) / 3600


def rl_hours(planned: Planned, gpu: GPU, work: Work) -> float:
    """Roles work at the same time when none is to wait for another and each has GPUs of its own; else one after the other."""
    rl, learner = planned.rl, planned.rl_learner
    shares = {
        "rollout": (rl.rollout.count, rl.rollout.gpus), "reward": (rl.reward.count, rl.reward.gpus),
        "learner": (learner.workers, learner.gpus_per_worker),
    }  # fmt: skip
    alone = all(gpus >= 1 for _, gpus in shares.values())
    seconds = rl_seconds(gpu, work, kind_of(planned.model).blocks(planned.model), rl)
    each = [seconds[role] / (count if alone else 1) for role, (count, _) in shares.items()]
    image = max(each) if alone and rl.max_staleness else sum(each)
    return learner.steps * learner.batch * learner.workers * image / 3600
