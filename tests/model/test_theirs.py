"""What transformers' own class, its Trainer and peft really leave: resized vocabularies, tied tables, wrapped names."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import FLOAT32
from safetensors.torch import load_file, save_file
from torch import Tensor

from videollava.errors import InputError
from videollava.model import checkpoint, convert
from videollava.model.convert import merge, probe

TIED = {"ensure_weight_tying": True}


@pytest.fixture(scope="module")
def bases(make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Folders as the hub has them, with nothing of ours: of two tables, and of one that is the head too."""
    root = tmp_path_factory.mktemp("theirs")
    for tied in (False, True):
        folder = root / f"{tied}"
        ours = checkpoint.save(make_model(temporal=False, tied=tied), None, root / f"ours {tied}")
        convert.convert(ours, folder, "transformers", check=False)
        config = json.loads((folder / "config.json").read_text())
        del config["videollava"]
        (folder / "config.json").write_text(json.dumps(config))
    return {tied: root / f"{tied}" for tied in (False, True)}


def _load(base: Path) -> Any:
    from transformers import VideoLlavaForConditionalGeneration

    return VideoLlavaForConditionalGeneration.from_pretrained(base)


def _logits(model: Any, config: Any) -> Tensor:
    """Their class's answer to the probe of a model of ours."""
    inputs = convert.probe_inputs(config, torch.float32)
    if "pixel_values" in inspect.signature(model.forward).parameters:
        inputs["pixel_values"] = inputs.pop("pixel_values_images")
    with torch.inference_mode():
        logits: Tensor = model.eval()(**inputs).logits
    return logits


def _adapt(base: Path, folder: Path, rows: int | None = None, **settings: Any) -> Any:
    """The adapted model, on tables of `rows`; its adapter is in `folder`."""
    from peft import LoraConfig, get_peft_model

    model = _load(base)
    torch.manual_seed(1)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    chosen = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj"], "init_lora_weights": False, **settings}
    adapted = get_peft_model(model, LoraConfig(**copy.deepcopy(chosen)))  # peft writes into its lists
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "modules_to_save" in name:
                weight.add_(0.1 * torch.randn_like(weight))
    adapted.save_pretrained(folder)
    return adapted


def _holds(folder: Path, adapted: Any, target: Path) -> Any:
    done = merge(folder, target)
    model = checkpoint.load(target).model
    expected = _logits(adapted, model.config)
    # Float32, so by the size of the logits: an adapter drawn at random on the table makes hundreds of them.
    assert done.difference is not None
    size = max(1.0, float(expected.abs().max()))
    assert done.difference < 1e-4 * size
    torch.testing.assert_close(probe(model), expected, rtol=FLOAT32, atol=max(2e-5, 1e-6 * size))
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "embed_tokens"], **TIED},
        {"modules_to_save": ["embed_tokens"], **TIED},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    ],
    ids=["pairs of one weight", "one whole weight", "pairs of two"],
)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:Model has .tie_word_embeddings")
def test_head_and_table_saved_under_both_names_merge(
    bases: dict[bool, Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    """The fault: "adapts weights that the base model lacks: lm_head"."""
    adapted = _adapt(bases[True], tmp_path / "adapter", **settings)
    file = tmp_path / "adapter/adapter_model.safetensors"
    assert any("lm_head" in name for name in load_file(file))
    model = _holds(tmp_path / "adapter", adapted, tmp_path / "merged")
    one = model.lm_head.weight is model.get_input_embeddings().weight
    assert one == ("modules_to_save" in settings)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:Model has .tie_word_embeddings")
def test_what_says_it_is_one_weight_and_is_two_is_taken_as_two(
    bases: dict[bool, Path], tmp_path: Path
) -> None:
    _adapt(bases[True], tmp_path / "adapter", modules_to_save=["embed_tokens"], **TIED)
    file = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.lm_head.weight"] += 1
    save_file(tensors, file)
    loaded = checkpoint.load(tmp_path / "adapter").model
    assert torch.equal(loaded.lm_head.weight, tensors["base_model.model.lm_head.weight"])
    assert not torch.equal(loaded.lm_head.weight, loaded.get_input_embeddings().weight)


def test_an_adapter_of_a_convolution(bases: dict[bool, Path], tmp_path: Path) -> None:
    adapted = _adapt(bases[False], tmp_path / "adapter", target_modules=["patch_embedding", "q_proj"])
    _holds(tmp_path / "adapter", adapted, tmp_path / "merged")


@pytest.mark.parametrize("rows", [70, 80])
@pytest.mark.parametrize(
    ("tied", "settings"),
    [
        (False, {"modules_to_save": ["embed_tokens", "lm_head"]}),
        (True, {"modules_to_save": ["embed_tokens"], **TIED}),
    ],
    ids=["two", "tied"],
)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:Model has .tie_word_embeddings")
def test_a_vocabulary_resized_in_training_is_the_adapters(
    bases: dict[bool, Path], tmp_path: Path, tokenizer: Any, rows: int, tied: bool, settings: dict[str, Any]
) -> None:
    """With the tokenizer that was saved beside it, and the base's generation_config.json."""
    adapted = _adapt(bases[tied], tmp_path / "adapter", rows, **settings)
    tokenizer.add_tokens(["<chart>"])
    tokenizer.save_pretrained(tmp_path / "adapter")
    model = _holds(tmp_path / "adapter", adapted, tmp_path / "merged")
    assert model.config.text_config.vocab_size == rows
    assert (model.config.image_token_id, model.config.video_token_id) == (64, 65)
    for folder in (tmp_path / "adapter", tmp_path / "merged"):
        loaded = checkpoint.load(folder)
        assert loaded.tokenizer.convert_tokens_to_ids("<chart>") == 64
        assert loaded.model.generation_config.eos_token_id == model.config.text_config.eos_token_id
    convert.convert(tmp_path / "merged", tmp_path / "back", "transformers")
    back = _logits(_load(tmp_path / "back"), model.config)
    torch.testing.assert_close(back, _logits(adapted, model.config), rtol=0, atol=2e-5)


def test_half_of_a_resized_vocabulary_is_refused(bases: dict[bool, Path], tmp_path: Path) -> None:
    _adapt(bases[False], tmp_path / "adapter", 80, modules_to_save=["embed_tokens", "lm_head"])
    file = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if "lm_head" not in name}, file)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps({**config, "modules_to_save": None}))
    with pytest.raises(InputError, match="trained with other tokens in the vocabulary"):
        checkpoint.load(tmp_path / "adapter")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "base_model.model."])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_names_that_a_wrapper_lengthened(
    bases: dict[bool, Path], tmp_path: Path, prefix: str, suffix: str
) -> None:
    tensors = load_file(bases[False] / "model.safetensors")
    wrapped = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    (tmp_path / "config.json").write_text((bases[False] / "config.json").read_text())
    if suffix == "bin":
        torch.save(wrapped, tmp_path / "pytorch_model.bin")
    else:
        save_file(wrapped, tmp_path / "model.safetensors")
    assert torch.equal(probe(checkpoint.load(tmp_path).model), probe(checkpoint.load(bases[False]).model))


def test_what_old_releases_saved_though_it_is_computed(bases: dict[bool, Path], tmp_path: Path) -> None:
    tensors = load_file(bases[False] / "model.safetensors")
    tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    tensors["video_tower.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(tensors, tmp_path / "model.safetensors")
    # As an editor of Windows saves it.
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + (bases[False] / "config.json").read_bytes())
    assert torch.equal(probe(checkpoint.load(tmp_path).model), probe(checkpoint.load(bases[False]).model))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image_token_index": "64"}, "image_token_index.* expected int, got str"),
        ({"vision_feature_layer": None}, "vision_feature_layer"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings.* expected bool, got str"),
        ({"text_config": "vicuna"}, "config.json holds what no such config may"),
        ({"vision_config": {"hidden_size": 30, "num_attention_heads": 4}}, "folder"),
        ({"multimodal_projector_bias": False}, "a projector without biases"),
    ],
)
def test_values_that_no_config_may_hold(
    bases: dict[bool, Path], tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    config = json.loads((bases[False] / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    (folder / "model.safetensors").write_bytes((bases[False] / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=why):
        checkpoint.load(folder)


def test_weights_of_a_type_that_nobody_computes_in_name_their_folder(
    bases: dict[bool, Path], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((bases[False] / "config.json").read_text())
    tensors = load_file(bases[False] / "model.safetensors")
    save_file({n: t.to(torch.float8_e4m3fn) for n, t in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=rf"{tmp_path}: weights of type torch.float8_e4m3fn"):
        checkpoint.load(tmp_path)


def test_two_steps_of_transformers_trainer(bases: dict[bool, Path], tmp_path: Path) -> None:
    """A real checkpoint-2, of the whole model and of an adapter with its projector: logits as trained."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    sample = {"input_ids": torch.arange(3, 12), "labels": torch.arange(3, 12)}
    settings = LoraConfig(target_modules=["q_proj"], modules_to_save=["multi_modal_projector"])
    start = probe(checkpoint.load(bases[True]).model)
    for name, near in (("whole", 0.0), ("lora", 1e-5)):
        model = _load(bases[True])
        model = get_peft_model(model, settings) if name == "lora" else model
        arguments = TrainingArguments(
            output_dir=str(tmp_path / name),
            max_steps=2,
            save_steps=2,
            learning_rate=1e-2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
        )
        Trainer(model=model, args=arguments, train_dataset=[sample] * 4).train()
        loaded = checkpoint.load(tmp_path / name / "checkpoint-2").model
        torch.testing.assert_close(probe(loaded), _logits(model, loaded.config), rtol=0, atol=near)
        assert not torch.equal(probe(loaded), start)
