"""Rewards read published formats, agree with the reference path on PIL images, and let gradients through."""

import json

import open_clip
import pytest
import torch
from PIL import Image
from small import write_clip
from torchvision import transforms
from transformers import BlipTextConfig, BlipVisionConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from marval_ray.embedded.fashion_mnist import CLASS_NAMES
from marval_ray.files.images import to_pixels, to_tensor
from marval_ray.prompts import class_prompts, imagenet_names, read_prompts, read_prompts_of
from marval_ray.rewards import SeparateRewards, image_reward, load_reward
from marval_ray.rewards.clip import CLIPReward
from marval_ray.rewards.hps import HPSReward
from marval_ray.rewards.image_reward import ImageReward
from marval_ray.rewards.preprocess import OPENAI_MEAN, OPENAI_STD, ImageTransform, PaddedTransform

PROMPTS = ["a red coat", "two bags"]
SIDE = 32


def random_images(channels=3, height=SIDE, width=SIDE):
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def pil_images(images):
    return [Image.fromarray(pixels) for pixels in to_pixels(images)]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"), SIDE)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 70), (20, 20)])
def test_transform_is_that_of_the_processor_on_pil_images(height, width):
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": 24, "width": 24})
    images = to_tensor(to_pixels(random_images(3, height, width)))
    expected = processor(pil_images(images), return_tensors="pt")["pixel_values"]
    got = ImageTransform.of(processor)(images)
    std = torch.tensor(processor.image_std)[:, None, None]
    assert got.shape == expected.shape == (2, 3, 24, 24)
    assert ((got - expected) * std).abs().max() < 1e-2


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 64), (101, 70), (20, 13), (32, 7)])
def test_hps_sees_the_whole_image_in_a_black_square(height, width):
    """As HPSv2 composes it for one image: tensor, longer side, black on both sides, normalised."""
    images = random_images(3, height, width)
    rows, columns = (round(side * (SIDE / max(height, width))) for side in (height, width))
    above, left = (SIDE - rows) // 2, (SIDE - columns) // 2
    steps = transforms.Compose([
        transforms.Resize((rows, columns), transforms.InterpolationMode.BICUBIC, antialias=True),
        transforms.Pad([left, above, SIDE - columns - left, SIDE - rows - above], fill=0),
        transforms.Normalize(OPENAI_MEAN, OPENAI_STD),
    ])  # fmt: skip
    got = PaddedTransform(SIDE)(images)
    torch.testing.assert_close(got, torch.stack([steps((image + 1) / 2) for image in images]))
    black = -torch.tensor(OPENAI_MEAN) / torch.tensor(OPENAI_STD)
    outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    outside[above : above + rows, left : left + columns] = False
    assert got.shape == (2, 3, SIDE, SIDE) and max(rows, columns) == SIDE
    torch.testing.assert_close(got[:, :, outside], black[:, None].expand(2, 3, int(outside.sum())))


def test_both_transforms_of_a_smooth_square_are_the_same():
    ramp = torch.linspace(-0.9, 0.9, 64)
    images = torch.stack([ramp[:, None] * ramp, ramp[:, None].expand(64, 64), ramp.expand(64, 64)])[None]
    torch.testing.assert_close(PaddedTransform(SIDE)(images), ImageTransform(SIDE, SIDE)(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("transform", [ImageTransform(SIDE, SIDE), PaddedTransform(SIDE)])
def test_gradients_pass_the_transform(transform):
    images = (random_images(1, 64, 48) * 0.5).requires_grad_()
    weights = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((transform(images) * weights).sum(), images)
    nudge = torch.randn(images.shape, generator=torch.Generator().manual_seed(2)) * 1e-2
    change = ((transform(images + nudge) - transform(images)) * weights).sum()
    assert torch.isclose(change, (gradient * nudge).sum(), rtol=1e-3)


def test_pickscore_equals_the_reference_path(clip_folder):
    images = to_tensor(to_pixels(random_images()))
    model, processor = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
    inputs = processor(text=PROMPTS, images=pil_images(images), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits_per_image.diagonal()
    reward = CLIPReward.load(str(clip_folder))
    assert torch.allclose(reward(images, PROMPTS), expected, atol=1e-3)
    assert torch.allclose(reward(images, PROMPTS), expected, atol=1e-3)  # from cached text features
    score = load_reward([f"clip:{clip_folder}"])(images, PROMPTS)
    assert torch.allclose(score, 100 * expected / model.logit_scale.exp(), atol=1e-3)


def test_scores_do_not_depend_on_what_was_scored_before():
    """To the bit: else a worker that starts anew changes a run."""
    prompts = class_prompts(CLASS_NAMES)
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def score_after(first: list[int]) -> torch.Tensor:
        reward = load_reward(["pickscore:embedded/reward"])
        reward(torch.zeros(len(first), 1, 28, 28), [prompts[i] for i in first])
        return reward(images, prompts[:4])

    assert all(torch.equal(score_after([9]), score_after(first)) for first in ([0], [0, 1, 2], [1, 5], [7, 3, 2, 0, 8]))


def test_reward_gradient_is_the_slope_of_the_score(clip_folder):
    reward = CLIPReward.load(str(clip_folder))
    images = (random_images(1) * 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(reward(images, PROMPTS).sum(), images)
    nudge = torch.randn(images.shape, generator=torch.Generator().manual_seed(2)) * 2e-3
    change = reward(images + nudge, PROMPTS).sum() - reward(images - nudge, PROMPTS).sum()
    assert torch.isclose(change, 2 * (gradient * nudge).sum(), rtol=2e-2)
    assert all(not parameter.requires_grad for parameter in reward.parameters())


@pytest.fixture(scope="module")
def small_open_clip(tmp_path_factory):
    """The name of a small architecture in open_clip's own configuration format."""
    path = tmp_path_factory.mktemp("open_clip") / "small-test-clip.json"
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": SIDE, "layers": 1, "width": 64, "patch_size": 8}
    path.write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}), encoding="utf-8")
    open_clip.add_model_config(path)
    return path.stem


def test_hps_reads_the_published_form(small_open_clip, tmp_path):
    torch.manual_seed(0)
    model = open_clip.create_model(small_open_clip, load_weights=False).eval()
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, tmp_path / "hps.pt")
    reward = HPSReward.load(tmp_path / "hps.pt", small_open_clip)
    images = random_images(3, 40, 50).requires_grad_()
    preprocess = PaddedTransform(SIDE)(images)
    with torch.no_grad():
        seen, read, _ = model(preprocess, open_clip.get_tokenizer(small_open_clip)(PROMPTS))
    got = reward(images, PROMPTS)
    assert torch.allclose(got, (seen * read).sum(-1), atol=1e-5)
    assert torch.autograd.grad(got.sum(), images)[0].abs().sum() > 0


VISION = BlipVisionConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8,
    layer_norm_eps=1e-6,
)  # fmt: skip
TEXT = BlipTextConfig(
    vocab_size=12, hidden_size=16, encoder_hidden_size=16, intermediate_size=32, num_hidden_layers=2,
    num_attention_heads=2, max_position_embeddings=64,
)  # fmt: skip
PUBLISHED = {
    "blip.visual_encoder.cls_token": "vision.embeddings.class_embedding",
    "blip.visual_encoder.pos_embed": "vision.embeddings.position_embedding",
    "blip.visual_encoder.patch_embed.proj.weight": "vision.embeddings.patch_embedding.weight",
    "blip.visual_encoder.blocks.1.attn.qkv.bias": "vision.encoder.layers.1.self_attn.qkv.bias",
    "blip.visual_encoder.blocks.1.attn.proj.weight": "vision.encoder.layers.1.self_attn.projection.weight",
    "blip.visual_encoder.blocks.0.norm2.weight": "vision.encoder.layers.0.layer_norm2.weight",
    "blip.visual_encoder.blocks.0.mlp.fc1.weight": "vision.encoder.layers.0.mlp.fc1.weight",
    "blip.visual_encoder.norm.bias": "vision.post_layernorm.bias",
    "blip.text_encoder.encoder.layer.1.crossattention.self.key.weight": "text.encoder.layer.1.crossattention.self.key.weight",
    "mlp.layers.7.bias": "mlp.7.bias",
}
"""Names in ImageReward.pt, and ours."""


def test_image_reward_reads_the_published_names(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "coat", "two", "bags"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(0)
    original = ImageReward(VISION, TEXT, None).eval()
    state = {to_published(name): value for name, value in original.state_dict().items()}
    assert all(image_reward.renamed({theirs: torch.zeros(1)}).keys() == {ours} for theirs, ours in PUBLISHED.items())
    extra = {"blip.text_proj.weight": torch.zeros(2, 2), "blip.text_encoder.embeddings.position_ids": torch.arange(64)[None]}
    torch.save(state | extra, tmp_path / "ImageReward.pt")
    reward = ImageReward.load(tmp_path, VISION, TEXT)
    images = random_images().requires_grad_()
    got = reward(images, PROMPTS)
    original.tokenizer = reward.tokenizer
    assert torch.allclose(got, original(images, PROMPTS))
    assert torch.autograd.grad(got.sum(), images)[0].abs().sum() > 0
    assert not torch.allclose(got, reward(images, PROMPTS[::-1]))


def to_published(name):
    for ours, theirs in (
        ("vision.embeddings.class_embedding", "blip.visual_encoder.cls_token"),
        ("vision.embeddings.position_embedding", "blip.visual_encoder.pos_embed"),
        ("vision.embeddings.patch_embedding.", "blip.visual_encoder.patch_embed.proj."),
        ("vision.post_layernorm.", "blip.visual_encoder.norm."),
        ("vision.encoder.layers.", "blip.visual_encoder.blocks."),
        (".self_attn.projection.", ".attn.proj."),
        (".self_attn.", ".attn."),
        (".layer_norm", ".norm"),
        ("text.", "blip.text_encoder."),
    ):
        name = name.replace(ours, theirs) if not name.startswith("blip.text") else name
    return name.replace("mlp.", "mlp.layers.", 1) if name.startswith("mlp.") else name


def test_image_reward_has_the_published_size():
    with torch.device("meta"):
        model = ImageReward(image_reward.VISION, image_reward.TEXT, None)
    assert model.vision.embeddings.position_embedding.shape == (1, 197, 1024)
    assert sum(p.numel() for p in model.mlp.parameters()) == 768 * 1024 + 1024 + 1024 * 128 + 128 + 128 * 64 + 64 + 64 * 16 + 16 + 17


def test_sums_and_plug_ins(clip_folder, monkeypatch, tmp_path):
    (tmp_path / "brightness_plugin.py").write_text(
        "class Brightness:\n    differentiable = False\n    def __call__(self, images, prompts):\n        return images.mean((1, 2, 3))\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    both = load_reward([f"0.5*pickscore:{clip_folder}", "-2*plugin:brightness_plugin:Brightness"])
    images = random_images()
    one = load_reward([f"pickscore:{clip_folder}"])
    assert one.differentiable and not both.differentiable
    assert torch.allclose(both(images, PROMPTS), 0.5 * one(images, PROMPTS) - 2 * images.mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pickscore", "KIND one of pickscore"),
        ("aesthetics:models/a", "KIND one of pickscore"),
        ("much*clip:models/a", "'much' is no number"),
        ("clip:no/such/folder/anywhere", "there is nothing at no/such/folder/anywhere"),
        ("image_reward:embedded", "vocab.txt is missing"),
        ("plugin:no_such_module:f", "no_such_module"),
    ],
)
def test_errors_name_the_reward_and_the_cure(text, message):
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        load_reward([text])


def test_several_rewards_score_the_same_images_each_by_itself():
    texts = ["pickscore:embedded/reward", "plugin:marval_ray.rewards.compressibility:Compressibility"]
    images = torch.rand(53, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1  # more than a batch
    prompts = class_prompts([CLASS_NAMES[index % 10] for index in range(53)])
    SeparateRewards.check(texts)
    scores = SeparateRewards.load(texts, torch.device("cpu"))(images, prompts)
    assert list(scores) == ["pickscore", "compressibility"]
    for text, found in zip(texts, scores.values()):
        assert torch.allclose(found, load_reward([text])(images, prompts), atol=1e-5)
    with pytest.raises(ValueError, match="--rewards 'pickscore:a/b' and 'pickscore:c/d' are of one kind"):
        SeparateRewards.check(["pickscore:a/b", "pickscore:c/d"])


@pytest.mark.parametrize("channels", [1, 3])
def test_compressibility_is_the_size_of_a_jpeg(tmp_path, channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.stack([torch.zeros(channels, 40, 28), torch.rand(channels, 40, 28, generator=generator) * 2 - 1])
    sizes = []
    for pixels in to_pixels(images):
        Image.fromarray(pixels.squeeze()).save(tmp_path / "x.jpg", quality=95)
        sizes.append((tmp_path / "x.jpg").stat().st_size / 1000)
    for name, sign in (("Compressibility", -1), ("Incompressibility", 1)):
        reward = load_reward([f"plugin:marval_ray.rewards.compressibility:{name}"])
        assert not reward.differentiable
        assert reward(images, ["", ""]).tolist() == pytest.approx([sign * size for size in sizes])
    assert sizes[1] > 2 * sizes[0]


def test_prompts_name_the_classes(tmp_path):
    names = imagenet_names()
    assert len(names) == 1000 and (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")
    assert class_prompts(["bag"]) == ["A harmonious and high quality image of bag"]
    with pytest.raises(ValueError, match="lacks {}"):
        class_prompts(["bag"], "no place")
    (tmp_path / "prompts.txt").write_text("a bag\n\na coat\n", encoding="utf-8")
    assert read_prompts(tmp_path / "prompts.txt", 2) == ["a bag", "a coat"]
    with pytest.raises(ValueError, match="has 2 prompts, the model has 3 classes"):
        read_prompts(tmp_path / "prompts.txt", 3)
    assert read_prompts_of(tmp_path / "prompts.txt", torch.tensor([1, 0, 1])).texts == ("a coat", "a bag", "a coat")
    for outside in (-1, 2):
        with pytest.raises(ValueError, match=f"has 2 prompts, but there are images of class {outside}"):
            read_prompts_of(tmp_path / "prompts.txt", torch.tensor([0, outside]))
