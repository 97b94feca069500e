"""The GSIM learner: teacher, student and auxiliary network of one rank."""

from dataclasses import dataclass
from pathlib import Path

import deepspeed
import torch
from torch import Tensor

from actors.learning.engine import make_engine, update
from actors.learning.learner import Learner
from marval_ray.config import GSIMConfig, LearnerConfig, ModelConfig
from marval_ray.diffusion.schedule import cosine_diffusion
from marval_ray.distil.gsim import GeneratorStep, gsim_generator, guided
from marval_ray.distil.student import Auxiliary
from marval_ray.families.mar.checkpoint import load_model
from marval_ray.families.mar.masking import mask_tokens
from marval_ray.families.mar.model import MAR, patchify
from marval_ray.files.latents import LatentDataset
from marval_ray.types import Context


@dataclass(frozen=True)
class GSIMRun:
    """All that defines a GSIM run."""

    model: ModelConfig
    gsim: GSIMConfig
    learner: LearnerConfig
    teacher: Path
    latents: Path
    seed: int = 0

    def make(self, device: torch.device) -> "GSIMLearner":
        return GSIMLearner(self, device)


class ScoreMatcher:
    """Teacher, auxiliary network and real latents: all that pulls a student towards the guided teacher.

    `learner` is the one whose student is matched.
    """

    def __init__(self, run: GSIMRun, learner: Learner):
        self.run, self.learner, self.device = run, learner, learner.device
        self.dataset = LatentDataset(run.latents, run.model.latent_shape, learner.rank, learner.world)
        self.diffusion = cosine_diffusion(device=self.device)
        self.teacher = load_model(run.teacher, run.model).eval().requires_grad_(False).to(self.device)
        auxiliary = Auxiliary(load_model(run.teacher, run.model))
        self.auxiliary = make_engine(auxiliary, run.learner, run.learner.auxiliary_lr, self.device)

    def surrogate(self, step: int) -> tuple[Tensor | None, dict[str, Tensor], list[str]]:
        """(loss of the student, metrics, what was not finite), after `auxiliary_updates` of the auxiliary network.

        There is no loss when it or its gradient is not finite.
        """
        updates = self.run.gsim.auxiliary_updates
        factor = self.run.learner.lr_factor(step)
        bad: list[str] = []
        for index in range(updates):
            generator = self.learner.generator(step, index)
            context = self._context(step * updates + index, generator)
            noise = self._normal((context.hidden.numel(), context.tokens.shape[-1]), generator)
            # The student's update reuses the tokens of the last pass.
            with torch.set_grad_enabled(index == updates - 1):
                x_0 = self.learner.student(context, noise)
            loss, metrics = self._auxiliary_loss(context, x_0.detach(), generator)
            if self.learner.all_finite(loss):
                norm = update(self.auxiliary, loss, self.run.learner.auxiliary_lr * factor)
                metrics["auxiliary/gradient_norm"] = norm
            else:
                bad.append("auxiliary loss")
        generated = self._generator_step(context, x_0.detach(), generator)
        metrics |= {f"generator/{name}": value for name, value in generated.metrics.items()}
        if not self.learner.all_finite(generated.gradient, generated.metrics["loss"]):
            return None, metrics, [*bad, "generator loss or its gradient"]
        return generated.surrogate(x_0).value, metrics, bad

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
            # With w = 1 nobody looks at the unconditional score.
            z_null = None if config.w == 1 else conditions(self.teacher, context.without_labels(self.run.model.num_classes))
            z_psi = conditions(psi, context)

            def teacher_noise(x_t: Tensor, t: Tensor) -> Tensor:
                conditional, _ = self.teacher.head(x_t, t, z_teacher)
                if z_null is None:
                    return conditional.float()
                unconditional, _ = self.teacher.head(x_t, t, z_null)
                return guided(conditional.float(), unconditional.float(), config.w)

            def auxiliary_noise(x_t: Tensor, t: Tensor) -> Tensor:
                return psi.head(x_t, t, z_psi)[0].float()

            return gsim_generator(x_0, t, noise, teacher_noise, auxiliary_noise, self.diffusion, config)

    def _context(self, batch: int, generator: torch.Generator) -> Context:
        latents, labels = self.dataset.batch(self.run.seed, batch, self.run.learner.batch)
        return mask_tokens(patchify(latents, self.run.model.patch_size), labels, generator).to(self.device)

    def _normal(self, shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=generator).to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


class GSIMLearner(Learner):
    """One rank of the first stage."""

    def __init__(self, run: GSIMRun, device: torch.device):
        super().__init__(load_model(run.teacher, run.model), run.learner, run.seed, device)
        self.matcher = ScoreMatcher(run, self)

    @property
    def engines(self) -> dict[str, deepspeed.DeepSpeedEngine]:
        return super().engines | {"auxiliary": self.matcher.auxiliary}

    def step(self, step: int) -> dict[str, Tensor]:
        """Update number `step`: the auxiliary network `auxiliary_updates` times, then the student once.

        An update with a loss or gradient that is not finite on some rank is skipped on all of them.
        """
        loss, metrics, bad = self.matcher.surrogate(step)
        if loss is not None:
            metrics |= self.update_student(loss, step)
        self.count(step, bad)
        return metrics


@torch.no_grad()
def conditions(model: MAR, context: Context) -> Tensor:
    """z of the hidden tokens, row by row."""
    return model(context.tokens, context.labels, context.known, context.hidden).flatten(0, 1)
