"""All that pulls a student towards the guided teacher: teacher, auxiliary network and training contexts.

Needs neither Ray nor DeepSpeed: who trains the auxiliary network hands it in, with what updates it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from marval_ray.config import GSIMConfig
from marval_ray.device import autocast_on_gpu
from marval_ray.diffusion.samplers import guidance_scale, guided
from marval_ray.diffusion.schedule import cosine_diffusion
from marval_ray.distil.denoising import Noising
from marval_ray.distil.gsim import GeneratorStep, gsim_generator
from marval_ray.distil.reading import Read, z_of
from marval_ray.draws import rank_generator
from marval_ray.families.base import Backbone, Context, Contexts, Predict
from marval_ray.loss import Loss


@runtime_checkable
class Trained(Protocol):
    """A network that is being trained, such as DeepSpeed's engines; `module` is the Denoiser."""

    module: Any

    def __call__(self, *arguments: Any) -> Any: ...


@dataclass(frozen=True)
class Match:
    """What GSIM has to say in an update. loss: None when it or its gradient is not finite; bad: what was not."""

    loss: Loss | None
    metrics: dict[str, Tensor]
    bad: list[str]


@dataclass(frozen=True)
class Pass:
    """What is drawn for one pass of an update, on the device before it begins: a GPU would be waited for on the way.

    noise: the student's. learnt: at what the auxiliary network learns, `repeats` draws a token. matched: where the scores are compared.
    """

    context: Any
    noise: Float[Tensor, "N D"]
    learnt: Noising
    matched: Noising


@dataclass(frozen=True, kw_only=True)
class ScoreMatcher:
    """GSIM's part of an update, on one rank.

    update: one optimiser step of `auxiliary` on a loss at the student's update of that number; gives the gradient's norm.
    batch: images a rank. all_finite: whether all values are finite on every rank. one_backbone: the student's is frozen like the
    auxiliary network's, so that contexts are read once for all.
    """

    config: GSIMConfig
    teacher: Backbone
    auxiliary: Trained
    update: Callable[[Tensor, int], Tensor]
    contexts: Contexts
    batch: int
    seed: int
    rank: int
    all_finite: Callable[..., bool]
    one_backbone: bool = False

    def match(self, student: Predict, step: int) -> Match:
        """Update the auxiliary network `auxiliary_updates` times, then find the loss of the student's update `step`."""
        updates = self.config.auxiliary_updates
        bad: list[str] = []
        for index in range(updates):
            drawn = self._draw(step, index)
            read = self._read(drawn.context)
            # The student's update reuses the tokens of the last pass.
            with torch.set_grad_enabled(index == updates - 1):
                x_0 = student(read if self.one_backbone else drawn.context, drawn.noise)
            metrics = self._learn(read, x_0.detach(), drawn.learnt, step, bad)
        generated = self._generator_step(read, x_0.detach(), drawn)
        loss = generated.surrogate(x_0).named("generator")
        if self.all_finite(generated.gradient, generated.metrics["loss"]):
            return Match(loss, metrics | loss.metrics, bad)
        return Match(None, metrics | loss.metrics, [*bad, "generator loss or its gradient"])

    def _draw(self, step: int, index: int) -> Pass:
        """Draw all of pass number `index`, in a fixed order."""
        config, channels, device = self.config, self.teacher.config.token_channels, self.teacher.device
        generator = rank_generator(self.seed, step, index, self.rank)
        context: Context = self.contexts.batch(self.seed, step * config.auxiliary_updates + index, self.batch, generator)
        tokens = context.hidden.numel()
        noise = torch.randn(tokens, channels, generator=generator)
        learnt = Noising.draw(tokens * config.repeats, channels, generator)
        matched = Noising.draw(tokens, channels, generator, config.t_min, config.t_max)
        return Pass(context.to(device), noise.to(device), learnt.to(device), matched.to(device))

    def _read(self, context: Context) -> Context | Read:
        """Return a context with its z where the auxiliary network's backbone is frozen, and so the teacher's."""
        if not self.config.freeze_backbone:
            return context
        with torch.no_grad(), autocast_on_gpu(self.teacher.device):
            return Read(context, self.teacher.conditions(context))

    def _learn(self, context: Context | Read, x_0: Float[Tensor, "N D"], noising: Noising, step: int, bad: list[str]) -> dict[str, Tensor]:
        """Update the auxiliary network on the student's tokens; return metrics. A loss that is not finite is skipped and noted in `bad`."""
        value, metrics = self.auxiliary(context, x_0.unflatten(0, context.hidden.shape), noising)
        loss = Loss(value, metrics).named("auxiliary")
        if not self.all_finite(loss.value):
            bad.append("auxiliary loss")
            return loss.metrics
        return loss.metrics | {"auxiliary/gradient_norm": self.update(loss.value, step)}

    def _generator_step(self, read: Context | Read, x_0: Float[Tensor, "N D"], drawn: Pass) -> GeneratorStep:
        """Find the gradient at the student's tokens; both backbones run without gradient, as z depends on the context alone."""
        config, teacher, psi, context = self.config, self.teacher, self.auxiliary.module.backbone, drawn.context
        w = guidance_scale(config.w, config.w_schedule, 1 - context.hidden.shape[1] / teacher.config.num_tokens)
        with autocast_on_gpu(x_0.device):
            with torch.no_grad():
                z_teacher = z_of(teacher, read)
                # With w = 1 nobody looks at the unconditional score.
                z_null = None if config.w == 1 else teacher.conditions(teacher.unconditional(context))
                z_psi = z_of(psi, read)

            def teacher_noise(x_t: Float[Tensor, "N D"], t: Int64[Tensor, " N"]) -> Float[Tensor, "N D"]:
                conditional, _ = teacher.head(x_t, t, z_teacher)
                if z_null is None:
                    return conditional.float()
                unconditional, _ = teacher.head(x_t, t, z_null)
                return guided(conditional.float(), unconditional.float(), w)

            def auxiliary_noise(x_t: Float[Tensor, "N D"], t: Int64[Tensor, " N"]) -> Float[Tensor, "N D"]:
                return psi.head(x_t, t, z_psi)[0].float()

            diffusion, matched = cosine_diffusion(device=x_0.device), drawn.matched
            return gsim_generator(x_0, matched.t, matched.noise, teacher_noise, auxiliary_noise, diffusion, config)
