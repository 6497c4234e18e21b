from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import FLOAT32
from safetensors.torch import load_file, save_file

from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.model.convert import probe
from videollava.model.encoders import LanguageBind, LanguageBindVisionModel, pair_config, tower_config
from videollava.model.formats import files
from videollava.params import Model


def _equal(one: Any, other: Any) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_comes_back_exactly(
    make_model: Callable[..., Any], tokenizer: Any, tmp_path: Path, tied: bool
) -> None:
    model = make_model(tied=tied)
    loaded = checkpoint.load(checkpoint.save(model, tokenizer, tmp_path / "m"))
    _equal(loaded.model, model)
    assert torch.equal(probe(loaded.model), probe(model))
    assert (loaded.model.lm_head.weight is loaded.model.get_input_embeddings().weight) == tied
    assert loaded.tokenizer("hello")["input_ids"] == tokenizer("hello")["input_ids"]
    assert not loaded.model.training
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_a_saved_folder_loads_with_transformers_too(saved: Path, model: Any) -> None:
    from transformers import AutoModelForImageTextToText

    _equal(AutoModelForImageTextToText.from_pretrained(saved), model)


def test_weights_keep_their_type_unless_told(model: Any, tmp_path: Path) -> None:
    folder = checkpoint.save(model.bfloat16(), None, tmp_path / "m")
    assert checkpoint.load(folder).model.dtype == torch.bfloat16
    assert checkpoint.load(folder, dtype=torch.float32).model.dtype == torch.float32


def test_encoders_come_back_exactly(shape: Model, tmp_path: Path) -> None:
    pair = LanguageBind(pair_config(shape, "video", 50))
    for model in (pair, pair.vision_model, pair.text_model):
        loaded = checkpoint.load(checkpoint.save(model, None, tmp_path / "m"))
        assert loaded.tokenizer is None
        assert type(loaded.model) is type(model)
        _equal(loaded.model, model)
    _equal(checkpoint.load_tower(checkpoint.save(pair, None, tmp_path / "m")), pair.vision_model)


def test_big_models_are_sharded(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.write_shards, "__defaults__", (100_000,))
    folder = checkpoint.save(model, None, tmp_path / "m")
    shards = sorted(file.name for file in folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    _equal(checkpoint.load(folder).model, model)


def test_an_older_save_is_replaced_only_by_a_whole_new_one(
    saved: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    before = (saved / "model.safetensors").read_bytes()
    monkeypatch.setattr(checkpoint, "write_shards", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(model, None, saved)
    assert (saved / "model.safetensors").read_bytes() == before
    checkpoint.load(saved)


def _edit(saved: Path, **changes: Any) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, **changes}))


def test_newer_and_unknown_formats_are_refused(saved: Path) -> None:
    _edit(saved, format_version=2)
    with pytest.raises(InputError, match="saved in format 2, this release reads up to 1: install a newer"):
        checkpoint.load(saved)
    _edit(saved, format_version="x")
    with pytest.raises(InputError, match="format_version is 'x'"):
        checkpoint.load(saved)
    _edit(saved, model_type="bert")
    with pytest.raises(InputError, match="model_type 'bert' is no format read here; there are ours"):
        checkpoint.load(saved)


def test_misfit_weights_are_listed(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    del tensors["lm_head.weight"]
    tensors["stranger"] = torch.zeros(1)
    tensors["model.language_model.norm.weight"] = torch.zeros(7)
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(InputError) as caught:
        checkpoint.load(saved)
    for part in (
        "missing weights (1): lm_head.weight",
        "unexpected weights (1): stranger",
        "wrong shapes (1): model.language_model.norm.weight [7] instead of [48]",
        "videollava convert",
    ):
        assert part in str(caught.value)


def test_damaged_files_are_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(InputError, match=r"model\.safetensors: \d+ bytes where its header says \d+"):
        checkpoint.load(saved)
    file.write_bytes(b"not a model")
    with pytest.raises(InputError, match="damaged or not a safetensors file"):
        checkpoint.load(saved)
    file.unlink()
    with pytest.raises(InputError, match="no weights; expected one of"):
        checkpoint.load(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        checkpoint.load(saved)
    (saved / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json: not a checkpoint folder"):
        checkpoint.load(saved)
    with pytest.raises(InputError, match="nowhere: no such folder, and not a hub id"):
        checkpoint.load(saved / "nowhere")


def test_written_files_are_what_safetensors_itself_writes(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 5).bfloat16(),
        "one": torch.tensor(2.5),
        "ids": torch.arange(7),
        "turned": torch.randn(4, 6).T,
        "none": torch.zeros(0, 3),
    }
    files.write_shard(tensors, tmp_path / "ours.safetensors")
    for name, tensor in load_file(tmp_path / "ours.safetensors").items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name])
    assert files.read_header(tmp_path / "ours.safetensors")["turned"] == ("F32", (6, 4))


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantised_loading_without_bitsandbytes_says_so(
    saved: Path, bits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=f"a model in {bits} needs bitsandbytes"):
        checkpoint.load(saved, quantize=bits)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantisation_leaves_head_and_everything_visual_alone(saved: Path, model: Any, bits: Any) -> None:
    """Of the loaded model itself: bitsandbytes goes by full names, and skips nothing for others."""
    small = checkpoint.load(saved, quantize=bits).model
    packed = {
        name
        for name, weight in small.named_parameters()
        if weight.dtype in (torch.uint8, torch.int8) and name.endswith("_proj.weight")
    }
    assert len(packed) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in packed)
    for name, weight in model.named_parameters():
        if name not in packed:
            assert torch.equal(small.get_parameter(name), weight), name


def test_an_encoder_is_not_quantised(shape: Model, tmp_path: Path) -> None:
    folder = checkpoint.save(LanguageBindVisionModel(tower_config(shape, "image")), None, tmp_path / "m")
    with pytest.raises(InputError, match="encoders are not quantised"):
        checkpoint.load(folder, quantize="4bit")


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantised_model_is_not_saved(saved: Path, tmp_path: Path, bits: Any) -> None:
    small = checkpoint.load(saved, quantize=bits)
    with pytest.raises(InputError, match="a quantised model is not saved"):
        checkpoint.save(small.model, small.tokenizer, tmp_path / "m")


def test_a_lora_folder_of_ours_loads_on_its_base(saved: Path, model: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    settings = LoraConfig(
        r=2,
        lora_alpha=8,
        target_modules=r".*language_model\.layers\.\d+\.self_attn\.q_proj",
        modules_to_save=["multi_modal_projector"],
        init_lora_weights=False,
    )
    adapted = get_peft_model(model, settings)
    adapted.base_model.model.model.multi_modal_projector.modules_to_save.default.linear_1.bias.data += 0.1
    adapted.save_pretrained(tmp_path / "adapter")
    expected = probe(adapted.eval().get_base_model())
    with pytest.raises(InputError, match=r"its base .* is not here"):
        checkpoint.load(tmp_path / "adapter")
    loaded = checkpoint.load(tmp_path / "adapter", base=saved)
    torch.testing.assert_close(probe(loaded.model), expected, rtol=0, atol=FLOAT32)


def test_a_vision_model_without_its_config_fields_is_refused(shape: Model, tmp_path: Path) -> None:
    folder = checkpoint.save(LanguageBindVisionModel(tower_config(shape, "video")), None, tmp_path / "m")
    _edit(folder, temporal_attention=False)
    with pytest.raises(InputError, match=r"unexpected weights \(33\): encoder\.layers\.0\.temporal_attn"):
        checkpoint.load(folder)
