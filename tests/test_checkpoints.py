"""Checkpoints as people have them: other keys, wrapped names, shards, and files that are something else."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from small import MODEL, write_teacher
from torch import nn

from marval_ray.families.mar.model import MAR
from marval_ray.files.fit import check_finite
from marval_ray.files.tensors import read_state
from marval_ray.hub.layout import load_model

WEIGHTS = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}
OTHERS = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}


def saved(path, content):
    torch.save(content, path)
    return path


def same(state, expected=WEIGHTS):
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("nothing", [None, {}, {"decay": 0.999}])
def test_an_average_without_weights_gives_way_to_the_model(tmp_path, nothing):
    assert same(read_state(saved(tmp_path / "x.pth", {"model_ema": nothing, "model": WEIGHTS})))


@pytest.mark.parametrize("key", ["model_ema", "ema_state_dict", "state_dict_ema", "ema"])
def test_averaged_weights_come_first(tmp_path, key):
    assert same(read_state(saved(tmp_path / "x.pth", {"model": OTHERS, "state_dict": OTHERS, key: WEIGHTS})))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module."])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_names_of_wrappers_are_taken_off(tmp_path, prefix, suffix):
    wrapped = {prefix + name: value for name, value in WEIGHTS.items()}
    path = tmp_path / f"x.{suffix}"
    save_file(wrapped, path) if suffix == "safetensors" else torch.save({"model": wrapped}, path)
    assert same(read_state(path))


def test_what_torchs_own_wrappers_save_is_read(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 2)

    net = Net()
    part_compiled = Net()
    part_compiled.a = torch.compile(net.a)
    for wrapper in (torch.optim.swa_utils.AveragedModel(net), torch.compile(net), part_compiled):
        assert same(read_state(saved(tmp_path / "x.pth", wrapper.state_dict())), net.state_dict())


def test_shards_are_joined_by_their_index(tmp_path):
    places = {"a.weight": "x-00001-of-00002.safetensors", "a.bias": "x-00002-of-00002.safetensors"}
    for name, file in places.items():
        save_file({name: WEIGHTS[name]}, tmp_path / file)
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    assert same(read_state(index))
    index.write_text(json.dumps({"weight_map": places | {"b": places["a.bias"]}}), encoding="utf-8")
    with pytest.raises(ValueError, match="x-00002-of-00002.safetensors lacks b"):
        read_state(index)
    with pytest.raises(ValueError, match="x-00001-of-00002.safetensors is one of 2 shards: give .*/x.safetensors.index.json, which lists"):
        read_state(tmp_path / places["a.weight"])
    (tmp_path / places["a.bias"]).unlink()
    with pytest.raises(ValueError, match="there is no checkpoint at .*x-00002-of-00002.safetensors"):
        read_state(index)


def test_what_calls_itself_the_only_shard_is_whole(tmp_path):
    assert same(read_state(saved(tmp_path / "x-00001-of-00001.bin", WEIGHTS)))


def test_an_adapter_that_peft_saved_is_told(tmp_path):
    get_peft_model(MAR(MODEL), LoraConfig(target_modules=["qkv"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="adapter_model.safetensors is an adapter .LoRA., not a whole model: merge it") as caught:
        load_model(tmp_path / "adapter_model.safetensors", MODEL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["base_model.model.a.ia3_l", "unet.a.lora.down.weight", "a.lora_A.default.weight", "lora_unet_a.alpha", "a.to_q_lora.up.weight"],
)
def test_adapters_are_told_by_the_names_of_many_programs(tmp_path, name):
    with pytest.raises(ValueError, match="x.pth is an adapter"):
        read_state(saved(tmp_path / "x.pth", WEIGHTS | {name: WEIGHTS["a.bias"]}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    model = MAR(MODEL)
    path = saved(tmp_path / "x.pth", {"model": {name: value.to(dtype) for name, value in model.state_dict().items()}})
    loaded = load_model(path, MODEL)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert same(loaded.state_dict(), {name: value.to(dtype).float() for name, value in model.state_dict().items()})


def packed(pack) -> bytes:
    buffer = io.BytesIO()
    pack(buffer)
    return buffer.getvalue()


def zipped(buffer):
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("weights.pth", b"x")


def tarred(buffer):
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "ckpt"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>Not found</html>", "it begins with <!DOCTYPE html>$"),
        (b"\xef\xbb\xbf\n  <html lang='de'>\n<p>" * 20, "it begins with <html lang='de'>$"),
        (b'{"error": "no such file"}', 'it begins with {"error"'),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n", "`git lfs pull`"),
        (gzip.compress(b"x", mtime=0), "compressed with gzip"),
        (packed(tarred), "it is a tar archive"),
        (packed(zipped), "it is a zip archive of other files"),
        (packed(lambda buffer: np.save(buffer, np.zeros(2))), "an array of NumPy"),
    ],
)
def test_files_of_another_kind_are_told(tmp_path, content, message, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"x.{suffix} is no checkpoint: .*{message}") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


def test_safetensors_whose_length_looks_like_a_line_are_read(tmp_path):
    """They begin with the length of their header: 2,632 bytes are "H\\n"."""
    header = b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'.ljust(0x0A48)
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert read_state(tmp_path / "x.safetensors")["x"].tolist() == [0]


def test_bytes_of_no_kind_get_a_whole_sentence(tmp_path):
    (tmp_path / "x.pth").write_bytes(bytes(50))
    with pytest.raises(ValueError, match=r"x.pth cannot be read safely as a checkpoint of tensors: \w.*[a-z]$"):
        read_state(tmp_path / "x.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, dtype):
    path = write_teacher(tmp_path)
    state = {name: tensor.to(dtype) for name, tensor in read_state(path).items()}
    state["z_proj.weight"][0, :2] = value
    save_file(state, path)
    with pytest.raises(ValueError, match="teacher.safetensors: 2 of the 64 numbers of z_proj.weight are NaN or infinite"):
        load_model(path)


def test_the_largest_numbers_and_whole_ones_pass():
    check_finite({"a": torch.full((2,), 6e4, dtype=torch.float16), "b": torch.arange(3), "c": torch.empty(0)}, "x.pth")
