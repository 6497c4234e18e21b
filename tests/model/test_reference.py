"""Held to the original's code.

../shared/reference, and the same models in the other layouts the original has.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import BIT_EQUAL, ORIGINAL
from safetensors.torch import load_file, save_file
from torch import Tensor

from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.model.encoders import LanguageBind
from videollava.model.formats import original
from videollava.model.formats.languagebind import frames_first

PAIRS = ("image", "video", "video_no_time_attn", "depth_lora", "thermal_lora", "audio_lora")
SAMPLES = ("image", "video", "two_images", "text", "image_and_video")


def _close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ORIGINAL)


@pytest.mark.parametrize("name", PAIRS)
def test_languagebind_encoders_equal_the_original(shared: Path, name: str) -> None:
    folder = shared / "reference" / f"languagebind_{name}"
    case = load_file(folder / "case.safetensors")
    pair = checkpoint.load(folder).model
    assert isinstance(pair, LanguageBind)
    assert pair.config.vision_config.modality == name.split("_")[0]
    pixels = case["pixel_values"]
    pixels = frames_first(pixels) if pixels.ndim == 5 else pixels
    with torch.no_grad():
        out = pair(pixels, case["input_ids"], case["attention_mask"], output_hidden_states=True)
        spared = pair(pixels, case["input_ids"], case["attention_mask"])
        features = pair.vision_model(pixels, feature_layer=-2).last_hidden_state
    for key in ("image_embeds", "text_embeds", "logits_per_image"):
        _close(out[key], case[key])
        _close(spared[key], case[key])
    for key in ("last_hidden_state", "pooler_output"):
        _close(out.vision_output[key], case[key])
    _close(out.vision_output.hidden_states[-2], case["hidden_states_m2"])
    _close(features, case["hidden_states_m2"].flatten(0, -3))


def _run(model: Any, case: dict[str, Tensor], name: str) -> tuple[dict[str, Tensor], Any]:
    media = [case[f"{name}.media.{i}"] for i in range(3) if f"{name}.media.{i}" in case]
    inputs = original.prepare(model.config, case[f"{name}.input_ids"], media, case[f"{name}.labels"])
    with torch.no_grad():
        return inputs, model(**inputs)


def _hold(folder: Path, case: dict[str, Tensor], base: Path | None = None) -> Any:
    """The whole model in `folder` equals the original on every sample."""
    model = checkpoint.load(folder, base=base).model
    for name in SAMPLES:
        inputs, out = _run(model, case, name)
        assert torch.equal(inputs["labels"][0], case[f"{name}.expanded_labels"])
        _close(out.logits[0], case[f"{name}.logits"])
        _close(out.loss, case[f"{name}.loss"][0])
    return model


@pytest.fixture
def whole(shared: Path) -> Path:
    return shared / "reference/video_llava"


@pytest.fixture
def case(whole: Path) -> dict[str, Tensor]:
    return load_file(whole / "case.safetensors")


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Tensor], dict[str, Any]]]:
    """A new folder for a checkpoint, with the reference's weights and config to lay out in it."""

    def start(name: str = "checkpoint") -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
        folder = tmp_path / name
        folder.mkdir()
        return folder, load_file(whole / "model.safetensors"), json.loads((whole / "config.json").read_text())

    return start


def _write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")


def test_video_llava_equals_the_original(whole: Path, case: dict[str, Tensor]) -> None:
    _hold(whole, case)


def test_sharded_bin_files(parts: Any, case: dict[str, Tensor]) -> None:
    folder, tensors, config = parts()
    names = sorted(tensors)
    places = {name: f"pytorch_model-0000{1 + i % 3}-of-00003.bin" for i, name in enumerate(names)}
    for file in set(places.values()):
        torch.save({name: tensors[name] for name in names if places[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "config.json").write_text(json.dumps(config))
    _hold(folder, case)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(InputError, match=r"files that are not there: pytorch_model-00002-of-00003\.bin"):
        checkpoint.load(folder)


def _tower_folder(folder: Path, kind: str, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Take an encoder out of a checkpoint into a LanguageBind folder of its own."""
    folder.mkdir(parents=True)
    prefix = f"model.{kind}_tower.{kind}_tower."
    own = {name: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
    named = {"vision_model." + name.removeprefix(prefix): tensor for name, tensor in own.items()}
    extra = {"text_projection.weight": torch.zeros(2, 2), "logit_scale": torch.tensor(1.0)}
    _write(folder, {**named, **extra}, config.pop(f"{kind}_tower_config"))


@pytest.mark.parametrize("beside", [True, False])
def test_encoders_in_folders_of_their_own(
    parts: Any, case: dict[str, Tensor], tmp_path: Path, beside: bool
) -> None:
    folder, tensors, config = parts()
    for kind, name in (("image", "LanguageBind_Image"), ("video", "LanguageBind_Video_merge")):
        place = tmp_path / name if beside else tmp_path / "elsewhere" / name
        _tower_folder(place, kind, tensors, config)
        config[f"mm_{kind}_tower"] = f"LanguageBind/{name}" if beside else str(place)
    _write(folder, tensors, config)
    _hold(folder, case)
    shutil.rmtree(tmp_path / ("LanguageBind_Image" if beside else "elsewhere"))
    with pytest.raises(InputError, match=r"mm_image_tower is .*; its weights are not in the checkpoint"):
        checkpoint.load(folder)


def test_encoder_sizes_come_from_the_weights_where_no_config_is_here(parts: Any) -> None:
    folder, tensors, config = parts()
    del config["image_tower_config"], config["video_tower_config"]
    _write(folder, tensors, config)
    video = checkpoint.load(folder).model.config.video_config
    assert (video.hidden_size, video.num_hidden_layers, video.patch_size, video.size) == (64, 4, 14, (56, 56))
    assert (video.num_frames, video.temporal_attention) == (8, True)


def _language_folder(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """The language model alone, as a folder of transformers."""
    folder.mkdir()
    own = {n: t for n, t in tensors.items() if "tower" not in n and "projector" not in n}
    _write(
        folder, own, {k: v for k, v in config.items() if not k.startswith("mm_")} | {"model_type": "llama"}
    )


def test_a_projector_alone_on_its_base(parts: Any, case: dict[str, Tensor], tmp_path: Path) -> None:
    folder, tensors, config = parts()
    _language_folder(tmp_path / "vicuna", tensors, config)
    for kind, name in (("image", "LanguageBind_Image"), ("video", "LanguageBind_Video_merge")):
        _tower_folder(tmp_path / name, kind, tensors, config)
    projector = {name: tensor for name, tensor in tensors.items() if "mm_projector" in name}
    torch.save(projector, folder / "mm_projector.bin")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="holds a projector and no whole model; its base"):
        checkpoint.load(folder)
    _hold(folder, case, base=tmp_path / "vicuna")


@pytest.mark.parametrize("widened", [False, True])
def test_lora_folders(parts: Any, case: dict[str, Tensor], tmp_path: Path, widened: bool) -> None:
    """adapter_model and non_lora_trainables.bin on a language model.

    The base is worked out from the answer.
    """
    folder, tensors, config = parts("llava-lora")
    torch.manual_seed(0)
    pairs: dict[str, Tensor] = {}
    for name in [
        n for n in tensors if n.endswith(("q_proj.weight", "down_proj.weight")) and "tower" not in n
    ]:
        down, up = torch.randn(4, tensors[name].shape[1]), torch.randn(tensors[name].shape[0], 4) * 0.02
        tensors[name] = tensors[name] - 8 / 4 * up @ down
        stem = "base_model.model." + name.removesuffix(".weight")
        pairs |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    torch.save(pairs, folder / "adapter_model.bin")
    others = {"base_model.model." + n: t for n, t in tensors.items() if "mm_projector" in n}
    if widened:  # the original adds a <pad> token to the base and trains with it
        tables = ("model.embed_tokens.weight", "lm_head.weight")
        others |= {f"base_model.model.{n}": tensors[n] for n in tables}
        tensors |= {n: tensors[n][:-1].clone() for n in tables}
    torch.save(others, folder / "non_lora_trainables.bin")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "lmsys/vicuna-tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    base = {**config, "vocab_size": 319} if widened else config
    _language_folder(tmp_path / "vicuna-tiny", tensors, base)
    for kind, name in (("image", "LanguageBind_Image"), ("video", "LanguageBind_Video_merge")):
        _tower_folder(tmp_path / name, kind, tensors, config)
    (folder / "config.json").write_text(json.dumps(config))
    _hold(folder, case)


def test_added_tokens_of_a_lora_base_take_the_mean_of_the_others(parts: Any) -> None:
    _, tensors, _ = parts()
    source = original.Source(config=None, main=None, rows=322)  # type: ignore[arg-type]
    table = source._adapt("lm_head.weight", tensors["lm_head.weight"])
    assert table.shape == (322, 96)
    torch.testing.assert_close(table[321], tensors["lm_head.weight"].mean(0))


def test_a_model_with_images_alone(parts: Any, case: dict[str, Tensor]) -> None:
    folder, tensors, config = parts()
    tensors = {name: tensor for name, tensor in tensors.items() if "video_tower" not in name}
    del config["video_tower_config"]
    _write(folder, tensors, {**config, "mm_video_tower": None})
    model = checkpoint.load(folder).model
    assert model.config.towers == ("image",)
    for name in ("image", "two_images", "text"):
        _close(_run(model, case, name)[1].logits[0], case[f"{name}.logits"])


@pytest.mark.parametrize("kind", ["linear", "identity"])
def test_other_projector_types(parts: Any, kind: str) -> None:
    folder, tensors, config = parts()
    config["mm_projector_type"] = kind
    last = {name: tensors.pop(name) for name in list(tensors) if "mm_projector" in name}
    if kind == "linear":
        tensors |= {
            f"model.mm_projector.{part}": last[f"model.mm_projector.0.{part}"] for part in ("weight", "bias")
        }
    _write(folder, tensors, config)
    if kind == "identity":  # 64 wide features into a model 96 wide
        with pytest.raises(InputError, match="equal widths, not 64 and 96"):
            checkpoint.load(folder)
        return
    projector = checkpoint.load(folder).model.model.multi_modal_projector
    features = torch.randn(5, 64)
    expected = torch.nn.functional.linear(
        features, *(last[f"model.mm_projector.0.{p}"] for p in ("weight", "bias"))
    )
    torch.testing.assert_close(projector(features), expected)


def test_selected_layer_and_feature_follow_the_config(parts: Any) -> None:
    folder, tensors, config = parts()
    config |= {"mm_vision_select_layer": -3, "mm_vision_select_feature": "cls_patch"}
    _write(folder, tensors, config)
    model = checkpoint.load(folder).model
    pixels = torch.randn(2, 3, 56, 56)
    states = model.model.image_tower(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(model.encode_images(pixels), states[-3], rtol=0, atol=BIT_EQUAL)
    assert model.config.image_tokens == 17


@pytest.mark.parametrize("how", ["merged", "audio grid"])
def test_languagebind_variants(shared: Path, tmp_path: Path, how: str) -> None:
    """Un-merged LoRA in PEFT's newer names; an audio encoder whose grid is still CLIP's square one."""
    source = shared / "reference/languagebind_audio_lora"
    tensors, config = (
        load_file(source / "model.safetensors"),
        json.loads((source / "config.json").read_text()),
    )
    expected = checkpoint.load(source).model.vision_model
    if how == "merged":
        tensors = {
            (
                name.replace("_proj.", "_proj.base_layer.")
                if "self_attn" in name and "lora_" not in name
                else name
            ): t
            for name, t in tensors.items()
        }
    else:
        key = "vision_model.embeddings.position_embedding.weight"
        tensors[key] = torch.cat([tensors[key][:1], tensors[key][1:2].expand(16, -1)])
    (tmp_path / "pair").mkdir()
    _write(tmp_path / "pair", tensors, config)
    found = checkpoint.load(tmp_path / "pair").model.vision_model
    if how == "merged":
        for (name, ours), (_, theirs) in zip(
            found.named_parameters(), expected.named_parameters(), strict=True
        ):
            assert torch.equal(ours, theirs), name
    else:
        places = found.embeddings.position_embedding.weight
        assert places.shape == (11, 64)
        torch.testing.assert_close(places[1:], places[1:2].expand(10, -1))


def test_pickles_with_more_than_tensors_are_refused(parts: Any) -> None:
    folder, _, config = parts()
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"model.norm.weight": Path("x")}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="more than tensors and is refused"):
        checkpoint.load(folder)
