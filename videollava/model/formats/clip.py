"""Plain CLIP (transformers) and OpenCLIP weights, as a start for alignment."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.models.clip.configuration_clip import CLIPVisionConfig

from videollava.errors import InputError
from videollava.model.encoders import LanguageBindConfig, LanguageBindTextConfig, LanguageBindVisionConfig
from videollava.model.formats.files import find_weights, read_config
from videollava.model.formats.languagebind import TEXT, VISION

__all__ = [
    "clip_vision_config",
    "holds_clip_words",
    "is_clip",
    "is_openclip",
    "open_clip_pair",
    "open_openclip",
    "read_clip_tower",
    "read_openclip_tower",
]

OPENCLIP_CONFIG = "open_clip_config.json"
OPENCLIP_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
DROPPED = re.compile(r"(^|\.)(position_ids|attn_mask)$")
# OpenCLIP's block names -> CLIP's.
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
VISUAL = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
TEXTUAL = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


def is_clip(config: Mapping[str, Any]) -> bool:
    """Whether config.json is transformers' CLIP, whole or the vision part."""
    return config.get("model_type") in ("clip", "clip_vision_model")


def is_openclip(folder: Path) -> bool:
    return (folder / OPENCLIP_CONFIG).is_file() and not (folder / "config.json").is_file()


def holds_clip_words(folder: Path) -> bool:
    """Whether a folder's tokenizer is CLIP's: its two files, and a config that names no other class.

    LanguageBind's classes are CLIP's under other names, which transformers does not know.
    """
    if not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        return False
    file = folder / "tokenizer_config.json"
    named = str(read_config(folder, file.name).get("tokenizer_class") or "") if file.is_file() else ""
    model = read_config(folder).get("model_type", "") if (folder / "config.json").is_file() else "clip"
    ours = str(model).startswith("LanguageBind") or is_clip({"model_type": model})
    return named.startswith(("CLIP", "LanguageBind")) or (not named and ours)


def read_clip_tower(
    folder: Path, config: Mapping[str, Any], weights: bool = True
) -> tuple[LanguageBindVisionConfig, dict[str, Tensor]]:
    """The vision encoder of a transformers CLIP folder."""
    return clip_vision_config(config), _tower_of(_clip_weights(folder)) if weights else {}


def open_clip_pair(
    folder: Path, config: Mapping[str, Any]
) -> tuple[LanguageBindConfig, Callable[[], dict[str, Tensor]]]:
    """Both encoders and their projections of a transformers CLIPModel folder."""
    text = {name: config["text_config"][name] for name in TEXT if name in config["text_config"]}
    shape = LanguageBindConfig(
        vision_config=clip_vision_config(config),
        text_config=LanguageBindTextConfig(pooling="highest", **{"hidden_act": "quick_gelu", **text}),
        projection_dim=config["projection_dim"],
    )
    return shape, lambda: _clip_weights(folder)


def clip_vision_config(config: Mapping[str, Any]) -> LanguageBindVisionConfig:
    """Our config of a CLIP config.json or its vision part; where it is silent, CLIP's defaults hold."""
    vision = config.get("vision_config", config)
    shape = CLIPVisionConfig(**{name: vision[name] for name in VISION if name in vision})
    return LanguageBindVisionConfig(**{name: getattr(shape, name) for name in VISION})


def _clip_weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in find_weights(folder).read().items() if not DROPPED.search(name)}


def _tower_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not any(name.startswith("vision_model.") for name in tensors):
        return dict(tensors)
    return {n.removeprefix("vision_model."): t for n, t in tensors.items() if n.startswith("vision_model.")}


def read_openclip_tower(
    folder: Path, weights: bool = True
) -> tuple[LanguageBindVisionConfig, dict[str, Tensor]]:
    """The vision encoder of an OpenCLIP folder."""
    shape = _openclip_config(folder).vision_config
    return shape, _tower_of(_openclip_weights(folder)) if weights else {}


def open_openclip(folder: Path) -> tuple[LanguageBindConfig, Callable[[], dict[str, Tensor]]]:
    """Both encoders and their projections of an OpenCLIP folder."""
    return _openclip_config(folder), lambda: _openclip_weights(folder)


def _openclip_config(folder: Path) -> LanguageBindConfig:
    given = read_config(folder, OPENCLIP_CONFIG).get("model_cfg", {})
    vision, text = given.get("vision_cfg", {}), given.get("text_cfg", {})
    if "timm_model_name" in vision or "hf_model_name" in text or isinstance(vision.get("layers"), list):
        raise InputError(f"{folder}: this OpenCLIP model is no plain vision transformer pair; use a ViT one")
    act = "quick_gelu" if given.get("quick_gelu") else "gelu"
    width, dim = int(vision["width"]), int(given["embed_dim"])
    text_width = int(text["width"])
    return LanguageBindConfig(
        vision_config=LanguageBindVisionConfig(
            hidden_size=width,
            intermediate_size=int(width * vision.get("mlp_ratio", 4)),
            num_hidden_layers=int(vision["layers"]),
            num_attention_heads=width // int(vision.get("head_width", 64)),
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            projection_dim=dim,
            hidden_act=act,
        ),
        text_config=LanguageBindTextConfig(
            vocab_size=int(text["vocab_size"]),
            hidden_size=text_width,
            intermediate_size=4 * text_width,
            num_hidden_layers=int(text["layers"]),
            num_attention_heads=int(text["heads"]),
            max_position_embeddings=int(text["context_length"]),
            projection_dim=dim,
            hidden_act=act,
            pooling="highest",
        ),
        projection_dim=dim,
    )


def _openclip_weights(folder: Path) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in find_weights(folder, OPENCLIP_FILES).read().items():
        if not DROPPED.search(name):
            renamed.update(_rename_openclip(name.removeprefix("text."), tensor))
    return renamed


def _rename_openclip(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name == "logit_scale":
        return {name: tensor}
    if name in (
        "visual.proj",
        "text_projection",
    ):  # applied from the right: a Linear's weight is its transpose
        return {f"{'visual' if name[0] == 'v' else 'text'}_projection.weight": tensor.T.contiguous()}
    root, table = ("vision_model", VISUAL) if name.startswith("visual.") else ("text_model", TEXTUAL)
    name = name.removeprefix("visual.")
    if name in table:
        return {f"{root}.{table[name]}": tensor}
    match = re.match(
        r"transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)$",
        name.replace("_weight", ".weight").replace("_bias", ".bias"),
    )
    if match is None:
        return {name: tensor}  # nothing of ours: the check of names reports it
    layer, part, kind = f"{root}.encoder.layers.{match[1]}", match[2], match[3]
    if part == "attn.in_proj":
        return {
            f"{layer}.self_attn.{n}_proj.{kind}": t.clone()
            for n, t in zip("qkv", tensor.chunk(3), strict=True)
        }
    return {f"{layer}.{BLOCK.get(part, part)}.{kind}": tensor}
