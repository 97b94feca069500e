"""The policy gradient of DC-AR's codes, without Ray: recorded networks, real texts."""

from dataclasses import replace

import pytest
import torch
from small_reward import Brightness

from actors.crew.rollout import RolloutWorker
from marval_ray.config import RLConfig, RoleConfig
from marval_ray.distil.student import Student
from marval_ray.families.dcar.family import FAMILY
from marval_ray.families.dcar.loop import perturbed
from marval_ray.files.flat import pack
from marval_ray.loss import Loss
from marval_ray.presets import MODELS
from marval_ray.reinforce.objective import Objective, check_objective, freeze
from marval_ray.reinforce.requests import requests
from marval_ray.reinforce.scoring import Scorer
from marval_ray.types import Prompts, Rollout

CPU = torch.device("cpu")
TEXTS = Prompts(("a cat on the mat", "the dog"))
LOOPS = 4


@pytest.fixture(scope="module")
def config(parts):
    return parts[0]


class Policy:
    """RL of a generator without Ray: rollouts of the two prompts, their brightness, and the objective."""

    def __init__(self, parts, config, **rl):
        self.config, self.rl = config, RLConfig(loops=(LOOPS,), last=1, group=4, rollout=RoleConfig(), **rl)
        self.model = FAMILY.read(parts[1]["--teacher"], config)
        freeze(self.model, self.rl)
        self.initial = Student(FAMILY.read(parts[1]["--teacher"], config)) if self.rl.drift_weight else None
        self.objective = Objective(config, self.rl, self.initial, 0, CPU, lambda sums: None, parts[1]["--texts"])
        self.worker = RolloutWorker(config, self.objective.sampler, parts[1]["--texts"])
        self.scorer = Scorer(FAMILY.codec(parts[1]["--vae"], config), Brightness())

    def rollout(self, step: int, images: int = 8) -> Rollout:
        (request,) = requests(replace(self.rl, chunk=images), images, TEXTS, 0, step)
        return self.worker.generate(pack(dict(self.model.named_parameters()), step, torch.float32), request).rollout

    def loss(self, step: int, rollout: Rollout) -> Loss:
        return self.objective.loss(Student(self.model), step, rollout, self.scorer(rollout.tokens, rollout.prompts))


def test_recorded_choices_are_draws_of_their_likelihoods(parts, config):
    """With the Gumbel noise of the rollout, log pi has its largest value at the code that was drawn."""
    policy = Policy(parts, config, estimator="codes")
    rollout = policy.rollout(0)
    choices = list(FAMILY.choices(rollout, config, policy.objective.conditioner(rollout.prompts)))
    assert sum(len(loop.codes) for loop in choices) == (rollout.tokens.revealed < LOOPS - 1).sum()
    for number, loop in enumerate(choices):
        log_probs = Student(policy.model)(loop)
        assert torch.allclose(log_probs.exp().sum(-1), torch.ones(len(log_probs)), atol=1e-5)
        noise = perturbed(torch.zeros(8, config.num_tokens, config.num_codes), 1.0, rollout.draws, "codes", number)
        assert torch.equal((log_probs + noise.flatten(0, 1)[loop.places]).argmax(-1), loop.codes)


def test_images_of_a_prompt_draw_their_own_codes(parts, config):
    tokens = Policy(parts, config, estimator="codes").rollout(0).tokens
    assert not torch.equal(tokens.codes[0], tokens.codes[1])


def test_the_first_gradient_of_codes_is_that_of_their_weighed_likelihood(parts, config):
    policy = Policy(parts, config, estimator="codes")
    rollout = policy.rollout(0)
    loss = policy.loss(0, rollout)
    loss.value.backward()
    assert loss.metrics["codes/ratio"] == 1 and loss.metrics["codes/clipped"] == 0
    assert not any(parameter.requires_grad for parameter in policy.model.head.parameters())
    found = {name: parameter.grad.clone() for name, parameter in policy.model.named_parameters() if parameter.grad is not None}
    policy.model.zero_grad()
    scores = policy.scorer(rollout.tokens, rollout.prompts).score.unflatten(0, (2, 4))
    advantages = ((scores - scores.mean(1, keepdim=True)) / (scores.std(1, correction=0, keepdim=True) + 1e-6)).flatten()
    choices = list(FAMILY.choices(rollout, config, policy.objective.conditioner(rollout.prompts)))
    terms = [advantages[loop.images] * Student(policy.model)(loop)[torch.arange(len(loop.codes)), loop.codes] for loop in choices]
    (-torch.cat(terms).mean()).backward()
    for name, gradient in found.items():
        assert torch.allclose(gradient, dict(policy.model.named_parameters())[name].grad, rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("estimator", ["codes", "pathwise+codes"])
def test_codes_learn_what_is_rewarded_and_a_price_holds_them(parts, config, estimator):
    drifts = []
    for price in (0.0, 1000.0):
        policy = Policy(parts, config, estimator=estimator, drift_weight=price or 1e-9)
        optimizer = torch.optim.Adam([parameter for parameter in policy.model.parameters() if parameter.requires_grad], 3e-3)
        before = policy.scorer(policy.rollout(1000, 32).tokens, TEXTS.each(16)).score
        for step in range(10):
            loss = policy.loss(step, policy.rollout(step, 16))
            optimizer.zero_grad()
            loss.value.backward()
            optimizer.step()
        after = policy.scorer(policy.rollout(1000, 32).tokens, TEXTS.each(16)).score
        drifts.append(loss.metrics["codes/drift"].item())
        if not price:
            error = (before.var() / 32 + after.var() / 32).sqrt()
            assert after.mean() > before.mean() + 3 * error
    assert drifts[1] < 0.9 * drifts[0]


def test_what_does_not_go_with_codes_is_refused(config):
    with pytest.raises(ValueError, match="rl.max_staleness must be 0"):
        RLConfig(estimator="codes", max_staleness=1)
    with pytest.raises(ValueError, match="rl.freeze_backbone leaves the head alone"):
        RLConfig(estimator="codes", freeze_backbone=True)
    with pytest.raises(ValueError, match="needs rl.estimator policy or codes"):
        check_objective(config, RLConfig(estimator="pathwise+codes", epochs=2))
    with pytest.raises(ValueError, match="draws discrete codes at random"):
        check_objective(replace(config, code_temperature=0.0), RLConfig(estimator="codes"))
    with pytest.raises(ValueError, match="draws discrete codes at random"):
        check_objective(MODELS["tiny"], RLConfig(estimator="codes"))
