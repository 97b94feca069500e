"""DC-AR without recorded numbers: its published sizes and files, and what it answers to the rest of the project."""

import json
from dataclasses import asdict, dataclass, replace

import pytest
import torch
from small_dcar import WORDS, write_dcht
from test_matcher import Still
from transformers import T5Config, T5Model, T5Tokenizer

from marval_ray.config import GSIMConfig
from marval_ray.diffusion.samplers import Ancestral, Exploring
from marval_ray.distil.matcher import ScoreMatcher
from marval_ray.distil.student import Denoiser, Student
from marval_ray.draws import Draws
from marval_ray.families.dcar.codec import DCHTCodec
from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.context import DCARContext, TextStates
from marval_ray.families.dcar.family import FAMILY
from marval_ray.families.dcar.masking import training_mask
from marval_ray.families.dcar.model import DCAR
from marval_ray.families.dcar.presets import MODELS, SAMPLERS
from marval_ray.families.dcar.text import TextEncoder
from marval_ray.families.dcar.tokenizer import DCHT, DCHTConfig
from marval_ray.hub.published import PUBLISHED
from marval_ray.reinforce.replay import replay_chain
from marval_ray.types import Prompts, Rollout, Tokens

SMALL = DCARConfig(
    side=4, num_codes=11, token_channels=8, text_length=5, text_width=12, width=16, depth=2, heads=2, mlp_width=24, head_width=16,
    head_depth=1, image_size=128,
)  # fmt: skip
TOKENIZER = DCHTConfig((8, 8, 8, 32, 32, 32), (0, 1, 1, 1, 1, 1), (0, 1, 1, 1, 1, 1), token_channels=8, num_codes=11)
LOOPS = 4


@pytest.fixture(scope="module")
def model() -> DCAR:
    torch.manual_seed(0)
    model = DCAR(SMALL)
    model.load_state_dict({name: value + 0.1 * torch.randn_like(value) for name, value in model.state_dict().items()})  # none is zero
    return model


@pytest.fixture(scope="module")
def text() -> TextStates:
    states = torch.randn(4, SMALL.text_length, SMALL.text_width, generator=torch.Generator().manual_seed(1))
    return TextStates(states, torch.arange(SMALL.text_length) < torch.tensor([[1], [5], [3], [2]]))


@pytest.fixture
def dcht_folder(tmp_path):
    torch.manual_seed(0)
    return write_dcht(tmp_path, DCHT(TOKENIZER).state_dict(), TOKENIZER)


def linear(name: str, out: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def conv(name: str, out: int, width: int, kernel: int = 3, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width, kernel, kernel)} | ({f"{name}.bias": (out,)} if bias else {})


def tokenizer_block(part: str, stage: int, name: str, c: int) -> dict[str, tuple[int, ...]]:
    if stage < 3:
        found = conv(f"{name}.main.conv1.conv", c, c) | conv(f"{name}.main.conv2.conv", c, c, bias=False)
        statistics = {"running_mean": (c,), "running_var": (c,), "num_batches_tracked": ()} if part == "decoder" else {}
        return found | {f"{name}.main.conv2.norm.{kind}": shape for kind, shape in ({"weight": (c,), "bias": (c,)} | statistics).items()}
    attention, local = f"{name}.context_module.main", f"{name}.local_module.main"
    found = conv(f"{attention}.qkv.conv", 3 * c, c, 1, bias=False) | conv(f"{attention}.proj.conv", c, c, 1, bias=False)
    found |= conv(f"{local}.inverted_conv.conv", 8 * c, c, 1) | conv(f"{local}.depth_conv.conv", 8 * c, 1)
    found |= conv(f"{local}.point_conv.conv", c, 4 * c, 1, bias=False)
    return found | {f"{norm}.norm.{kind}": (c,) for norm in (f"{attention}.proj", f"{local}.point_conv") for kind in ("weight", "bias")}


def test_the_published_tokenizer_has_these_names_and_shapes():
    """As the code that reads it has them: 339 tensors."""
    with torch.device("meta"):
        own = DCHT(DCHTConfig()).state_dict()
    widths, depths = (128, 256, 512, 512, 1024, 1024), {"encoder": (0, 4, 8, 2, 2, 2), "decoder": (0, 5, 10, 2, 2, 2)}
    expected: dict[str, tuple[int, ...]] = {"quantize.embedding.weight": (16_384, 32)}
    expected |= conv("encoder.project_in.conv.conv", 64, 3) | conv("encoder.project_out.main.op_list.0.conv", 32, 1024)
    expected |= conv("decoder.project_in.main.conv", 1024, 32) | conv("decoder.project_out.op_list.2.conv.conv", 12, 256)
    expected |= {f"decoder.project_out.op_list.0.{kind}": (256,) for kind in ("weight", "bias")}
    for part, counts in depths.items():
        for stage in range(1, 6):
            c, count, first = widths[stage], counts[stage], int(part == "decoder" and stage < 5)
            for block in range(first, first + count):
                expected |= tokenizer_block(part, stage, f"{part}.stages.{stage}.op_list.{block}", c)
            if stage < 5 and part == "encoder":
                expected |= conv(f"encoder.stages.{stage}.op_list.{count}.main.conv.conv", widths[stage + 1] // 4, c)
            elif stage < 5:
                expected |= conv(f"decoder.stages.{stage}.op_list.0.main.conv.conv", 4 * c, widths[stage + 1])
    assert {name: tuple(value.shape) for name, value in own.items()} == expected and len(expected) == 339


def test_the_published_checkpoint_has_these_names_and_shapes():
    """As the code that reads it has them: 573 tensors, 671.8 million values."""
    with torch.device("meta"):
        own = FAMILY.build(MODELS["dc-ar-512"]).state_dict()
    d, w = 1152, 1024
    expected = {"pos_embed": (1, 256, d), "x_embedder.weight": (16_385, d), "y_embedder.y_embedding": (300, 768)}
    expected |= linear("y_embedder.y_proj.fc1", d, 768) | linear("y_embedder.y_proj.fc2", d, d) | linear("final_layer.linear", 16_384, d)
    for i in range(28):
        block = f"blocks.{i}"
        expected |= linear(f"{block}.attn.qkv", 3 * d, d) | linear(f"{block}.attn.proj", d, d)
        expected |= {f"{block}.attn.{part}_norm.{kind}": (d,) for part in "qk" for kind in ("weight", "bias")}
        expected |= linear(f"{block}.cross_attn.q_linear", d, d) | linear(f"{block}.cross_attn.kv_linear", 2 * d, d)
        expected |= linear(f"{block}.cross_attn.proj", d, d) | linear(f"{block}.mlp.fc1", 4 * d, d) | linear(f"{block}.mlp.fc2", d, 4 * d)
    head = "diffloss.net"
    expected |= linear(f"{head}.time_embed.mlp.0", w, 256) | linear(f"{head}.time_embed.mlp.2", w, w)
    expected |= linear(f"{head}.cond_embed", w, d) | linear(f"{head}.input_proj", w, 32)
    for j in range(6):
        block = f"{head}.res_blocks.{j}"
        expected |= {f"{block}.in_ln.weight": (w,), f"{block}.in_ln.bias": (w,)}
        expected |= linear(f"{block}.mlp.0", w, w) | linear(f"{block}.mlp.2", w, w) | linear(f"{block}.adaLN_modulation.1", 3 * w, w)
    expected |= linear(f"{head}.final_layer.linear", 64, w) | linear(f"{head}.final_layer.adaLN_modulation.1", 2 * w, w)
    assert {name: tuple(value.shape) for name, value in own.items()} == expected and len(expected) == 573
    assert round(sum(value.numel() for value in own.values()) / 1e6, 1) == 671.8
    assert MODELS["dc-ar-512"].num_tokens == 256 and SAMPLERS["dc-ar-512"].cfg == MODELS["dc-ar-512"].code_guidance == 1 + 4.5


def test_a_checkpoint_is_read_as_it_is_published(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    read = FAMILY.read(tmp_path / "pytorch_model.bin", SMALL)
    assert read.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(read.state_dict()[name], value) for name, value in model.state_dict().items())
    torch.save({name: value for name, value in model.state_dict().items() if "y_embedding" not in name}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="does not fit the model: missing y_embedder.y_embedding"):
        FAMILY.read(tmp_path / "pytorch_model.bin", SMALL)


def test_sizes_that_do_not_go_together_are_refused():
    assert FAMILY.config(asdict(SMALL)) == SMALL and SMALL.family is FAMILY
    with pytest.raises(ValueError, match="width 18 is not a multiple of 4 and of heads 2"):
        DCARConfig(width=18, heads=2)
    for noise in (-0.1, 2.5, float("nan")):
        with pytest.raises(ValueError, match=f"student_noise must be in 0..2, got {noise}"):
            DCARConfig(student_noise=noise)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_the_tokenizer_is_read_from_its_published_folder(dcht_folder, kind):
    codec = DCHTCodec.read(dcht_folder, SMALL)
    if kind == "bin":
        (dcht_folder / "model.safetensors").unlink()
        torch.save(codec.tokenizer.state_dict(), dcht_folder / "pytorch_model.bin")
    assert DCHTCodec.read(dcht_folder, SMALL).id == codec.id


def test_a_text_encoder_needs_three_files_of_t5(tmp_path):
    """The tokenizer's settings are T5's own."""
    T5Model(T5Config(vocab_size=128, d_model=SMALL.text_width, d_kv=6, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(tmp_path)
    words = (*WORDS[:6], *(f"<extra_id_{i}>" for i in reversed(range(100))))
    T5Tokenizer([(word, -1.0) for word in words]).save_pretrained(tmp_path)
    for name in {path.name for path in tmp_path.iterdir()} - {file.name for file in PUBLISHED["t5-base"].files}:
        (tmp_path / name).unlink()
    encoder = TextEncoder.load(tmp_path, SMALL)
    assert encoder.tokens(("a cat",)).tolist() == [[4, 5, 1, 0, 0]]
    assert encoder(Prompts(("a cat",))).states.shape == (1, SMALL.text_length, SMALL.text_width)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="tokenizer.json is not a tokenizer: Expecting property name"):
        TextEncoder.load(tmp_path, SMALL)


def test_images_of_tokens_are_bounded_and_have_a_gradient(dcht_folder):
    codec = DCHTCodec.read(dcht_folder, SMALL)
    tokens = codec.encode(torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert tokens.values.shape == (2, 16, 8) and tokens.codes.max() < 11
    values = tokens.values.clone().requires_grad_()
    images = codec.decode(Tokens(values, tokens.codes))
    assert images.shape == (2, 3, 128, 128) and images.abs().max() <= 1
    assert torch.autograd.grad(images.square().sum(), values)[0].abs().amax((1, 2)).min() > 0
    before = codec.id
    codec.tokenizer.decoder.project_in.main.conv.weight.add_(1)
    assert DCHTCodec(codec.tokenizer, SMALL).id == before
    codec.tokenizer.quantize.embedding.weight.add_(1)
    assert DCHTCodec(codec.tokenizer, SMALL).id != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantizer_type": "vq"}, "quantizer_type is 'vq', DC-HT has 'hybrid_vq'"),
        ({"model_name": "dc-ae-f64"}, "model_name is 'dc-ae-f64', DC-HT has 'dc-ae-f32-in-1.0' or "),
        ({"codebook_l2_norm": False}, "codebook_l2_norm is False"),
        ({"model_type": "vit"}, "model_type is 'vit'"),
        ({"codebook_size": 12}, r"does not fit the model: quantize.embedding.weight is \(11, 8\), the model needs \(12, 8\)"),
    ],
)
def test_another_tokenizer_is_refused(dcht_folder, change, message):
    told = json.loads((dcht_folder / "config.json").read_text(encoding="utf-8"))
    (dcht_folder / "config.json").write_text(json.dumps(told | change), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        DCHTCodec.read(dcht_folder, SMALL)


def test_a_tokenizer_of_another_model_or_without_files_is_refused(dcht_folder):
    with pytest.raises(ValueError, match="has 11 codes of 8 channels and images of 512 pixels, the model 16384 codes of 32"):
        DCHTCodec.read(dcht_folder, DCARConfig())
    with pytest.raises(ValueError, match="images of 128 pixels, the model .* images of 64 pixels"):
        DCHTCodec.read(dcht_folder, replace(SMALL, image_size=64))
    (dcht_folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="there is no checkpoint at .*model.safetensors"):
        DCHTCodec.read(dcht_folder, SMALL)
    (dcht_folder / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json is missing"):
        FAMILY.codec(dcht_folder, SMALL)


@torch.no_grad()
def test_images_do_not_depend_on_their_batch(model, text):
    sampler = Ancestral(steps=3, cfg=2.0, cfg_schedule="constant", clip_x0=1.0)
    *_, whole = FAMILY.reveal(model, sampler, text, Draws(5, (0, 1, 2, 3)), LOOPS)
    *_, third = FAMILY.reveal(model, sampler, TextStates(text.states[2:3], text.real[2:3]), Draws(5, (2,)), LOOPS)
    assert torch.equal(third.codes, whole.codes[2:3]) and torch.equal(third.revealed, whole.revealed[2:3])
    torch.testing.assert_close(third.values, whole.values[2:3], rtol=0, atol=1e-5)
    assert whole.revealed.unique().tolist() == list(range(LOOPS)) and whole.values.abs().max() <= 1
    assert len({tuple(codes) for codes in whole.codes.tolist()}) == 4


def test_padding_and_the_words_of_no_text_are_as_many_as_the_text_has(model, text):
    codes = torch.zeros(4, 16, dtype=torch.long)
    context = DCARContext.of(codes, torch.ones_like(codes, dtype=torch.bool), text, torch.zeros(4, 16, 8))
    spoiled = TextStates(text.states.masked_fill(~text.real[..., None], 7.0), text.real)
    assert torch.equal(model.conditions(context), model.conditions(replace(context, text=spoiled)))
    alone = model.conditions(model.unconditional(context)).unflatten(0, (4, 16))
    assert (alone[0] - alone[1]).abs().max() > 1e-3  # of texts of one word and of five


@pytest.mark.parametrize(("explored", "noise"), [(False, 1.0), (True, 1.0), (False, 0.5), (True, 0.5)])
def test_a_rollout_is_drawn_again_as_it_was_and_teaches(model, text, explored, noise):
    one_step = replace(SMALL, student_noise=noise).one_step
    sampler = Exploring(one_step, 0.1) if explored else one_step
    draws = Draws(3, (0, 1, 2, 3), group=2)
    with torch.no_grad():
        *_, tokens = FAMILY.reveal(model, sampler, TextStates(text.states[[0, 0, 1, 1]], text.real[[0, 0, 1, 1]]), draws, LOOPS)
    assert torch.equal(tokens.codes[0], tokens.codes[1]) and (tokens.values[0] != tokens.values[1]).any() == explored
    rollout = Rollout(tokens, Prompts(("a", "a", "b", "b")), draws, LOOPS, version=0, checksum=0)
    (loop,) = FAMILY.recorded(rollout, TextStates(text.states[[0, 0, 1, 1]], text.real[[0, 0, 1, 1]]), sampler, LOOPS)
    assert 0 < loop.context.masked.sum() < loop.context.masked.numel() and loop.noise.std().item() == pytest.approx(noise, rel=0.2)
    again, _ = replay_chain(Student(model), torch.zeros_like(tokens.values), [loop])
    drawn = again + 0.1 * loop.explored.view_as(again) if explored else again
    torch.testing.assert_close(drawn, tokens.values, rtol=0, atol=1e-5)
    model.zero_grad()
    again.square().sum().backward()
    for name in ("diffloss.net.input_proj.weight", "blocks.0.attn.qkv.weight", "x_embedder.weight"):
        assert model.get_parameter(name).grad.abs().sum() > 0, name


@dataclass(frozen=True)
class Masked:
    """Contexts of random tokens, masked as in training."""

    text: TextStates

    def batch(self, seed: int, step: int, size: int, generator: torch.Generator, drop: float = 0.0) -> DCARContext:
        codes, values = torch.randint(SMALL.num_codes, (size, 16), generator=generator), torch.randn(size, 16, 8, generator=generator)
        mask = training_mask(torch.rand(size, generator=generator), torch.rand(size, 16, generator=generator))
        return DCARContext.of(codes, mask, self.text, values)


def test_gsim_pulls_towards_the_guided_score(model, text):
    """The auxiliary network is the teacher itself: without guidance there is nothing between their scores."""
    losses = []
    for w in (1.0, 5.5):
        matcher = ScoreMatcher(
            config=GSIMConfig(w=w), teacher=model, auxiliary=Still(Denoiser(model)), update=lambda loss, step: loss,
            contexts=Masked(text), batch=4, seed=0, rank=0, all_finite=lambda *values: all(value.isfinite().all() for value in values),
        )  # fmt: skip
        match = matcher.match(Student(model), 0)
        losses.append(match.metrics["generator/l2"].item())
    model.zero_grad()
    match.loss.value.backward()
    assert losses[0] == 0 < losses[1] and model.get_parameter("blocks.0.cross_attn.kv_linear.weight").grad.abs().sum() > 0


def test_uniform_draws_have_streams_as_normal_ones_have():
    draws = Draws(1, (4, 7))
    u = draws.uniform("codes", 0, (1000,))
    assert u.min() >= 0 and u.max() < 1 and u.mean() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(u[1:], Draws(1, (7,)).uniform("codes", 0, (1000,)))
    assert all((u != draws.uniform(purpose, step, (1000,))).any() for purpose, step in (("confidences", 0), ("codes", 1)))
