"""The GSIM learner: one rank's student, auxiliary network and teacher. Works in any torch process group."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from actors.engine import make_engine, update, whole_parameters
from marval_ray.config import GSIMConfig, LearnerConfig, ModelConfig
from marval_ray.data import LatentDataset
from marval_ray.files import atomic_path, write_json
from marval_ray.losses.gsim import GeneratorStep, gsim_generator, guided
from marval_ray.masking import mask_tokens
from marval_ray.models.mar import MAR, patchify
from marval_ray.models.student import Auxiliary, Student
from marval_ray.schedule import cosine_diffusion
from marval_ray.types import Context
from marval_ray.weights import EMA, load_model


class NonFiniteError(Exception):
    """Too many updates in a row had a loss or gradient that is not finite."""


@dataclass(frozen=True)
class GSIMRun:
    """All that defines a GSIM run."""

    model: ModelConfig
    gsim: GSIMConfig
    learner: LearnerConfig
    teacher: Path
    latents: Path
    seed: int = 0


class GSIMLearner:
    """State of one rank and its updates. All draws derive from (seed, step, rank)."""

    def __init__(self, run: GSIMRun, device: torch.device):
        self.run, self.device = run, device
        self.rank, world = dist.get_rank(), dist.get_world_size()
        self.dataset = LatentDataset(run.latents, run.model.latent_shape, self.rank, world)
        self.diffusion = cosine_diffusion().to(device)
        self.teacher = load_model(run.teacher, run.model).eval().requires_grad_(False).to(device)
        self.student = make_engine(Student(load_model(run.teacher, run.model)), run.learner, run.learner.lr, device)
        auxiliary = Auxiliary(load_model(run.teacher, run.model))
        self.auxiliary = make_engine(auxiliary, run.learner, run.learner.auxiliary_lr, device)
        with whole_parameters(self.student, self.student.module.mar) as parameters:
            self.ema = EMA(parameters, run.learner.ema) if self.rank == 0 else None
        self.bad_steps = self.skipped = 0

    def step(self, step: int) -> dict[str, Tensor]:
        """Update number `step`: the auxiliary network `auxiliary_updates` times, then the student once.

        An update with a loss or gradient that is not finite on some rank is skipped on all of them. Raises
        NonFiniteError after `max_bad_steps` such steps in a row.
        """
        updates = self.run.gsim.auxiliary_updates
        factor = self.run.learner.lr_factor(step)
        bad: list[str] = []
        for index in range(updates):
            generator = self._generator(step, index)
            context = self._context(step * updates + index, generator)
            noise = self._normal((context.hidden.numel(), context.tokens.shape[-1]), generator)
            # The student's update reuses the tokens of the last pass.
            with torch.set_grad_enabled(index == updates - 1):
                x_0 = self.student(context, noise)
            loss, metrics = self._auxiliary_loss(context, x_0.detach(), generator)
            if self._all_finite(loss):
                update(self.auxiliary, loss, self.run.learner.auxiliary_lr * factor)
            else:
                bad.append("auxiliary loss")
        generated = self._generator_step(context, x_0.detach(), generator)
        if self._all_finite(generated.gradient, generated.metrics["loss"]):
            update(self.student, generated.surrogate(x_0).value, self.run.learner.lr * factor)
            self._update_ema()
        else:
            bad.append("generator loss or its gradient")
        self._count(step, bad)
        return metrics | {f"generator/{name}": value for name, value in generated.metrics.items()}

    def _auxiliary_loss(
        self, context: Context, x_0: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = x_0.unflatten(0, context.hidden.shape)
        loss, metrics = self.auxiliary(context, tokens, self.run.gsim.repeats, generator)
        return loss, {f"auxiliary/{name}": value for name, value in metrics.items()}

    def _generator_step(self, context: Context, x_0: Tensor, generator: torch.Generator) -> GeneratorStep:
        """The gradient at the student's tokens; both backbones run without gradient, as z depends on c alone."""
        config = self.run.gsim
        t = torch.randint(config.t_min, config.t_max + 1, (len(x_0),), generator=generator).to(self.device)
        noise = self._normal(x_0.shape, generator)
        psi = self.auxiliary.module.mar
        with self._autocast():
            z_teacher = conditions(self.teacher, context)
            z_null = conditions(self.teacher, context.without_labels(self.run.model.num_classes))
            z_psi = conditions(psi, context)

            def teacher_noise(x_t: Tensor, t: Tensor) -> Tensor:
                conditional, _ = self.teacher.head(x_t, t, z_teacher)
                unconditional, _ = self.teacher.head(x_t, t, z_null)
                return guided(conditional.float(), unconditional.float(), config.w)

            def auxiliary_noise(x_t: Tensor, t: Tensor) -> Tensor:
                return psi.head(x_t, t, z_psi)[0].float()

            return gsim_generator(x_0, t, noise, teacher_noise, auxiliary_noise, self.diffusion, config)

    def save(self, folder: Path, step: int) -> None:
        """Write everything that update `step` (the next one) depends on. Every rank calls this."""
        self.student.save_checkpoint(str(folder), tag="student")
        self.auxiliary.save_checkpoint(str(folder), tag="auxiliary")
        if self.ema is not None:
            with atomic_path(folder / "ema.safetensors") as temporary:
                save_file(self.ema.shadow, temporary)
            write_json(folder / "progress.json", {"step": step, "ema_updates": self.ema.updates})

    def load(self, folder: Path) -> int:
        """Restore what `save` wrote and return the next update's number. Every rank calls this."""
        for engine, tag in ((self.student, "student"), (self.auxiliary, "auxiliary")):
            engine.load_checkpoint(str(folder), tag=tag)
        progress = json.loads((folder / "progress.json").read_text())
        if self.ema is not None:
            self.ema.load_state_dict({"updates": progress["ema_updates"], "shadow": load_file(folder / "ema.safetensors")})
        return progress["step"]

    def _context(self, batch: int, generator: torch.Generator) -> Context:
        latents, labels = self.dataset.batch(self.run.seed, batch, self.run.learner.batch)
        return mask_tokens(patchify(latents, self.run.model.patch_size), labels, generator).to(self.device)

    def _generator(self, step: int, index: int) -> torch.Generator:
        (seed,) = np.random.SeedSequence((self.run.seed, step, index, self.rank)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(seed))

    def _normal(self, shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator).to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def _update_ema(self) -> None:
        with whole_parameters(self.student, self.student.module.mar) as parameters:
            if self.ema is not None:
                self.ema.update(parameters)

    def _all_finite(self, *values: Tensor) -> bool:
        """Whether all values are finite on every rank."""
        finite = torch.stack([value.detach().isfinite().all() for value in values]).all().float()
        dist.all_reduce(finite, dist.ReduceOp.MIN)
        return bool(finite)

    def _count(self, step: int, bad: list[str]) -> None:
        """Count steps that were not finite, and give up after too many in a row."""
        self.skipped += bool(bad)
        self.bad_steps = self.bad_steps + 1 if bad else 0
        if self.bad_steps >= self.run.learner.max_bad_steps:
            raise NonFiniteError(
                f"{self.bad_steps} updates in a row were not finite (last: {', '.join(bad)} at update {step}); "
                "lower learner.lr and learner.auxiliary_lr, or check the latents' scale"
            )


@torch.no_grad()
def conditions(model: MAR, context: Context) -> Tensor:
    """z of the hidden tokens, row by row."""
    return model(context.tokens, context.labels, context.known, context.hidden).flatten(0, 1)
