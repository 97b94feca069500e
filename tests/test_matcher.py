"""What GSIM's matcher asks of the teacher."""

from dataclasses import dataclass

import pytest
import torch
from small import MODEL
from torch import Tensor

from marval_ray.config import GSIMConfig
from marval_ray.distil.matcher import ScoreMatcher
from marval_ray.distil.student import Denoiser, Student
from marval_ray.families.mar.context import MARContext
from marval_ray.families.mar.model import MAR


@dataclass(frozen=True)
class Same:
    """The same context in every batch: `known` tokens of each image."""

    known: int

    def batch(self, seed: int, step: int, size: int, generator: torch.Generator) -> MARContext:
        places = torch.arange(MODEL.num_tokens).expand(size, -1)
        tokens = torch.randn(size, MODEL.num_tokens, MODEL.token_channels, generator=generator)
        return MARContext(tokens, torch.arange(size) % MODEL.num_classes, places[:, : self.known], places[:, self.known :])


@dataclass(frozen=True)
class Still:
    """An auxiliary network that nobody trains."""

    module: Denoiser

    def __call__(self, *arguments: object) -> tuple[Tensor, dict[str, Tensor]]:
        return self.module(*arguments)


def random_model(seed: int) -> MAR:
    torch.manual_seed(seed)
    model = MAR(MODEL)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.1 * torch.randn_like(value)
    return model


def generator_loss(config: GSIMConfig, known: int) -> Tensor:
    matcher = ScoreMatcher(
        config=config, teacher=random_model(0), auxiliary=Still(Denoiser(random_model(1))), update=lambda loss, step: loss,
        contexts=Same(known), batch=4, seed=0, rank=0, all_finite=lambda *values: True,
    )  # fmt: skip
    return matcher.match(Student(random_model(2)), 0).metrics["generator/loss"]


@pytest.mark.parametrize("known, w", [(0, 1.0), (4, 1.75), (8, 2.5)])
def test_a_linear_schedule_guides_by_what_is_known(known, w):
    linear = generator_loss(GSIMConfig(w=4.0, w_schedule="linear"), known)
    torch.testing.assert_close(linear, generator_loss(GSIMConfig(w=w), known))
    assert (linear - generator_loss(GSIMConfig(w=4.0), known)).abs() > 1e-3


def test_a_frozen_backbone_is_read_once_for_all(monkeypatch):
    """The auxiliary network's and the student's backbones are the teacher's; their heads are not."""
    teacher, heads = random_model(0), [random_model(seed).head.state_dict() for seed in (1, 2)]
    auxiliary, student = (random_model(0) for _ in heads)
    for model, head in zip((auxiliary, student), heads):
        model.head.load_state_dict(head)
    calls, conditions = [], MAR.conditions
    monkeypatch.setattr(MAR, "conditions", lambda model, context: calls.append(model) or conditions(model, context))
    losses = []
    for config, one_backbone in ((GSIMConfig(w=2.0), False), (GSIMConfig(w=2.0, freeze_backbone=True), True)):
        matcher = ScoreMatcher(
            config=config, teacher=teacher, auxiliary=Still(Denoiser(auxiliary)), update=lambda loss, step: loss, contexts=Same(4),
            batch=4, seed=0, rank=0, all_finite=lambda *values: True, one_backbone=one_backbone,
        )  # fmt: skip
        losses.append(matcher.match(Student(student), 0).metrics["generator/loss"])
    assert torch.equal(*losses)
    assert len(calls) == 5 + 2 and calls[5:] == [teacher, teacher]  # with its prompt and without
