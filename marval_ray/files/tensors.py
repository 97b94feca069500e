"""Reading checkpoints as people have them: safetensors, published `.pth` files, shards with an index.

Nothing is unpickled but tensors: `torch.load(weights_only=True)` with `argparse.Namespace`, which MAR's published
files carry, allowed by name. Published files are mapped into memory, and stay so: what is not looked at
is not read.
"""

import argparse
import codecs
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from marval_ray.files.text import read_json

StateDict = dict[str, Tensor]

# torch's restricted unpickler reports damaged bytes by whichever of these they lead to.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, AssertionError, TypeError, ValueError,
    struct.error,
)  # fmt: skip

_KEYS = ("model_ema", "ema_state_dict", "state_dict_ema", "ema", "model", "state_dict", "model_state_dict", "module")
"""Where training programs keep the weights; averaged ones come first."""

# What DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into the names of what they wrap.
_WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)")
_ADAPTER = re.compile(r"base_model\.model\.|(.*[._])?lora[._]")
"""How names begin in peft's files, or what diffusers and others have in them for LoRA."""

_BEGINNINGS = (
    (b"version https://git-lfs", "it is a pointer of git-lfs, `git lfs pull` fetches the file itself"),
    (b"\x1f\x8b", "it is compressed with gzip, unpack it first"),
    (b"\x89HDF", "it is an HDF5 file"),
    (b"\x93NUMPY", "it is an array of NumPy"),
    (b"PAR1", "it is a Parquet file"),
)


def read_state(path: Path) -> StateDict:
    """Read the tensors of a safetensors file, of a published checkpoint, or of the shards that an `.index.json` lists.

    Of a published checkpoint the averaged weights count, if it has some; the wrappers of DDP, torch.compile and FSDP
    are taken out of the names. Raises ValueError with the file's name when it cannot be read safely, is not a state dict, or is
    not whole: one shard of several, or adapters.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    shard = _SHARD.fullmatch(path.name)
    if shard and int(shard[3]) > 1:
        index = path.with_name(f"{shard[1]}{shard[4]}.index.json")
        raise ValueError(f"{path} is one of {int(shard[3])} shards: give {index}, which lists them, or one file with all weights")
    state = _read_file(path)
    if any(_ADAPTER.match(name) for name in state):
        raise no_whole_model(path)
    return state


def check_no_adapter(folder: Path) -> None:
    """Raise ValueError when `folder` is one of peft's: transformers would fetch the model that it names, and add it to that."""
    if (folder / "adapter_config.json").exists():
        raise no_whole_model(folder)


def no_whole_model(place: Path | str) -> ValueError:
    """Return what to raise of adapters in the place of a model."""
    cure = "merge it into its model (`merge_and_unload` of peft) and give what that saves"
    return ValueError(f"{place} is an adapter (LoRA), not a whole model: {cure}")


def _read_file(path: Path) -> StateDict:
    check_there(path)
    appearance = looks_like(path)
    if appearance:
        raise ValueError(f"{path} is no checkpoint: {appearance}")
    if path.suffix != ".safetensors":
        return _unwrapped(_read_published(path))
    try:
        return _unwrapped(_read_safetensors(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _read_safetensors(path: Path) -> StateDict:
    """Copy each tensor out of a mapping of its own: of one mapping all that was looked at would stay in memory beside the copies."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    return {name: _read_tensor(path, name) for name in names}


def _read_tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor(name).clone()


def check_there(path: Path) -> None:
    """Raise ValueError when there is no file at `path`."""
    if not path.is_file():
        raise ValueError(f"there is no checkpoint at {path} (`python jobs/fetch.py --list` has published ones)")


def looks_like(path: Path) -> str | None:
    """Say what a file is that is no checkpoint, as far as its first bytes tell."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty"
    for mark, meaning in _BEGINNINGS:
        if head.startswith(mark):
            return meaning
    if head[257:262] == b"ustar":
        return "it is a tar archive, unpack it first"
    if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path) and not _is_torchs(path):
        return "it is a zip archive of other files, unpack it first"
    if b"\0" in head[:8]:  # no text: safetensors begin with a length, whose first bytes may look like a line
        return None
    text = head.removeprefix(codecs.BOM_UTF8).decode(errors="ignore").lstrip()
    line = text.partition("\n")[0].rstrip()
    return f"it begins with {_first_words(line)}" if line and line[:20].isprintable() else None


def _is_torchs(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _first_words(line: str) -> str:
    """Return the first tag of a page, or the beginning of another text."""
    tag, end, _ = line[:40].partition(">")
    return tag + end


def _read_shards(index: Path) -> StateDict:
    check_there(index)
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict):
        raise ValueError(f"{index} has no `weight_map`: it is not an index of shards")
    shards = {name: _read_file(index.parent / name) for name in sorted(set(files.values()))}
    absent = sorted(name for name, file in files.items() if name not in shards[file])
    if absent:
        raise ValueError(f"{index.parent / files[absent[0]]} lacks {absent[0]}, which {index.name} looks for there")
    return {name: shards[file][name] for name, file in files.items()}


def _read_published(path: Path) -> StateDict:
    mapped = zipfile.is_zipfile(path)  # older files cannot be mapped
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read safely as a checkpoint of tensors: {_reason(error)}") from error
    for candidate in _candidates(content):
        if _is_state(candidate):
            return candidate
    raise ValueError(f"{path} holds no state dict: neither one of {', '.join(_KEYS)} nor tensors by name")


def _candidates(content: Any) -> Iterator[Any]:
    """Yield what may be the weights; a key that is there but empty, such as `model_ema: None`, gives way to the next."""
    if isinstance(content, dict):
        yield from (content[key] for key in _KEYS if key in content)
    yield content


def _is_state(content: Any) -> bool:
    return isinstance(content, dict) and bool(content) and all(isinstance(value, Tensor) for value in content.values())


def _unwrapped(state: StateDict) -> StateDict:
    """Return the tensors under the names that they have in the model itself."""
    return {_WRAPPERS.sub("", name): value for name, value in state.items() if name != "n_averaged"}  # of torch's AveragedModel


def _reason(error: BaseException) -> str:
    """Return the line of torch's long message that names the refused class or the damage, without its advice to load it unsafely."""
    lines = [line.strip().split(" Please use")[0] for line in str(error).splitlines()]
    named = "WeightsUnpickler error: " if isinstance(error, pickle.UnpicklingError) else ""
    told = [line for line in lines if line and named in line and not line.isdigit()]
    return (told or ["it is damaged, or torch.save did not write it"])[0]
