"""The memory that a plan counts of a model that reads texts, against peaks of the CPU's allocator, and what it prints."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import refuse, succeed
from short import DISTILL
from test_plan import CPU, TINY, measured, own_linear, peak  # noqa: F401  (a fixture)
from transformers import CLIPConfig, T5Config, T5Model, T5Tokenizer

from actors.learning.gsim import GSIMLearner, GSIMRun, Matching
from marval_ray.config import GSIMConfig, LearnerConfig, RLConfig
from marval_ray.distil.student import Student
from marval_ray.draws import Draws
from marval_ray.families.dcar.codec import DCHTCodec
from marval_ray.families.dcar.context import TextStates
from marval_ray.families.dcar.data import data_schema
from marval_ray.families.dcar.family import FAMILY
from marval_ray.families.dcar.masking import hidden_after_loops
from marval_ray.families.dcar.presets import MODELS, SCENES, SCENES_TOKENIZER
from marval_ray.families.dcar.tokenizer import DCHT
from marval_ray.files.places import ASSETS
from marval_ray.plan.cost import counted
from marval_ray.plan.counting import META, parameters_of
from marval_ray.plan.dcar import KIND, Masked
from marval_ray.plan.learners import gsim_learner, rl_learner
from marval_ray.plan.workers import codec_of, reward_worker, rollout_worker
from marval_ray.plan.zero import Engine
from marval_ray.reinforce.objective import Objective, freeze
from marval_ray.reinforce.scoring import Scorer
from marval_ray.rewards import load_reward
from marval_ray.types import Prompts, Rollout, Scored, Tokens

LOOPS = 6
PLAN = (DISTILL, "--preset", "dc-ar-512", "--plan", 80)
CODES = ("--stages", "gsim,rl", "--rl.no-freeze-backbone", "--rl.max-staleness", 0)
pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """A small T5 of the width that the model reads."""
    folder = tmp_path_factory.mktemp("t5")
    T5Model(T5Config(vocab_size=128, d_model=SCENES.text_width, d_kv=24, d_ff=96, num_layers=2, num_heads=4)).save_pretrained(folder)
    words = ("<pad>", "</s>", "<unk>", "▁", "▁a", "▁cat", *(f"<extra_id_{i}>" for i in reversed(range(100))))
    T5Tokenizer([(word, -1.0) for word in words]).save_pretrained(folder)
    return folder


def learner_of(folder: Path, texts: Path, gsim: GSIMConfig, learner: LearnerConfig) -> GSIMLearner:
    """A learner on 64 images of noise, each with a prompt of its own."""
    torch.manual_seed(0)
    torch.save(FAMILY.build(SCENES).state_dict(), folder / "teacher.bin")
    random = np.random.default_rng(0)
    codes = random.integers(0, SCENES.num_codes, (64, SCENES.num_tokens), dtype=np.int16)
    values = random.standard_normal((64, SCENES.num_tokens * SCENES.token_channels)).astype(np.float16)
    columns = {"codes": list(codes), "values": list(values), "prompt": ["a cat" + " a" * row for row in range(64)]}
    pq.write_table(pa.table(columns, data_schema(SCENES.num_tokens, SCENES.token_channels)), folder / "codes.parquet")
    return GSIMLearner(GSIMRun(SCENES, Matching(gsim, folder / "teacher.bin", folder / "codes.parquet", texts), learner), CPU)


@pytest.mark.parametrize("frozen", [True, False])
def test_updates_of_gsim_take_what_was_counted(frozen, texts, tmp_path):
    gsim, learner = GSIMConfig(w=5.5, freeze_backbone=frozen), LearnerConfig(batch=16)
    held, working = measured(lambda: learner_of(tmp_path, texts, gsim, learner))
    need = gsim_learner(KIND.without_files(SCENES, texts), gsim, learner, gpu=False)
    assert held == pytest.approx(need.weights + need.optimiser, rel=0.15)
    assert working == pytest.approx(need.working, rel=0.15)


def tokens_of(batch: int) -> Tokens:
    """Images of noise whose codes came as the schedule has them."""
    shape = (batch, SCENES.num_tokens)
    counts = [0, *(SCENES.num_tokens - hidden for hidden in hidden_after_loops(SCENES.num_tokens, LOOPS))]
    came = torch.cat([torch.full((now - before,), loop) for loop, (before, now) in enumerate(zip(counts, counts[1:]))])
    return Tokens(torch.randn(*shape, SCENES.token_channels), torch.randint(SCENES.num_codes, shape), came.expand(shape).clone())


@pytest.mark.parametrize("estimator", ["pathwise", "codes", "pathwise+codes"])
@pytest.mark.parametrize("recompute", [True, False])
def test_replays_take_what_was_counted(estimator, recompute, texts):
    rl = RLConfig(loops=(LOOPS,), last=1, estimator=estimator, recompute=recompute, drift_weight=1.0, group=4)
    student, initial = Student(FAMILY.build(SCENES)), Student(FAMILY.build(SCENES)).requires_grad_(False)
    freeze(student.backbone, rl)
    objective = Objective(SCENES, rl, initial, 0, CPU, lambda total: None, texts)
    prompts, draws = Prompts(("a cat", "a") * 4), Draws(0, tuple(range(8)))
    rollout = Rollout(tokens_of(8), prompts, draws, LOOPS, 0, 0)
    scored = Scored(torch.randn(8), torch.randn(8, SCENES.num_tokens, SCENES.token_channels))
    need = rl_learner(KIND.without_files(SCENES, texts), rl, GSIMConfig(), LearnerConfig(batch=8), gpu=False)
    assert peak(lambda: objective.loss(student, 0, rollout, scored).value.backward()) == pytest.approx(need.working, rel=0.15)


def test_drawing_takes_what_was_counted(texts):
    model, rl = FAMILY.build(SCENES), RLConfig(loops=(LOOPS,), chunk=16)
    condition = TextStates(torch.randn(16, SCENES.text_length, SCENES.text_width), torch.ones(16, SCENES.text_length, dtype=torch.bool))
    need = rollout_worker(KIND.without_files(SCENES, texts), rl, gpu=False)

    @torch.no_grad()
    def draw() -> None:
        for _ in FAMILY.reveal(model, model.one_step, condition, Draws(0, tuple(range(16))), LOOPS):
            pass

    assert peak(draw) == pytest.approx(need.working, rel=0.15)


def test_scoring_takes_what_was_counted():
    codec, rl = DCHTCodec(DCHT(SCENES_TOKENIZER).eval().requires_grad_(False), SCENES), replace(TINY.rl, chunk=16)
    scorer, tokens, prompts = Scorer(codec, load_reward(rl.rewards)), tokens_of(16), Prompts(("a cat",) * 16)
    scorer(tokens, prompts)  # it keeps the features of the prompts
    clip = CLIPConfig.from_pretrained(ASSETS / "reward", local_files_only=True)
    need = reward_worker(KIND.without_files(SCENES, None), rl, codec, clip)
    assert peak(lambda: scorer(tokens, prompts)) == pytest.approx(need.working, rel=0.15)


def test_attention_counts_alike_in_the_stand_in_for_an_engine():
    c = KIND.without_files(SCENES, None)
    with META:
        student = Student(FAMILY.build(SCENES))
    context = Masked(c).batch(0, 0, 2, torch.Generator())
    noise = context.values.flatten(0, 1)
    plain = counted(lambda: student(context, noise))
    assert counted(lambda: Engine(student, LearnerConfig(), gpu=False)(context, noise)) == pytest.approx(plain, rel=1e-6) and plain > 0


def test_the_published_model_has_the_published_sizes():
    c = KIND.without_files(MODELS["dc-ar-512"], None)
    tokenizer = codec_of(c, None).codec.tokenizer
    sizes = parameters_of(c), sum(p.numel() for p in tokenizer.parameters()), sum(p.numel() for p in KIND.reader(c).model.parameters())
    assert [round(size / 1e6, 1) for size in sizes] == [671.8, 323.9, 109.6]


def test_a_plan_ends_with_hours_and_needs_no_file():
    out = succeed(*PLAN)
    assert "| GSIM learner | 8 x 1 GPU | 64 |" in out and "| gsim | 8 |" in out and "hours, by a model" in out
    assert "DOES NOT FIT" not in out.split("| between |")[0]


@pytest.mark.slow
def test_a_plan_of_codes_counts_all_loops():
    out = succeed(*PLAN, *CODES, "--rl.estimator", "pathwise+codes", "--rl-learner.batch", 8)
    assert "| RL learner, 8 images, GB | K = 1 |" in out and "| rl | 400,000 | 64 |" in out


def test_a_batch_that_splits_groups_is_refused():
    assert "rl_learner.batch 2 is not a multiple of rl.group 8" in refuse(*PLAN, *CODES, "--rl.estimator", "codes")
