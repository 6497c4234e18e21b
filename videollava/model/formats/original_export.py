"""Exports to the original Video-LLaVA's layout: whole models, projectors alone, LoRA folders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videollava.errors import InputError
from videollava.model.encoders import LanguageBindVisionConfig
from videollava.model.formats.files import read_config, write_config
from videollava.model.formats.languagebind import NORM, SHAPE
from videollava.model.formats.lora import OTHERS, Adapter
from videollava.model.formats.original import LANGUAGE, SELECT
from videollava.model.video_llava import VideoLlavaConfig

__all__ = ["buffers", "export_adapter", "export_config", "export_projector", "from_ours"]

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}
# What may have changed since a model came from the original's layout.
TIED = "tie_word_embeddings"  # false where a config does not say
CHANGEABLE = ("vocab_size", TIED, "mm_projector_type", "mm_vision_select_layer")
PREFIX = "base_model.model."  # PEFT's, before every name of the base model
PROJECTOR = re.compile(r"^model\.multi_modal_projector\.linear_(\d+)\.(weight|bias)$")


def from_ours(tensors: Mapping[str, Tensor], config: VideoLlavaConfig) -> dict[str, Tensor]:
    """Weights under the original's names."""
    return {their_name(name, config.projector_type): tensor for name, tensor in tensors.items()}


def their_name(name: str, projector_type: str) -> str:
    """One name of ours as the original's."""
    if match := PROJECTOR.match(name):
        place = "" if projector_type == "linear" else f"{2 * (int(match[1]) - 1)}."
        return f"model.mm_projector.{place}{match[2]}"
    name = re.sub(r"^model\.(image|video)_tower\.", r"model.\1_tower.\1_tower.", name)
    return name.replace("model.language_model.", "model.", 1)


def buffers(config: VideoLlavaConfig) -> dict[str, Tensor]:
    """What the original's file held though it is computed: position ids and rotary frequencies, made anew."""
    saved: Mapping[str, str] = getattr(config, "original_buffers", {})
    language: Any = config.text_config
    made: dict[str, Tensor] = {}
    for name, dtype in saved.items():
        if name.endswith("inv_freq"):
            theta = float((getattr(language, "rope_parameters", None) or {}).get("rope_theta", 10000.0))
            width = (
                getattr(language, "head_dim", None) or language.hidden_size // language.num_attention_heads
            )
            made[name] = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width)
        else:
            tower: Any = config.vision_config if ".image_tower." in name else config.video_config
            made[name] = torch.arange(tower.patches + 1)[None]
        made[name] = made[name].to(TORCH[dtype])
    return made


def export_config(config: VideoLlavaConfig) -> dict[str, Any]:
    """config.json of the original's layout.

    One that came from there goes back as it was, but for changes since.
    """
    made = _make_config(config)
    kept: str | None = getattr(config, "original_config", None)
    if kept is None:
        return made
    given: dict[str, Any] = json.loads(kept)
    for name in CHANGEABLE:
        if name in made and given.get(name, made[name] if name != TIED else False) != made[name]:
            given[name] = made[name]
    for kind in config.towers:
        frames = _tower(config, kind).num_frames
        inline = given.get(f"{kind}_tower_config")
        if inline is not None and inline["vision_config"].get("num_frames", 1) != frames:
            inline["vision_config"]["num_frames"] = frames
    return given


def _make_config(config: VideoLlavaConfig) -> dict[str, Any]:
    language: Any = config.text_config
    if language.model_type != "llama":
        raise InputError(
            f"the original's layout holds Llama language models; this one is {language.model_type}"
        )
    theta, scaled = original_rope(language)
    text = {
        name: getattr(language, name) for name in LANGUAGE if hasattr(language, name) and "rope" not in name
    }
    towers = {f"{kind}_tower_config": tower_config(_tower(config, kind)) for kind in config.towers}
    names = {"image": "LanguageBind/LanguageBind_Image", "video": "LanguageBind/LanguageBind_Video_merge"}
    return {
        **text,
        "rope_theta": theta,
        "rope_scaling": scaled,
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_image_tower": names["image"] if "image" in config.towers else None,
        "mm_video_tower": names["video"] if "video" in config.towers else None,
        "mm_hidden_size": _tower(config, config.towers[0]).hidden_size,
        "mm_projector_type": config.projector_type,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": {ours: theirs for theirs, ours in SELECT.items()}[
            config.vision_feature_select_strategy
        ],
        "mm_vision_select_layer": config.vision_feature_layer,
        "torch_dtype": None,  # filled in with the weights' own
        "use_mm_proj": True,
        "tune_mm_mlp_adapter": False,
        **towers,
    }


def original_rope(language: Any) -> tuple[float, dict[str, Any] | None]:
    """rope_theta and rope_scaling as transformers 4 reads them; the original's release takes just type and factor."""
    rope = dict(getattr(language, "rope_parameters", None) or {})
    theta = float(rope.pop("rope_theta", 10000.0))
    kind = rope.pop("rope_type", "default")
    if kind == "default":
        return theta, None
    if kind in ("linear", "dynamic"):
        return theta, {"type": kind, "factor": rope["factor"]}
    return theta, {"rope_type": kind, **rope}


def _tower(config: VideoLlavaConfig, kind: str) -> LanguageBindVisionConfig:
    return config.vision_config if kind == "image" else config.video_config


def tower_config(tower: LanguageBindVisionConfig) -> dict[str, Any]:
    """An encoder's config as LanguageBind writes it, without the text encoder, which has no use here."""
    vision = {
        name: getattr(tower, name) for name in (*SHAPE, *NORM, "num_channels", "image_size", "patch_size")
    }
    return {
        "model_type": f"LanguageBind{tower.modality.capitalize()}",
        "projection_dim": tower.projection_dim,
        "vision_config": {
            **vision,
            "model_type": "clip_vision_model",
            "add_time_attn": tower.temporal_attention,
            "num_frames": tower.num_frames,
            "force_patch_dropout": tower.patch_dropout,
            "lora_r": 0,
            "lora_alpha": 16,
            "lora_dropout": 0.0,
            "num_mel_bins": 0.0,
            "target_length": 0.0,
        },
    }


def export_projector(weights: Mapping[str, Tensor], projector_type: str, folder: Path) -> None:
    """mm_projector.bin, from weights named `linear_1.weight` and on."""
    named = {their_name(f"model.multi_modal_projector.{n}", projector_type): t for n, t in weights.items()}
    torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()},
        folder / "mm_projector.bin",
    )


def export_adapter(adapter: Adapter, source: Path, config: VideoLlavaConfig, folder: Path) -> None:
    """An un-merged LoRA folder as the original's: adapter_model.bin, non_lora_trainables.bin, configs.

    adapter: in our names.
    """
    theirs = adapter.renamed(lambda name: their_name(name, config.projector_type))
    embedded = [name for name in theirs.pairs if name.endswith("embed_tokens")]
    if embedded:
        raise InputError(
            f"{source}: LoRA of the embedding table is not exported to the original: merge it first"
        )
    pairs = {
        f"{PREFIX}{name}.lora_{side}.weight": tensor.contiguous()
        for name, pair in theirs.pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    whole = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in theirs.whole.items()}
    torch.save(pairs, folder / "adapter_model.bin")
    torch.save(whole, folder / OTHERS)
    given = read_config(source, "adapter_config.json")
    # The original's LoRA lies on the language model's modules by their last names, and saves the projector
    # apart.
    targets = sorted({name.rsplit(".", 1)[-1] for name in theirs.pairs})
    write_config({**given, "target_modules": targets, "modules_to_save": None}, folder, "adapter_config.json")
    write_config(export_config(config), folder)
