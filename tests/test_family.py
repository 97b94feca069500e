"""A family that is unlike MAR goes through GSIM, RL, evaluation, export and the endpoint: the seam holds."""

import base64
from pathlib import Path

import httpx
import pytest
import ray
import torch
from ray import serve
from safetensors.torch import load_file
from servers import PATH, free_port
from test_api import pixels
from toy_family import FAMILY, TEXTS, ToyConfig

from actors.learning.gsim import GSIMRun, Matching
from actors.learning.plan import Plan
from actors.learning.reinforce import reinforce
from actors.learning.trainer import train
from actors.serving.endpoint import application
from actors.serving.endpoint_config import EndpointConfig
from marval_ray.config import GSIMConfig, GuardConfig, LearnerConfig, RLConfig, RoleConfig
from marval_ray.diffusion.samplers import Ancestral
from marval_ray.distil.student import Student
from marval_ray.draws import Draws
from marval_ray.embedded import assets_index
from marval_ray.evaluation.judges import Judges
from marval_ray.evaluation.sweep import measure
from marval_ray.families.generation import Generation, student_generation
from marval_ray.files.storage import Storage
from marval_ray.hub.layout import load_model, read_config, save_model
from marval_ray.reinforce.objective import Objective
from marval_ray.reinforce.replay import replay_chain
from marval_ray.types import Prompts, Rollout, Scored

TOY = ToyConfig()
PROMPTS = Prompts(tuple("x" * length for length in range(TEXTS)))
JUDGE = (assets_index.CLASSIFIER, assets_index.REFERENCE)
HALF = RoleConfig(cpus=0.5)


@pytest.fixture
def teacher(tmp_path) -> Path:
    torch.manual_seed(0)
    state = {name: value + 0.02 * torch.randn_like(value) for name, value in FAMILY.build(TOY).state_dict().items()}  # none is zero
    save_model(tmp_path / "teacher", "teacher", state, TOY, torch.float32)
    return tmp_path / "teacher/teacher.safetensors"


def test_the_folder_says_of_which_family_a_model_is(teacher):
    assert read_config(teacher.parent) == TOY
    assert load_model(teacher).config.family is FAMILY


def test_images_of_a_family_do_not_depend_on_their_batch(teacher):
    model = load_model(teacher)
    for sampler in (model.one_step, Ancestral(steps=3)):
        one, all_at_once = (Generation(model, FAMILY.codec(teacher, TOY), sampler, 4, batch).images(PROMPTS, 1) for batch in (1, 64))
        assert one.shape == (TEXTS, 1, 28, 28) and torch.allclose(one, all_at_once, atol=1e-5)


def test_a_price_on_classes_is_refused_where_there_are_none(teacher):
    learner = LearnerConfig()
    with pytest.raises(ValueError, match="rl.class_drift_weight needs a model of classes"):
        Plan(
            model=TOY, rl=RLConfig(class_drift_weight=1.0), guard=GuardConfig(), learner=learner, student=teacher,
            matching=Matching(GSIMConfig(), teacher, teacher), codec=teacher, prompts=PROMPTS, judge=None,
        )  # fmt: skip


@pytest.mark.parametrize("estimator", ["pathwise", "policy"])
def test_a_rollout_is_drawn_again_as_it_was_and_teaches(teacher, estimator):
    model = load_model(teacher)
    rl = RLConfig(loops=(5,), last=3, estimator=estimator, group=2, drift_weight=0.1)
    objective = Objective(TOY, rl, Student(load_model(teacher)), seed=0, device=torch.device("cpu"), add_up=lambda sums: None)
    prompts, draws = PROMPTS.in_turn(4), Draws(3, (0, 1, 2, 3))
    with torch.no_grad():
        *_, tokens = FAMILY.reveal(model, objective.sampler, objective.conditioner(prompts), draws, 5)
    assert tokens.revealed.unique().tolist() == [0, 1, 2, 3, 4]
    rollout = Rollout(tokens, prompts, draws, loops=5, version=0, checksum=0)
    if estimator == "pathwise":
        loops = list(FAMILY.recorded(rollout, objective.conditioner(prompts), objective.sampler, 5))
        again, _ = replay_chain(Student(model), torch.zeros_like(tokens.values), loops)
        torch.testing.assert_close(again, tokens.values)
    loss = objective.loss(Student(model), 0, rollout, Scored(torch.randn(4), torch.randn_like(tokens.values)))
    loss.value.backward()
    assert loss.metrics.get("ratio", 1) == 1 and model.net.input_proj.weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_a_family_goes_from_the_teacher_to_the_endpoint(teacher, tmp_path):
    learner = LearnerConfig(steps=2, batch=8, lr=1e-3, auxiliary_lr=1e-3, ema=0.5, log_every=1)
    matching = Matching(GSIMConfig(w=1.5), teacher, teacher)
    with ray.init(num_cpus=4, object_store_memory=300 * 10**6, runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}):
        distilled = train(GSIMRun(TOY, matching, learner), Storage.of(str(tmp_path / "run"))) / "ema.safetensors"
        rl = RLConfig(
            rewards=("plugin:small_reward:Brightness",), loops=(4,), last=3, chunk=4, drift_weight=1e-3, gsim_weight=0.1,
            rollout=HALF, reward=HALF, judge=HALF,
        )  # fmt: skip
        plan = Plan(
            model=TOY, rl=rl, guard=GuardConfig(every=1, samples=20, loops=(4,)), learner=learner, student=distilled, matching=matching,
            codec=teacher, prompts=PROMPTS, judge=JUDGE, measured=16,
        )  # fmt: skip
        outcome = reinforce(plan, Storage.of(str(tmp_path / "run")))
        state = load_file(outcome.checkpoint)
        assert any((state[name] != value).any() for name, value in load_file(distilled).items())
        assert torch.tensor([outcome.reward_before, outcome.reward_after]).isfinite().all()

        save_model(tmp_path / "student", "student", state, TOY, torch.float32)
        student = tmp_path / "student/student.safetensors"
        painter = student_generation(load_model(student), FAMILY.codec(student, TOY), loops=4)
        row, _ = measure("student", painter, PROMPTS.in_turn(20), 0, Judges.load(JUDGE))
        assert row["fd"] > 0 and not {"accuracy", "diversity"} & set(row)

        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(EndpointConfig(checkpoint=student, vae=student, steps=4, threads=1)), name="toy")
        answer = httpx.post(f"http://127.0.0.1:{port}{PATH}", json={"prompt": "xxx", "seed": 5}, timeout=60)
        (image,) = (pixels(base64.b64decode(entry["b64_json"])) for entry in answer.json()["data"])
        own = (painter.images(PROMPTS[3:4], 5)[0, 0] + 1) * 127.5
        assert (torch.from_numpy(image.astype("float32")) - own).abs().max() <= 1
        refused = httpx.post(f"http://127.0.0.1:{port}{PATH}", json={"class": 3}, timeout=60)
        assert refused.status_code == 400 and "no classes" in refused.text
        serve.shutdown()
