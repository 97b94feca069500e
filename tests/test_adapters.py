"""Adapters of a student: what is trained in its place, and the whole weights that everybody else sees."""

import pytest
import torch
from small import MODEL, write_teacher

from actors.learning.gsim import Matching
from actors.learning.plan import Plan
from marval_ray.adapters import adapted_layers, add_adapters, whole_weights
from marval_ray.config import GSIMConfig, GuardConfig, LearnerConfig, RLConfig
from marval_ray.families.mar.model import MAR
from marval_ray.hub.layout import load_model
from marval_ray.types import Prompts

BLOCK = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]


@pytest.fixture
def models(tmp_path) -> tuple[MAR, MAR]:
    """The same student without and with adapters."""
    plain, adapted = (load_model(write_teacher(tmp_path), MODEL) for _ in range(2))
    adapted.head.requires_grad_(False)
    add_adapters(adapted, 2, seed=0)
    return plain, adapted


def conditions(model: MAR) -> torch.Tensor:
    tokens, places = torch.randn(3, 16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16).expand(3, -1)
    return model(tokens, torch.arange(3), places[:, :5], places[:, 5:])


def test_a_student_begins_as_it_was_and_only_adapters_are_trained(models):
    plain, adapted = models
    whole = whole_weights(adapted)
    assert whole.keys() == dict(plain.named_parameters()).keys()
    assert all(torch.equal(value, whole[name]) for name, value in plain.named_parameters())
    assert torch.equal(conditions(plain), conditions(adapted))
    trained = [(name, value.numel()) for name, value in adapted.named_parameters() if value.requires_grad]
    assert all(".lora_" in name and not name.startswith("diffloss") for name, _ in trained)
    # r (in + out) of two blocks (16 -> 48, 16 -> 16, 16 -> 64, 64 -> 16), of what joins them (16 -> 16) and of z_proj (4 -> 16).
    assert sum(count for _, count in trained) == 2 * (2 * (64 + 32 + 80 + 80) + 32 + 20)


def test_the_whole_weights_do_what_weights_and_adapters_do(models):
    plain, adapted = models
    before = conditions(plain)
    for name, value in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(value, std=0.1)
    plain.load_state_dict(whole_weights(adapted))
    torch.testing.assert_close(conditions(plain), conditions(adapted))
    assert (conditions(plain) - before).abs().max() > 0.1


def test_layers_of_any_family_have_adapters_where_these_are_smaller():
    model = MAR(MODEL)
    body = [f"{part}_blocks.0.{name}" for part in ("encoder", "decoder") for name in BLOCK]
    names = adapted_layers(model, 4)
    assert set(body) < set(names) and any(name.startswith("diffloss") for name in names)
    assert "z_proj" not in names and "diffloss.net.input_proj" not in names  # 4 -> 16
    assert not {"encoder_blocks.0.attn.proj", "decoder_embed"} & set(adapted_layers(model, 8))  # 8 (16 + 16) is all of 16 x 16
    model.head.requires_grad_(False)
    assert set(adapted_layers(model, 4)) == {*body, "decoder_embed"}


@pytest.mark.parametrize(
    ("rl", "guard", "message"),
    [
        ({"lora_rank": 200}, {}, "rl.lora_rank 200 makes adapters that are larger than any layer"),
        ({"lora_rank": 2}, {"action": "roll_back"}, "use guard.action stop"),
    ],
)
def test_what_does_not_go_together_is_refused_before_ray_starts(tmp_path, rl, guard, message):
    with pytest.raises(ValueError, match=message):
        Plan(
            MODEL, RLConfig(**rl), GuardConfig(**guard), LearnerConfig(), tmp_path, Matching(GSIMConfig(), tmp_path, tmp_path), tmp_path,
            Prompts.of_classes(("a", "b", "c")), None,
        )  # fmt: skip
