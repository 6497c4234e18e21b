"""What a config says in one of two places, or in the form that another release writes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from videollava.errors import InputError
from videollava.model import checkpoint, convert
from videollava.model.config import VideoLlavaConfig, read_language
from videollava.model.convert import probe
from videollava.model.formats.language import load_language_model

LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 5e5,
}


def _edit(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "config.json") -> None:
    config = json.loads((folder / name).read_text())
    change(config)
    (folder / name).write_text(json.dumps(config))


def _old(rope: dict[str, Any], kind: str) -> dict[str, Any]:
    """transformers 4: rope_theta and rope_scaling; `kind` is the name its type had."""
    scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "rope_type")}
    return {"rope_theta": rope["rope_theta"], "rope_scaling": {**scaling, kind: rope["rope_type"]}}


@pytest.mark.parametrize("rope", [LINEAR, LLAMA3], ids=["linear", "llama3"])
def test_rotary_positions_are_one_in_every_form(rope: dict[str, Any]) -> None:
    forms = (
        {"rope_parameters": rope},
        _old(rope, "rope_type"),
        _old(rope, "type"),
        {**_old(rope, "type"), "rope_parameters": rope},
        {**_old(rope, "type"), "rope_parameters": None},
        {"rope_scaling": rope},
        {"rope_parameters": {**rope, "type": rope["rope_type"]}},
    )
    for form in forms:
        assert read_language(form).rope_parameters == rope, form
    assert read_language(read_language(forms[1]).to_dict()).rope_parameters == rope
    for silent in ({"rope_scaling": None, "rope_theta": 5e5}, {"rope_scaling": False, "rope_theta": 500000}):
        assert read_language(silent).rope_parameters == {"rope_type": "default", "rope_theta": 5e5}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta is 500000.0 and 10000.0"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
            "rope_type is 'linear' and 'default'",
        ),
        ({"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}}, "differently"),
        ({"rope_scaling": {"factor": 2.0}}, "do not say their type"),
        ({"rope_scaling": "linear"}, "not an object"),
        (
            {"rope_scaling": {"type": "su", "factor": 2.0}},
            "type 'su': not known here; it may be default, linear",
        ),
        ({"rms_norm_eps": "1e-5"}, r"config \(llama\) cannot be read: .*rms_norm_eps"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        read_language(given)


def test_what_older_releases_leave_out_or_set_to_null() -> None:
    config = read_language(
        {
            "hidden_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": None,
            "head_dim": None,
            "eos_token_id": [2, 7],
            "pad_token_id": None,
            "torch_dtype": "float16",
            "quantization_config": {"load_in_4bit": True},
            "_name_or_path": "x",
            "transformers_version": "4.31.0",
        }
    )
    assert (config.num_key_value_heads, config.head_dim, config.eos_token_id) == (4, 12, [2, 7])
    assert not hasattr(config, "quantization_config")


@pytest.mark.parametrize("form", ["rope_type", "type"])
@pytest.mark.parametrize("layout", ["ours", "original", "transformers"])
def test_a_model_with_scaled_positions_comes_back_from_every_layout(
    make_model: Callable[..., Any], tmp_path: Path, layout: Any, form: str
) -> None:
    model = make_model(temporal=False)
    text = {**model.config.text_config.to_dict(), "rope_parameters": LINEAR}
    config = VideoLlavaConfig(**{**model.config.to_dict(), "text_config": text})
    model = checkpoint.build(config, dict(model.state_dict()), "made")
    folder = checkpoint.save(model, None, tmp_path / "m")
    convert.convert(folder, tmp_path / "there", layout)

    def older(config: dict[str, Any]) -> None:
        config.pop("videollava", None)
        part = config.get("text_config", config)
        part.pop("rope_parameters", None)
        part.update(_old(LINEAR, form))

    written = json.loads((tmp_path / "there/config.json").read_text())
    if layout != "ours":  # readable by transformers 4 as it was written
        part = written.get("text_config", written)
        assert part["rope_theta"] == 5e5
        assert part["rope_scaling"]["factor"] == 2.0
    assert torch.equal(probe(checkpoint.load(tmp_path / "there").model)[..., :64], probe(model))
    _edit(tmp_path / "there", older)
    inputs = convert.probe_inputs(model.config, torch.float32)
    loaded = checkpoint.load(tmp_path / "there").model
    assert torch.equal(loaded(**inputs).logits[..., :64], model(**inputs).logits)


def _theirs(make_model: Callable[..., Any], tmp_path: Path) -> tuple[Any, Path]:
    """A model and its folder in transformers' own layout, nothing of ours in it."""
    model = make_model(temporal=False)
    folder = tmp_path / "hf"
    convert.convert(checkpoint.save(model, None, tmp_path / "m"), folder, "transformers")
    _edit(folder, lambda config: config.pop("videollava"))
    return model, folder


def test_placeholders_under_their_newer_names(make_model: Callable[..., Any], tmp_path: Path) -> None:
    model, folder = _theirs(make_model, tmp_path)

    def newer(config: dict[str, Any]) -> None:
        for kind in ("image", "video"):
            config[f"{kind}_token_id"] = config.pop(f"{kind}_token_index")

    _edit(folder, newer)
    loaded = checkpoint.load(folder).model
    assert (loaded.config.image_token_id, loaded.config.video_token_id) == (64, 65)
    inputs = convert.probe_inputs(model.config, torch.float32)
    assert torch.equal(loaded(**inputs).logits[..., :64], model(**inputs).logits)
    _edit(folder, lambda config: config.update(image_token_index=7))
    with pytest.raises(InputError, match=r"hf: config\.json .*image_token_index: 7, image_token_id: 64"):
        checkpoint.load(folder)
    ours = checkpoint.save(model, None, tmp_path / "ours")
    _edit(ours, lambda config: config.update(image_token_id=70))
    with pytest.raises(InputError, match="says one thing twice and differently"):
        checkpoint.load(ours)


def test_a_list_of_one_feature_layer_is_that_one(make_model: Callable[..., Any], tmp_path: Path) -> None:
    model, folder = _theirs(make_model, tmp_path)
    _edit(folder, lambda config: config.update(vision_feature_layer=[-2]))
    inputs = convert.probe_inputs(model.config, torch.float32)
    assert torch.equal(checkpoint.load(folder).model(**inputs).logits[..., :64], model(**inputs).logits)
    _edit(folder, lambda config: config.update(vision_feature_layer=[-2, -3]))
    with pytest.raises(InputError, match="joined from several layers are not supported"):
        checkpoint.load(folder)


def test_rows_that_a_config_does_not_know_of(
    make_model: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tokens were added, and only the weights (or the outer vocab_size) tell."""
    model, folder = _theirs(make_model, tmp_path)
    expected = checkpoint.load(folder).model
    _edit(folder, lambda config: (config.update(vocab_size=66), config["text_config"].update(vocab_size=60)))
    inputs = convert.probe_inputs(model.config, torch.float32)
    with caplog.at_level(logging.WARNING):
        loaded = checkpoint.load(folder).model
    assert "vocab_size 60, its weights have 66 rows: the weights hold" in caplog.text
    assert torch.equal(loaded(**inputs).logits, expected(**inputs).logits)
    original = tmp_path / "original"
    convert.convert(tmp_path / "m", original, "original")
    tensors = load_file(original / "model.safetensors")
    wider = {
        name: torch.cat([tensor, tensor[:3]]) if len(tensor) == 64 and tensor.shape[-1] == 48 else tensor
        for name, tensor in tensors.items()
        if name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    save_file({**tensors, **wider}, original / "model.safetensors")
    loaded = checkpoint.load(original).model
    # Placeholders lie behind the last row, whatever the config said.
    assert (loaded.config.text_config.vocab_size, loaded.config.image_token_id) == (67, 67)
    # A text table that the head does not match fits nothing.
    save_file({**tensors, "lm_head.weight": wider["lm_head.weight"]}, original / "model.safetensors")
    with pytest.raises(InputError, match="wrong shapes"):
        checkpoint.load(original)


def test_an_export_of_ours_that_was_changed_there_counts_as_theirs(
    make_model: Callable[..., Any], tmp_path: Path
) -> None:
    """Our own config inside an export must not outvote what transformers' users did since."""
    from transformers import VideoLlavaForConditionalGeneration

    model = make_model(temporal=False)
    convert.convert(checkpoint.save(model, None, tmp_path / "m"), tmp_path / "hf", "transformers")
    theirs = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "hf")
    theirs.resize_token_embeddings(70, mean_resizing=False)
    theirs.save_pretrained(tmp_path / "resized")
    loaded = checkpoint.load(tmp_path / "resized").model
    assert loaded.config.text_config.vocab_size == 70
    inputs = convert.probe_inputs(model.config, torch.float32)
    assert torch.equal(loaded(**inputs).logits[..., :64], model(**inputs).logits)
    _edit(tmp_path / "hf", lambda config: config["text_config"].update(rms_norm_eps=0.5))
    changed = checkpoint.load(tmp_path / "hf").model
    assert changed.config.text_config.rms_norm_eps == 0.5
    assert not torch.equal(changed(**inputs).logits[..., :64], model(**inputs).logits)


@pytest.mark.parametrize("said", ["torch_dtype", "dtype"])
def test_weights_keep_their_type_whatever_the_config_says(model: Any, tmp_path: Path, said: str) -> None:
    folder = checkpoint.save(model, None, tmp_path / "m")

    def claim(config: dict[str, Any]) -> None:
        config.pop("dtype")
        config[said] = "float16"

    _edit(folder, claim)
    loaded = checkpoint.load(folder).model
    assert loaded.dtype == torch.float32
    assert torch.equal(probe(loaded), probe(model))


def test_parts_of_several_types_come_back_as_they_were(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An encoder in bfloat16 comes first in the file: the language model must not be rounded to it."""
    model.model.image_tower.bfloat16()
    model.model.multi_modal_projector.half()
    folder = checkpoint.save(model, None, tmp_path / "m")
    loaded = checkpoint.load(folder).model
    assert loaded.lm_head.weight.dtype == torch.float32
    assert loaded.model.multi_modal_projector.linear_1.weight.dtype == torch.float16
    assert torch.equal(probe(loaded), probe(model))
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    convert.convert(folder, tmp_path / "original", "original")
    assert torch.equal(probe(checkpoint.load(tmp_path / "original").model), probe(model))
    # Within one part, the widest: nothing is rounded.
    tensors = load_file(folder / "model.safetensors")
    name = "model.language_model.norm.weight"
    save_file({**tensors, name: tensors[name].bfloat16()}, folder / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load(folder).model.lm_head.weight.dtype == torch.float32
    assert "several types in ['the model']" in caplog.text


def test_a_left_over_quantised_setting_is_dropped_and_quantised_weights_refused(
    saved: Path, model: Any, tmp_path: Path
) -> None:
    left = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    _edit(
        saved,
        lambda c: (c.update(quantization_config=left), c["text_config"].update(quantization_config=left)),
    )
    loaded = checkpoint.load(saved).model
    assert torch.equal(probe(loaded), probe(model))
    model.config.quantization_config = model.config.text_config.quantization_config = left
    text = (checkpoint.save(model, None, tmp_path / "again") / "config.json").read_text()
    assert "quantization_config" not in text
    model.is_quantized = True
    with pytest.raises(InputError, match="a quantised model is not saved"):
        checkpoint.save(model, None, tmp_path / "x")
    tensors = load_file(saved / "model.safetensors")
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    save_file({**tensors, name: torch.zeros(1536, 1, dtype=torch.uint8)}, saved / "model.safetensors")
    with pytest.raises(InputError, match="These weights were saved quantised: take the full-precision ones"):
        checkpoint.load(saved)


def test_several_ends_of_an_answer_reach_generation(saved: Path, tmp_path: Path) -> None:
    """Chat models end an answer with one of several tokens, and only generation_config.json lists them."""
    ends = {
        "eos_token_id": [2, 9],
        "pad_token_id": None,
        "temperature": 0.9,
        "top_p": 0.6,
        "max_length": 4096,
    }
    (saved / "generation_config.json").write_text(json.dumps(ends))
    for to in ("ours", "original", "transformers"):
        convert.convert(saved, tmp_path / to, to, check=False)
    for folder in (saved, tmp_path / "ours", tmp_path / "original"):
        loaded = checkpoint.load(folder)
        assert loaded.model.generation_config.eos_token_id == [2, 9]
        again = checkpoint.save(loaded.model, loaded.tokenizer, tmp_path / "again")
        assert checkpoint.load(again).model.generation_config.eos_token_id == [2, 9]


@pytest.mark.parametrize(
    "extra",
    [
        {"extra_special_tokens": ["<a>", "<b>"]},
        {"extra_special_tokens": {"image_token": "<a>"}},
        {"extra_special_tokens": {}},
        {"additional_special_tokens": ["<a>"]},
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"tokenizer_class": "TokenizersBackend"},
    ],
    ids=["list", "dict", "empty", "older", "4", "5"],
)
def test_tokenizers_of_other_releases(saved: Path, tokenizer: Any, extra: dict[str, Any]) -> None:
    _edit(saved, lambda config: config.update(extra), "tokenizer_config.json")
    loaded = checkpoint.load(saved).tokenizer
    text = "hello, who is there?"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.eos_token_id == tokenizer.eos_token_id


@pytest.fixture
def language(tokenizer: Any, tmp_path: Path) -> Path:
    """A small Llama with tied embeddings, as transformers saves it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=True, **sizes))
    model.save_pretrained(tmp_path / "language")
    tokenizer.save_pretrained(tmp_path / "language")
    return tmp_path / "language"


def test_language_models_of_every_release(language: Path) -> None:
    ids = torch.arange(10)[None]
    expected, _ = load_language_model(language)
    assert expected.lm_head.weight is expected.model.embed_tokens.weight

    def older(config: dict[str, Any]) -> None:
        config.pop("rope_parameters")
        config.update(rope_theta=10000.0, rope_scaling=None, torch_dtype=config.pop("dtype"))
        config.pop("head_dim")

    _edit(language, older)
    assert torch.equal(load_language_model(language)[0](ids).logits, expected(ids).logits)
    # A half type in the config does not round full weights; a file in the place of its folder means the folder.
    _edit(language, lambda config: config.update(torch_dtype="float16"))
    found, _ = load_language_model(language / "model.safetensors")
    assert found.dtype == torch.float32
    # A head of its own stays, and the config says so then.
    tensors = load_file(language / "model.safetensors")
    save_file({**tensors, "lm_head.weight": torch.randn(64, 32)}, language / "model.safetensors")
    parted, _ = load_language_model(language)
    assert parted.config.tie_word_embeddings is False
    assert not torch.equal(parted(ids).logits, expected(ids).logits)


def test_language_models_with_gaps_are_refused(language: Path) -> None:
    tensors = load_file(language / "model.safetensors")
    file = language / "model.safetensors"
    save_file({n: t for n, t in tensors.items() if n != "model.norm.weight"}, file)
    with pytest.raises(InputError, match=r"not every weight was loaded \(missing: model\.norm\.weight"):
        load_language_model(language)
    _edit(language, lambda config: config.update(tie_word_embeddings=False))
    save_file(tensors, file)
    with pytest.raises(InputError, match=r"missing: lm_head\.weight"):
        load_language_model(language)
    _edit(language, lambda config: config.update(tie_word_embeddings=True, hidden_size=40))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_language_model(language)
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    _edit(language, lambda config: config.update(hidden_size=32, quantization_config=quantised))
    assert load_language_model(language)[0].dtype == torch.float32  # full weights: the setting was left over
    save_file({**tensors, "model.norm.weight": torch.zeros(32, dtype=torch.uint8)}, file)
    with pytest.raises(InputError, match=r"saved quantised \(bitsandbytes\)"):
        load_language_model(language)
    wider = torch.cat([tensors["model.embed_tokens.weight"], torch.zeros(2, 32)])
    save_file({**tensors, "model.embed_tokens.weight": wider}, file)
    assert load_language_model(language)[0].config.vocab_size == 66
