"""Numbers of DeTok's own code, replayed: `--detok-fixture=PATH` takes any file of the same layout."""

import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from commands import succeed
from PIL import Image
from reference import Recording, largest_gap, model_config_from_reference, read_recording

from marval_ray.diffusion.loss import diffusion_terms
from marval_ray.diffusion.schedule import cosine_diffusion
from marval_ray.families.mar.autoencoder import load_vae
from marval_ray.families.mar.detok import DeTokConfig, DeTokNetwork
from marval_ray.families.mar.detok_codec import DeTok, read_detok, save_detok
from marval_ray.families.mar.detok_statistics import KEY, read_statistics
from marval_ray.families.mar.model import MAR, patchify
from marval_ray.families.mar.vae import codec_id
from marval_ray.files.fit import load_strictly

ATOL, ATOL_ROPE, ATOL_TRAIN, ATOL_GRADIENT = 1e-4, 1e-5, 1e-5, 1e-6


@pytest.fixture(scope="module")
def recording(detok_fixture_path) -> Recording:
    return read_recording(detok_fixture_path)


@pytest.fixture(scope="module")
def codec(recording, tmp_path_factory) -> DeTok:
    """Through a file as it is published, with the averaged weights beside others."""
    state, path = recording.group("tokenizer"), tmp_path_factory.mktemp("detok") / "detok.pth"
    torch.save({"model": {name: torch.zeros_like(value) for name, value in state.items()}, "model_ema": state, "epoch": 7}, path)
    mean, std = (recording[f"norm/{name}"].tolist() for name in ("mean", "std"))
    return read_detok(path, DeTokConfig(**recording.config["tokenizer_sizes"]), mean, std)


def test_angles(codec, recording):
    for part in ("encoder", "decoder"):
        own = getattr(codec.autoencoder, part)
        assert largest_gap(torch.cat([own.cos, own.sin], dim=1), recording[f"tok/{part}_rope"]) <= ATOL_ROPE


@torch.no_grad()
def test_encoder(codec, recording):
    encoder, group = codec.autoencoder.encoder, recording.group("tok")
    x = encoder.patch_embed(group["image"]).flatten(2).transpose(1, 2)
    first = encoder.ln_pre(x + encoder.positional_embedding)
    assert largest_gap(first, group["encoder_in"]) <= ATOL
    assert largest_gap(encoder.transformer[0](first, encoder.cos, encoder.sin), group["encoder_block0"]) <= ATOL
    assert largest_gap(encoder.blocks(x), group["encoder_out"]) <= ATOL
    assert largest_gap(encoder(group["image"]), group["moments"]) <= ATOL
    for got, name in zip(codec.autoencoder.posterior(group["image"]), ("mean", "std")):
        assert largest_gap(patchify(got, 1), group[name]) <= ATOL


@torch.no_grad()
def test_latents(codec, recording):
    group = recording.group("tok")
    moments = codec.encode(group["image"])
    noise = group["noise"].transpose(1, 2).unflatten(2, moments.mean.shape[2:])
    assert largest_gap(moments.mean, group["latents"]) <= ATOL
    assert largest_gap(moments.mean + moments.std * noise, group["latents_sampled"]) <= ATOL


@torch.no_grad()
def test_decoder(codec, recording):
    decoder, group = codec.autoencoder.decoder, recording.group("tok")
    tokens = (group["latents"] / codec.scale + codec.shift).flatten(2).transpose(1, 2)
    x = decoder.decoder_embed(tokens)
    first = decoder.ln_pre(x + decoder.positional_embedding)
    assert largest_gap(first, group["decoder_in"]) <= ATOL
    assert largest_gap(decoder.transformer[0](first, decoder.cos, decoder.sin), group["decoder_block0"]) <= ATOL
    out = decoder.blocks(x)
    assert largest_gap(out, group["decoder_out"]) <= ATOL
    pixels = decoder.pixels(decoder.ffn(out.transpose(1, 2).unflatten(2, (decoder.side,) * 2)))
    assert largest_gap(pixels, group["decoder_pixels"]) <= ATOL
    image = codec.decode(group["latents"])
    assert largest_gap(image, group["reconstruction"]) <= ATOL
    assert largest_gap((image / 2 + 0.5).clamp(0, 1), group["reconstruction_01"]) <= ATOL
    sampled = codec.decode(recording["sample/latents"][:1])
    assert largest_gap((sampled / 2 + 0.5).clamp(0, 1), recording["sample/image_01"]) <= ATOL


def test_gradient_of_the_decoder(codec, recording):
    group = recording.group("tok")
    latents = group["latents_free"].clone().requires_grad_()
    decoded = codec.decode(latents)
    assert largest_gap(decoded.detach(), group["decoded"]) <= ATOL
    (gradient,) = torch.autograd.grad((decoded * group["cotangent"]).sum(), latents)
    assert largest_gap(gradient, group["latents_grad"]) <= ATOL


def test_training_loss_and_gradients(recording):
    """DeTok takes the loss of all rows and the mean over the hidden ones."""
    model, group = MAR(model_config_from_reference(recording.config)), recording.group("train")
    load_strictly(model, recording.group("state"), "the recording")
    tokens, hidden = patchify(group["latents"], 1), int(group["mask"][0].sum())
    known = group["orders"][:, hidden:].sort(dim=1).values
    labels = torch.where(group["drop"] == 1, model.config.num_classes, group["labels"])
    z = model(tokens, labels, known, torch.arange(tokens.shape[1]).expand(len(labels), -1))
    assert largest_gap(z.detach(), group["z"]) <= ATOL_TRAIN
    rows, conditions = tokens.flatten(0, 1).repeat(2, 1), z.flatten(0, 1).repeat(2, 1)
    terms = diffusion_terms(model.head, rows, conditions, group["t"], group["noise"], cosine_diffusion())
    assert largest_gap(terms.total.detach(), group["row_loss"]) <= ATOL_TRAIN
    mask = group["mask"].flatten().repeat(2)
    loss = (terms.total * mask).sum() / mask.sum()
    assert loss.item() == pytest.approx(group["loss"].item(), abs=ATOL_TRAIN)
    loss.backward()
    expected = {name.removeprefix("grad/"): value for name, value in group.items() if name.startswith("grad/")}
    assert len(expected) >= 5
    for name, value in expected.items():
        assert largest_gap(model.get_parameter(name).grad, value) <= ATOL_GRADIENT, name


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_statistics_are_read_from_the_published_pickle(recording, tmp_path, device):
    channels = recording.config["tokenizer_sizes"]["latent_channels"]
    path = tmp_path / "stats.pkl"
    path.write_bytes(recording[f"stats/pickle_{device}"].numpy().tobytes())
    for got, name in zip(read_statistics(path, channels), ("mean", "std"), strict=True):
        assert largest_gap(torch.tensor(got), recording[f"stats/{name}"][:channels]) <= ATOL
    means = recording["stats/moments"][..., :channels].flatten(0, 1)  # what they are, of the same images
    assert largest_gap(means.mean(0), recording["stats/mean"][:channels]) <= ATOL
    assert largest_gap(means.std(0, correction=0), recording["stats/std"][:channels]) <= ATOL


class Harmful:
    def __reduce__(self):
        return print, ("harm done",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({KEY: Harmful()}), "cannot be read safely .*it names builtins.print"),
        (b"not a pickle", "cannot be read safely"),
        (b"", "cannot be read safely"),
        (pickle.dumps({"other": 1}), f"has no '{KEY}': it holds other"),
        (pickle.dumps({KEY: {"channel": (1.0, 2.0)}}), "are not 16 finite numbers"),
    ],
)
def test_other_statistics_are_refused_and_run_nothing(tmp_path, capsys, content, message):
    path = tmp_path / "stats.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_statistics(path, 8)
    assert not capsys.readouterr().out
    with pytest.raises(ValueError, match="there are no statistics"):
        read_statistics(tmp_path / "absent.pkl", 8)


def test_a_folder_holds_tokenizer_and_normalisation(codec, recording, tmp_path):
    save_detok(tmp_path, codec)
    read = load_vae(tmp_path)
    assert codec_id(read) == codec_id(codec) and read.sizes == codec.sizes
    assert largest_gap(read.encode(recording["tok/image"]).mean, recording["tok/latents"]) <= ATOL
    (tmp_path / "config.json").write_text('{"_class_name": "DeTok", "sizes": {"image_size": 30}}', encoding="utf-8")
    with pytest.raises(ValueError, match="not a config of DeTok's tokenizer.*image_size 30 is not a multiple"):
        load_vae(tmp_path)


def test_the_published_sizes():
    with torch.device("meta"):
        network = DeTokNetwork(DeTokConfig())
    assert len(network.state_dict()) == 256  # and decoder.mask_token, which only its training needs
    assert sum(value.numel() for value in network.state_dict().values()) == pytest.approx(171.7e6, rel=1e-3)
    assert network.encoder.transformer[0].mlp.w3.weight.shape == (768, 2048)


def test_a_student_is_distilled_and_drawn_on_its_latents(recording, tmp_path):
    """Images to latents, both networks of small width, to a picture, through the jobs."""
    torch.save({"model_ema": recording.group("tokenizer")}, tmp_path / "detok.pth")
    torch.save({"model_ema": recording.group("state")}, tmp_path / "mar.pth")
    (tmp_path / "stats.pkl").write_bytes(recording["stats/pickle_cuda"].numpy().tobytes())
    sizes = options("sizes", DeTokConfig(**recording.config["tokenizer_sizes"]))
    vae, latents, run = tmp_path / "codec", tmp_path / "latents.parquet", tmp_path / "run"
    files = ("--weights", tmp_path / "detok.pth", "--stats", tmp_path / "stats.pkl")
    printed = succeed("jobs/detok_codec.py", *files, "--out", vae, *sizes)
    assert codec_id(load_vae(vae)) in printed
    for number in range(8):
        path = tmp_path / "images" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(path)
    succeed("jobs/encode.py", "--images", tmp_path / "images", "--vae", vae, "--out", latents, "--flip")
    model = replace(model_config_from_reference(recording.config), image_size=32)
    succeed(
        "jobs/distill.py", "--preset", "detok-b", *options("model", model), "--teacher", tmp_path / "mar.pth", "--vae", vae,
        "--latents", latents, "--out", run, "--stages", "gsim", "--learner.steps", 2, "--learner.batch", 4,
        "--learner.workers", 1, "--learner.gpus-per-worker", 0, "--learner.cpus-per-worker", 1, "--learner.zero-stage", 0,
        "--figures.loops", 4, "--figures.sampler.steps", 2, "--figures.grid-classes", 2, "--figures.per-class", 1,
    )  # fmt: skip
    succeed("jobs/sample.py", "--checkpoint", run / "student.safetensors", "--labels", "1", "--n-ar", 4, "--out", tmp_path / "grid.png")
    assert (run / "report.html").exists() and Image.open(tmp_path / "grid.png").mode == "RGB"


def options(prefix: str, config: object) -> list[object]:
    return [text for name, value in asdict(config).items() for text in (f"--{prefix}.{name.replace('_', '-')}", value)]
