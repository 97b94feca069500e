"""Rewards whose files are not whole, or of another kind: refused before Ray starts, and by the loader too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_rewards import TEXT, VISION, clip_folder, small_open_clip, to_published  # noqa: F401
from transformers import CLIPModel

from marval_ray.embedded import assets_index
from marval_ray.hub.published import PUBLISHED
from marval_ray.rewards import check_rewards, load_reward
from marval_ray.rewards.hps import HPSReward
from marval_ray.rewards.image_reward import ImageReward
from marval_ray.rewards.spec import PUBLISHED_AT


@pytest.fixture
def folder(tmp_path):
    """The embedded reward, to be spoiled."""
    return shutil.copytree(assets_index.ASSETS / "reward", tmp_path / "reward")


def refused(folder, check=check_rewards) -> str:
    with pytest.raises(ValueError) as caught:
        check([f"pickscore:{folder}"])
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def change(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")


@pytest.mark.parametrize("check", [check_rewards, load_reward])
@pytest.mark.parametrize(("kind", "place"), PUBLISHED_AT.items())
def test_a_name_on_the_hub_is_not_fetched_and_the_command_that_does_is_told(kind, place, check):
    with pytest.raises(ValueError) as caught:
        check([f"{kind}:somebody/model"])
    assert str(caught.value) == (
        f"reward {kind}: there is nothing at somebody/model, and nothing is fetched here: "
        f"`python jobs/fetch.py {place.parts[1]}` gives {kind}:{place}"
    )
    published = [Path("models") / place.parts[1] / file.name for file in PUBLISHED[place.parts[1]].files]
    assert place in (*published, published[0].parent)


def test_the_embedded_reward_passes(clip_folder):  # noqa: F811
    check_rewards(["pickscore:embedded/reward", f"0.5*clip:{clip_folder}"])


def test_a_sharded_reward_passes(folder):
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    files = {name: f"model-0000{1 + (index % 2)}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: state[name] for name in names if files[name] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}), encoding="utf-8")
    check_rewards([f"pickscore:{folder}"])
    loaded = load_reward([f"pickscore:{folder}"]).rewards[0].model.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("check", [check_rewards, load_reward])
def test_missing_weights_are_not_made_up(folder, check):
    state = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith("vision_model.encoder")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert "missing vision_model.encoder" in refused(folder, check)


@pytest.mark.parametrize("check", [check_rewards, load_reward])
def test_other_shapes_and_names_are_refused(folder, check):
    state = load_file(folder / "model.safetensors")
    save_file(state | {"extra": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    assert "unexpected extra" in refused(folder, check)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder / "config.json", projection_dim=8)
    assert "text_projection.weight is (64, 64), the model needs (8, 64)" in refused(folder, check)


@pytest.mark.parametrize("check", [check_rewards, load_reward])
def test_weights_of_a_reward_must_be_finite(folder, check):
    state = load_file(folder / "model.safetensors")
    state["logit_scale"].fill_(float("nan"))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert "1 of the 1 numbers of logit_scale are NaN or infinite" in refused(folder, check)


def test_old_files_with_numbers_of_positions_pass(folder):
    state = load_file(folder / "model.safetensors") | {"text_model.embeddings.position_ids": torch.arange(32)[None]}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    check_rewards([f"pickscore:{folder}"])
    load_reward([f"pickscore:{folder}"])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"])
@pytest.mark.parametrize("check", [check_rewards, load_reward])
def test_each_file_is_needed_whole(folder, name, check):
    (folder / name).write_text("{", encoding="utf-8")
    refused(folder, check)
    (folder / name).unlink()
    refused(folder, check)


def test_models_of_another_kind_are_named(folder):
    change(folder / "config.json", text_config=3)
    assert "no CLIP reward" in refused(folder)
    change(folder / "config.json", model_type="siglip")
    assert "is the config of a siglip, not of a CLIP" in refused(folder)


def test_an_empty_folder_says_what_belongs_there(tmp_path):
    assert "config.json is missing: the folder of a CLIP reward holds" in refused(tmp_path)


def test_files_of_other_rewards_are_looked_through(small_open_clip, tmp_path):  # noqa: F811
    model = HPSReward.check
    with pytest.raises(ValueError, match="there is no checkpoint at"):
        model(tmp_path / "hps.pt", small_open_clip)
    torch.save({"state_dict": {"logit_scale": torch.ones(())}}, tmp_path / "hps.pt")
    with pytest.raises(ValueError, match="hps.pt does not fit the model: missing ln_final.bias"):
        model(tmp_path / "hps.pt", small_open_clip)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), encoding="utf-8")
    state = {to_published(name): value for name, value in ImageReward(VISION, TEXT, None).state_dict().items()}
    torch.save(state, tmp_path / "ImageReward.pt")
    ImageReward.check(tmp_path, VISION, TEXT)
    state["mlp.layers.0.bias"][3] = float("inf")
    torch.save(state, tmp_path / "ImageReward.pt")
    with pytest.raises(ValueError, match="ImageReward.pt: 1 of the 1024 numbers of mlp.0.bias are NaN or infinite"):
        ImageReward.check(tmp_path, VISION, TEXT)


def test_plug_ins_are_found_before_they_are_needed(monkeypatch, tmp_path):
    (tmp_path / "my_plugin.py").write_text("def reward():\n    raise AssertionError\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    check_rewards(["plugin:my_plugin:reward"])  # found, not called
    for place in ("my_plugin:other", "no_such_module:reward", ":reward"):
        with pytest.raises(ValueError, match="write plugin:MODULE:FUNCTION"):
            check_rewards([f"plugin:{place}"])


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf", "", "x"])
def test_weights_of_a_sum_are_finite_numbers(weight):
    with pytest.raises(ValueError, match="is no number"):
        check_rewards([f"{weight}*pickscore:embedded/reward"])


def test_adapters_are_refused(folder):
    """transformers would add them to the weights beside them, or look for their model elsewhere."""
    get_peft_model(CLIPModel.from_pretrained(folder), LoraConfig(target_modules=["q_proj"])).save_pretrained(folder)
    for check in (check_rewards, load_reward):
        assert "is an adapter (LoRA), not a whole model" in refused(folder, check)
    (folder / "config.json").unlink()
    assert "is an adapter (LoRA), not a whole model" in refused(folder)
