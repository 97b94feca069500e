"""DC-AR's data of stage 1, and what both stages do with texts, without Ray: recorded networks, random codes, real texts."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_reward import Brightness

from actors.crew.rollout import RolloutWorker
from actors.learning.gsim import GSIMLearner, GSIMRun, Matching
from marval_ray.config import GSIMConfig, LearnerConfig, ObjectiveConfig
from marval_ray.distil.student import Student
from marval_ray.draws import Draws
from marval_ray.families.dcar.data import MaskedCodes, data_schema
from marval_ray.families.dcar.encoder import CodeEncoder
from marval_ray.families.dcar.family import FAMILY
from marval_ray.families.encoders import read_encoder
from marval_ray.files.flat import pack
from marval_ray.hub.layout import load_model, save_model
from marval_ray.reinforce.objective import Objective
from marval_ray.reinforce.scoring import Scorer
from marval_ray.types import Prompts, Request, Rollout

CPU = torch.device("cpu")
TEXTS = ("a cat on the mat", "the dog", "a dog", "")
PROMPTS = Prompts(TEXTS[:2]).each(4)
IMAGES = 8


@pytest.fixture(scope="module")
def config(parts):
    return parts[0]


@pytest.fixture(scope="module")
def text_encoder(parts, config):
    return FAMILY.conditioner(config, CPU, parts[1]["--texts"])


@pytest.fixture
def table(parts, config) -> pa.Table:
    """Random codes and values, whose metadata say what jobs/encode.py says."""
    random, tokens = np.random.default_rng(0), config.num_tokens
    codes, values = random.integers(0, config.num_codes, (IMAGES, tokens)), random.standard_normal((IMAGES, tokens * config.token_channels))
    schema = read_encoder(parts[1]["--vae"]).schema(config.image_size)
    assert schema.remove_metadata() == data_schema(tokens, config.token_channels)
    columns = {"codes": codes.astype(np.int16), "values": values.astype(np.float16)}
    lists = [pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1]) for part in columns.values()]
    return pa.table([*lists, pa.array([TEXTS[i % len(TEXTS)] for i in range(IMAGES)])], schema=schema)


@pytest.fixture
def data(table, tmp_path):
    pq.write_table(table, tmp_path / "codes.parquet", row_group_size=4)
    return tmp_path / "codes.parquet"


def batch(data, config, text_encoder, generator_seed: int = 0, rank: int = 0, world: int = 1, drop: float = 0.0):
    contexts = MaskedCodes(data, config, rank, world, text_encoder)
    return contexts.batch(1, 3, 4, torch.Generator().manual_seed(generator_seed), drop)


def test_contexts_hold_the_rows_of_the_file_with_codes_masked(data, table, config, text_encoder):
    context = batch(data, config, text_encoder)
    rows = {tuple(row["codes"]): row for row in table.to_pylist()}
    for codes, values, text in zip(context.codes.tolist(), context.values, context.text.states):
        row = rows[tuple(codes)]
        assert torch.equal(values.flatten(), torch.tensor(row["values"], dtype=torch.float16).float())
        assert torch.equal(text, text_encoder(Prompts((row["prompt"],))).states[0])
    assert context.masked.any(1).all() and not context.masked.all() and not context.left_out.any()
    assert context.hidden.tolist() == [list(range(config.num_tokens))] * 4


def test_contexts_follow_from_seed_step_and_generator_alone(data, config, text_encoder):
    first, again = batch(data, config, text_encoder), batch(data, config, text_encoder)
    assert torch.equal(first.codes, again.codes) and torch.equal(first.masked, again.masked)
    other = batch(data, config, text_encoder, generator_seed=1)
    assert torch.equal(first.codes, other.codes) and not torch.equal(first.masked, other.masked)


def test_ranks_share_the_row_groups(data, config, text_encoder):
    shares = [{tuple(codes) for codes in batch(data, config, text_encoder, 0, rank, 2).codes.tolist()} for rank in range(2)]
    assert list(map(len, shares)) == [4, 4] and not shares[0] & shares[1]
    with pytest.raises(ValueError, match=r"has 2 row group\(s\), fewer than 3 ranks"):
        MaskedCodes(data, config, 0, 3, text_encoder)


def test_a_text_that_is_left_out_is_the_model_s_own(parts, data, config, text_encoder):
    context, model = batch(data, config, text_encoder, drop=1.0), FAMILY.read(parts[1]["--teacher"], config)
    assert context.left_out.all()
    assert torch.equal(model.conditions(context), model.conditions(model.unconditional(batch(data, config, text_encoder))))


def test_a_text_is_encoded_once_and_its_batch_changes_no_bit(text_encoder):
    together = text_encoder(Prompts(TEXTS))
    before = text_encoder._kept.cache_info()
    alone = text_encoder(Prompts(TEXTS[1:2]))
    after = text_encoder._kept.cache_info()
    assert torch.equal(together.states[1:2], alone.states) and after.hits == before.hits + 1 and after.maxsize


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"side": 4}, r"`codes` is fixed_size_list<.*>\[64\], this model needs .*\[16\]: encode anew"),
        ({"num_codes": 16}, r"row group 0 has codes \d+ to 31, the model's are 0 to 15"),
        ({"residual_scale": 0.2}, "has residuals divided by 0.107, this model has 0.2"),
    ],
)
def test_data_of_another_model_is_refused(data, config, change, said):
    FAMILY.check_data(data, config)
    with pytest.raises(ValueError, match=said):
        FAMILY.check_data(data, replace(config, **change))


def test_data_that_is_damaged_or_of_another_tokenizer_is_refused(data, table, parts, config, text_encoder, tmp_path):
    FAMILY.check_data(data, config, CodeEncoder.read(parts[1]["--vae"]).id)
    with pytest.raises(ValueError, match="holds latents of another autoencoder .its codec is .*, that of --vae other"):
        FAMILY.check_data(data, config, "other")
    with pytest.raises(ValueError, match="`prompt` is absent, this model needs string"):
        FAMILY.check_data(write(table.drop(["prompt"]), tmp_path), config)
    with pytest.raises(ValueError, match=r"row group 0 has 8 missing value\(s\) in `codes` or `prompt`"):
        FAMILY.check_data(write(table.set_column(2, "prompt", pa.nulls(IMAGES, pa.string())), tmp_path), config)
    with pytest.raises(ValueError, match="no Parquet file at .*nothing: jobs/encode.py writes one from images with prompts"):
        FAMILY.check_data(tmp_path / "nothing", config)
    kind = table.schema.field("values").type
    infinite = pa.FixedSizeListArray.from_arrays(pa.array(np.full(IMAGES * kind.list_size, np.inf, np.float16)), kind.list_size)
    with pytest.raises(ValueError, match="has numbers in `values` that are not finite"):
        MaskedCodes(write(table.set_column(1, "values", infinite), tmp_path), config, 0, 1, text_encoder)


def write(table: pa.Table, folder):
    pq.write_table(table, folder / "changed.parquet")
    return folder / "changed.parquet"


def test_a_model_that_reads_texts_needs_its_text_encoder(config):
    with pytest.raises(ValueError, match="nothing names its text encoder: give it with --texts FOLDER"):
        FAMILY.conditioner(config, CPU)


def run_of(parts, data, **gsim) -> GSIMRun:
    config, files = parts
    learner = LearnerConfig(steps=2, batch=4, lr=1e-3, auxiliary_lr=1e-3, ema=0.9)
    return GSIMRun(config, Matching(GSIMConfig(w=5.5, **gsim), files["--teacher"], data, files["--texts"]), learner)


def weights(learner: GSIMLearner) -> dict[str, torch.Tensor]:
    """All that is learnt."""
    parts = {"student": learner.student.module, "auxiliary": learner.matcher.auxiliary.module}
    named = {f"{part}.{n}": p for part, module in parts.items() for n, p in module.named_parameters()} | learner.ema.shadow
    return {name: value.detach().clone() for name, value in named.items()}


@pytest.mark.usefixtures("process_group")
def test_the_head_alone_learns_and_a_resumed_run_is_the_same(parts, data, tmp_path):
    run = run_of(parts, data, freeze_backbone=True)
    whole = GSIMLearner(run, CPU)
    before = weights(whole)
    assert whole.step(0)["generator/l2"] > 0
    whole.save(tmp_path / "checkpoint", 1)
    resumed = GSIMLearner(run, CPU)
    assert resumed.load(tmp_path / "checkpoint") == 1
    for learner in (whole, resumed):
        learner.step(1)
    after = weights(whole)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in after.items())
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"student", "auxiliary", "diffloss"} and all("diffloss." in name for name in moved)
    save_model(tmp_path, "student", whole.ema.shadow, run.model, torch.float32)
    assert load_model(tmp_path / "student.safetensors").config == run.model  # all of the model is there, what no update moves too


@pytest.mark.usefixtures("process_group")
def test_the_backbone_learns_where_it_may(parts, data):
    learner, frozen = GSIMLearner(run_of(parts, data), CPU), GSIMLearner(run_of(parts, data, freeze_backbone=True), CPU)
    before = weights(learner)
    metrics, alike = learner.step(0), frozen.step(0)
    assert all(torch.equal(metrics[f"auxiliary/{name}"], alike[f"auxiliary/{name}"]) for name in ("mse", "vb"))  # before its first update
    moved = {name for name, value in weights(learner).items() if not torch.equal(value, before[name])}
    assert "student.backbone.blocks.0.cross_attn.q_linear.weight" in moved and "auxiliary.backbone.x_embedder.weight" in moved
    assert not {name for name in moved if name.endswith(("pos_embed", "y_embedding"))}


def test_guidance_that_follows_the_share_of_known_tokens_is_refused(parts, data):
    with pytest.raises(ValueError, match="gsim.w-schedule linear would be 1 always"):
        run_of(parts, data, w_schedule="linear")


@pytest.mark.parametrize("estimator", ["pathwise", "policy"])
def test_a_rollout_worker_draws_for_texts_and_the_learner_follows_the_reward(parts, config, estimator):
    """An update of RL, without Ray: weights to images of prompts, their scores, the gradient; a step along it raises the reward."""
    model = FAMILY.read(parts[1]["--teacher"], config)
    rl = ObjectiveConfig(loops=(3,), last=1, estimator=estimator, group=4)
    objective = Objective(config, rl, None, 0, CPU, lambda sums: None, parts[1]["--texts"])
    worker = RolloutWorker(config, objective.sampler, parts[1]["--texts"])
    scorer, request = Scorer(FAMILY.codec(parts[1]["--vae"], config), Brightness()), Request(Draws(0, tuple(range(8)), 4), PROMPTS, 3)

    def drawn() -> Rollout:
        return worker.generate(pack(dict(model.named_parameters()), 0, torch.float32), request).rollout

    rollout = drawn()
    scored = scorer(rollout.tokens, PROMPTS)
    objective.loss(Student(model), 0, rollout, scored).value.backward()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter -= 0.003 * parameter.grad / parameter.grad.norm()
    again = drawn()
    assert torch.equal(again.tokens.codes, rollout.tokens.codes)  # the head alone has moved
    assert scorer(again.tokens, PROMPTS).score.mean() > scored.score.mean()
