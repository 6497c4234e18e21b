"""A head that is the embedding table, or is not: what two places of a config say, and what the tensors are."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import BIT_EQUAL, FLOAT32
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor

from videollava.errors import InputError
from videollava.model import checkpoint, convert
from videollava.model.convert import probe
from videollava.model.formats import files
from videollava.model.formats.files import find_weights, write_shards

TABLE, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
FOUR = [(outer, text) for outer in (False, True) for text in (False, True)]


def _say(folder: Path, outer: bool | None, text: bool | None) -> None:
    """Write both flags into a folder's config.json; None takes one out."""
    config = json.loads((folder / "config.json").read_text())
    for part, value in ((config, outer), (config["text_config"], text)):
        part.pop("tie_word_embeddings", None)
        if value is not None:
            part["tie_word_embeddings"] = value
    (folder / "config.json").write_text(json.dumps(config))


def _is_tied(model: Any) -> bool:
    return bool(model.lm_head.weight is model.get_input_embeddings().weight)


def _same(model: Any, folder: Path) -> None:
    loaded = checkpoint.load(folder).model
    assert torch.equal(probe(loaded), probe(model))
    assert _is_tied(loaded) == _is_tied(model)


@pytest.mark.parametrize(("outer", "text"), FOUR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_four_settings_save_and_load_to_the_bit(
    make_model: Callable[..., Any], tmp_path: Path, outer: bool, text: bool, dtype: torch.dtype
) -> None:
    made = make_model(tied=text, tie_word_embeddings=outer).to(dtype)
    # Casting a module rounds its rotary frequencies too, which no file holds: so from a loaded one.
    model = checkpoint.load(checkpoint.save(made, None, tmp_path / "first")).model
    assert model.dtype == dtype
    folder = checkpoint.save(model, None, tmp_path / "m")
    _same(model, folder)
    config = json.loads((folder / "config.json").read_text())
    flags = {config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]}
    assert flags == {_is_tied(model)}
    assert (HEAD in find_weights(folder).specs()) != _is_tied(model)


@pytest.mark.parametrize(("outer", "text"), FOUR)
def test_all_four_settings_set_on_a_made_model_follow_the_tensors(
    make_model: Callable[..., Any], tmp_path: Path, outer: bool, text: bool
) -> None:
    """The fault: one flag said tied, the head was another tensor, the save dropped it."""
    for tied in (False, True):
        model = make_model(tied=tied)
        model.config.tie_word_embeddings = outer
        model.config.text_config.tie_word_embeddings = text
        _same(model, checkpoint.save(model, None, tmp_path / "m"))


@pytest.mark.parametrize(("outer", "text"), FOUR)
@pytest.mark.parametrize("to", ["original", "transformers"])
def test_every_format_there_and_back_is_bit_equal(
    make_model: Callable[..., Any], tmp_path: Path, outer: bool, text: bool, to: Any
) -> None:
    model = make_model(temporal=False, tied=text, tie_word_embeddings=outer)
    folder = checkpoint.save(model, None, tmp_path / "m")
    assert convert.convert(folder, tmp_path / "there", to).difference == 0
    assert convert.convert(tmp_path / "there", tmp_path / "back", "ours").difference == 0
    _same(model, tmp_path / "back")
    config = json.loads((tmp_path / "there/config.json").read_text())
    said = {config["tie_word_embeddings"], config.get("text_config", config)["tie_word_embeddings"]}
    assert said == {_is_tied(model)}


def test_our_older_saves_of_a_tied_base_load_with_its_own_head(
    make_model: Callable[..., Any], tmp_path: Path
) -> None:
    """Up to now: no head in the file, and only the language model's config said why."""
    model = make_model(tied=True)
    folder = checkpoint.save(model, None, tmp_path / "m")
    for outer, text in ((False, True), (None, True), (True, False), (True, None)):
        _say(folder, outer, text)
        _same(model, folder)


def test_a_missing_head_that_nothing_explains_is_an_error(
    make_model: Callable[..., Any], tmp_path: Path
) -> None:
    folder = checkpoint.save(make_model(tied=True), None, tmp_path / "m")
    for outer, text in ((False, False), (None, None)):
        _say(folder, outer, text)
        with pytest.raises(
            InputError, match=r"missing weights \(1\): lm_head.weight.*tie_word_embeddings: true"
        ):
            checkpoint.load(folder)
        with pytest.raises(InputError, match="missing weights"):
            convert.convert(folder, tmp_path / "x", "original", check=False)


@pytest.mark.parametrize(("outer", "text"), FOUR)
def test_two_tensors_that_differ_are_two_whatever_is_said(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, outer: bool, text: bool
) -> None:
    folder = checkpoint.save(model, None, tmp_path / "m")
    _say(folder, outer, text)
    with caplog.at_level(logging.WARNING):
        _same(model, folder)
    assert ("the head is not the embedding table here" in caplog.text) == (outer or text)
    convert.convert(folder, tmp_path / "there", "original")
    _same(model, tmp_path / "there")
    assert json.loads((tmp_path / "there/config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize(("outer", "text"), FOUR)
def test_two_equal_tensors_are_one_only_where_it_is_said(
    make_model: Callable[..., Any], tmp_path: Path, outer: bool, text: bool
) -> None:
    model = make_model(tied=True)
    folder = checkpoint.save(model, None, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, HEAD: tensors[TABLE].clone()}, folder / "model.safetensors")
    _say(folder, outer, text)
    loaded = checkpoint.load(folder).model
    assert torch.equal(probe(loaded), probe(model))
    assert _is_tied(loaded) == (outer or text)


def test_a_shared_tensor_kept_under_the_heads_name_or_by_save_model(
    make_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = make_model(tied=True)
    folder = checkpoint.save(model, None, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors[HEAD] = tensors.pop(TABLE)
    save_file(tensors, folder / "model.safetensors")
    _same(model, folder)
    convert.convert(folder, tmp_path / "original", "original")
    _same(model, tmp_path / "original")
    # safetensors' own way: one name kept, the other in the header.
    save_model(model, str(folder / "model.safetensors"))
    _say(folder, False, False)
    assert torch.equal(probe(checkpoint.load(folder).model), probe(model))


def test_gathered_state_dicts_of_every_kind(make_model: Callable[..., Any], tmp_path: Path) -> None:
    model = make_model(tied=True)
    whole: dict[str, Tensor] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = {
        "both": whole,
        "no head": {n: t for n, t in whole.items() if n != HEAD},
        "no table": {n: t for n, t in whole.items() if n != TABLE},
        "wrapped": {f"module.{n}": t for n, t in whole.items()},
        "compiled": {f"_orig_mod.{n}": t for n, t in whole.items()},
    }
    for name, state in states.items():
        _same(model, checkpoint.save(model, None, tmp_path / name, state))
    # ZeRO-3's own weights, gathered by nobody: empty.
    with pytest.raises(InputError, match=r"wrong shapes.*\[0\] instead of"):
        checkpoint.save(model, None, tmp_path / "x", {**whole, TABLE: torch.zeros(0), HEAD: torch.zeros(0)})
    missing = {n: t for n, t in whole.items() if not n.endswith("norm.weight")}
    with pytest.raises(InputError, match=r"the model to be saved: .*missing weights"):
        checkpoint.save(model, None, tmp_path / "x", missing)
    assert not (tmp_path / "x").exists()


def test_gathered_as_two_and_sharded_into_files(
    make_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeRO-3's gathering leaves two equal parameters of what was one."""
    model = make_model(tied=True)
    expected = probe(model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    monkeypatch.setattr(files.write_shards, "__defaults__", (20_000,))
    folder = checkpoint.save(model, None, tmp_path / "m")
    assert len(list(folder.glob("*.safetensors"))) > 3
    loaded = checkpoint.load(folder).model
    assert _is_tied(loaded)
    assert torch.equal(probe(loaded), expected)
    assert HEAD not in json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def test_head_and_table_in_different_shards_and_in_torchs_files(
    make_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = make_model(tied=True)
    folder = checkpoint.save(model, None, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_shards({HEAD: tensors[TABLE].clone(), **tensors}, folder, 30_000)
    _say(folder, None, True)
    _same(model, folder)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save({HEAD: tensors[TABLE], **tensors}, folder / "pytorch_model.bin")
    _same(model, folder)


@pytest.mark.parametrize(
    "layout", ["tied in the text config alone", "tied on top alone", "both tensors kept"]
)
def test_transformers_own_folders(make_model: Callable[..., Any], tmp_path: Path, layout: str) -> None:
    model = make_model(temporal=False, tied=True)
    convert.convert(checkpoint.save(model, None, tmp_path / "m"), tmp_path / "hf", "transformers")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    del config["videollava"]
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    if layout == "both tensors kept":
        file = tmp_path / "hf/model.safetensors"
        tensors = load_file(file)
        table = next(name for name in tensors if name.endswith("embed_tokens.weight"))
        save_file({**tensors, "language_model.lm_head.weight": tensors[table].clone()}, file)
    else:
        _say(tmp_path / "hf", *((None, True) if "text" in layout else (True, None)))
    inputs = convert.probe_inputs(model.config, torch.float32)
    loaded = checkpoint.load(tmp_path / "hf").model
    assert _is_tied(loaded)
    torch.testing.assert_close(
        loaded(**inputs).logits[..., :64], model(**inputs).logits, rtol=0, atol=BIT_EQUAL
    )
    convert.convert(tmp_path / "hf", tmp_path / "back", "transformers")
    assert torch.equal(probe(checkpoint.load(tmp_path / "back").model), probe(loaded))


def test_the_originals_config_says_it_or_its_base_does(
    make_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = make_model(tied=True)
    folder = tmp_path / "original"
    convert.convert(checkpoint.save(model, None, tmp_path / "m"), folder, "original")
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    # Both tensors, as torch's files always have them, come back as they were.
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, HEAD: tensors["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    _same(model, folder)
    # A projector on a language model whose own config alone says it.
    base = tmp_path / "base"
    base.mkdir()
    save_file({n: t for n, t in tensors.items() if "projector" not in n}, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps(config))
    torch.save({n: t for n, t in tensors.items() if "projector" in n}, folder / "mm_projector.bin")
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(
        json.dumps({n: v for n, v in config.items() if n != "tie_word_embeddings"})
    )
    loaded = checkpoint.load(folder, base=base).model
    assert _is_tied(loaded)
    assert torch.equal(probe(loaded), probe(model))


@pytest.mark.filterwarnings(
    "ignore:Model has .tie_word_embeddings=True", "ignore:Setting `save_embedding_layers`"
)
def test_lora_of_a_tied_head_parts_it_from_the_table(make_model: Callable[..., Any], tmp_path: Path) -> None:
    """The head alone was trained: the table must not change with it (peft's own merge would)."""
    from peft import LoraConfig, get_peft_model

    model = make_model(tied=True)
    base = checkpoint.save(model, None, tmp_path / "base")
    for number, options in enumerate(
        (
            {"target_modules": ["lm_head", "q_proj"]},
            {"target_modules": ["embed_tokens"]},
            {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        )
    ):
        torch.manual_seed(number)
        settings = LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, **options)
        adapted = get_peft_model(checkpoint.load(base).model, settings)
        for name, weight in adapted.named_parameters():
            if "modules_to_save" in name:
                weight.data += 0.1 * torch.randn_like(weight)
        adapted.peft_config["default"].base_model_name_or_path = str(base)
        adapted.save_pretrained(tmp_path / f"adapter{number}")
        expected = probe(adapted.eval().get_base_model())
        loaded = checkpoint.load(tmp_path / f"adapter{number}").model
        torch.testing.assert_close(probe(loaded), expected, rtol=0, atol=FLOAT32)
        assert not _is_tied(loaded)
        convert.merge(tmp_path / f"adapter{number}", tmp_path / f"merged{number}")
        assert torch.equal(probe(checkpoint.load(tmp_path / f"merged{number}").model), probe(loaded))
