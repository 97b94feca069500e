"""DC-AR's three parts as their authors publish them, of small sizes: generator, DC-HT and T5 with a tokenizer."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from reference import Recording, read_recording
from safetensors.torch import save_file
from torch import Tensor
from transformers import T5Config, T5Model, T5Tokenizer

from marval_ray.families.dcar.config import DCARConfig
from marval_ray.families.dcar.family import FAMILY
from marval_ray.families.dcar.tokenizer import DCHTConfig
from marval_ray.files.storage import Storage
from marval_ray.hub.exported import Index, furnish
from marval_ray.hub.layout import save_model

WORDS = ("<pad>", "</s>", "<unk>", "▁", "▁a", "▁cat", "▁dog", "▁on", "▁the", "▁mat")


def recorded_model(recording: Recording) -> DCARConfig:
    """The sizes of the recorded generator."""
    c = recording.config["generator"]["model"]
    generator, head = c["generator"], c["generator"]["diffusion"]
    return DCARConfig(
        side=int(generator["image_seq_len"] ** 0.5), num_codes=c["vq_model"]["codebook_size"], token_channels=c["vq_model"]["token_size"],
        residual_scale=head["vae_scale"], text_length=c["text_token_length"], text_width=c["context_dim"], width=generator["hidden_size"],
        depth=generator["num_hidden_layers"], heads=generator["num_attention_heads"], mlp_width=generator["intermediate_size"],
        head_width=head["width"], head_depth=head["depth"], code_guidance=1 + recording.config["sampling"]["guidance_scale"],
        code_temperature=recording.config["sampling"]["randomize_temperature"], image_size=256,
    )  # fmt: skip


def recorded_tokenizer(recording: Recording) -> DCHTConfig:
    """The sizes of the recorded DC-HT."""
    c = recording.config["tokenizer"]
    sizes = (tuple(c[name]) for name in ("width_list", "enc_depth_list", "dec_depth_list"))
    return DCHTConfig(*sizes, c["latent_channels"], c["codebook_size"])


def write_dcht(folder: Path, state: dict[str, Tensor], sizes: DCHTConfig) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    own = {name: value for name, value in asdict(sizes).items() if name not in ("token_channels", "num_codes")}
    told = {
        "model_type": "dc_ht", "model_name": "dc-ae-f32-in-1.0", "quantizer_type": "hybrid_vq", "codebook_size": sizes.num_codes,
        "codebook_embed_dim": sizes.token_channels, "codebook_l2_norm": True, "commit_loss_beta": 0.25,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told | own), encoding="utf-8")
    return folder


def write_t5(folder: Path, recording: Recording) -> Path:
    """The whole T5, decoder too, which was not recorded and is random, and a tokenizer of a few words."""
    model = T5Model(T5Config(**recording.config["text"]))
    assert not model.load_state_dict(recording.group("state/t5"), strict=False).unexpected_keys
    model.save_pretrained(folder)
    T5Tokenizer([(word, -1.0) for word in WORDS], extra_ids=0).save_pretrained(folder)
    return folder


def write_parts(folder: Path, fixture: Path) -> tuple[DCARConfig, dict[str, Path]]:
    """The recorded parts as files, by the options that name them."""
    recording = read_recording(fixture)
    torch.save(recording.group("state/dcar"), folder / "pytorch_model.bin")
    dcht = write_dcht(folder / "dc-ht", recording.group("state/dcht"), recorded_tokenizer(recording))
    t5 = write_t5(folder / "t5", recording)
    return recorded_model(recording), {"--teacher": folder / "pytorch_model.bin", "--vae": dcht, "--texts": t5}


def write_student(folder: Path, fixture: Path) -> Path:
    """The recorded generator as a run leaves a student: a folder with all that it draws with, in three loops."""
    (folder / "parts").mkdir()
    config, files = write_parts(folder / "parts", fixture)
    save_model(folder, "student", FAMILY.read(files["--teacher"], config).state_dict(), config, torch.float32)
    furnish(Storage(None, folder), config, files["--vae"], files["--texts"])
    Index(loops=3).write(folder)
    return folder
