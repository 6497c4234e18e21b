"""Vision encoders wherever they come from: LanguageBind, CLIP and OpenCLIP folders, and our own."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from videollava.errors import InputError
from videollava.model.encoders import LanguageBindVisionConfig
from videollava.model.formats import clip, languagebind
from videollava.model.formats.files import Spec, find_weights, read_config

__all__ = ["known_tower", "read_tower_from"]

log = logging.getLogger(__name__)

# ViT-L/14 of OpenCLIP, from which LanguageBind starts; published checkpoints name it and hold its weights.
VIT_L14 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "gelu",
}


def read_tower_from(folder: Path, weights: bool = True) -> tuple[LanguageBindVisionConfig, dict[str, Tensor]]:
    """Config and weights (our names, from the encoder's root) of the vision encoder in `folder`."""
    if clip.is_openclip(folder):
        return clip.read_openclip_tower(folder, weights)
    config = read_config(folder)
    if languagebind.is_languagebind(config):
        return (
            languagebind.read_tower(folder, config) if weights else (languagebind.vision_config(config), {})
        )
    if clip.is_clip(config):
        return clip.read_clip_tower(folder, config, weights)
    if config.get("model_type") in ("languagebind", "languagebind_vision"):
        return _read_ours(folder, config, weights)
    raise InputError(
        f"{folder}: model_type {config.get('model_type')!r} is no vision encoder this release reads"
    )


def _read_ours(
    folder: Path, config: Mapping[str, Any], weights: bool
) -> tuple[LanguageBindVisionConfig, dict[str, Tensor]]:
    pair = config["model_type"] == "languagebind"
    given = {k: v for k, v in (config["vision_config"] if pair else config).items() if k != "model_type"}
    shape = LanguageBindVisionConfig(**given)
    if not weights:
        return shape, {}
    prefix = "vision_model." if pair else ""
    tensors = find_weights(folder).read()
    return shape, {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def known_tower(name: str, specs: Mapping[str, Spec]) -> LanguageBindVisionConfig:
    """The config of an encoder known by its weights alone: sizes from their shapes, the rest as published."""
    specs = {
        key.replace(".base_model.model.", ".").replace("encoder.base_model.model.", "encoder."): s
        for key, s in specs.items()
    }
    width, channels, patch, _ = specs["embeddings.patch_embedding.weight"][1]
    side = math.isqrt(specs["embeddings.position_embedding.weight"][1][0] - 1)
    layers = 1 + max(int(m[1]) for key in specs if (m := re.match(r"encoder\.layers\.(\d+)\.", key)))
    time = specs.get("encoder.layers.0.temporal_embedding")
    mlp = next(
        spec[1][0]
        for key, spec in specs.items()
        if re.fullmatch(r"encoder\.layers\.0\.mlp\.fc1(\.base_layer)?\.weight", key)
    )
    found = {
        **VIT_L14,
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": side * patch,
        "num_hidden_layers": layers,
        "intermediate_size": mlp,
        "num_attention_heads": max(1, width // 64),
    }
    if any(found[key] != value for key, value in VIT_L14.items()):
        log.warning(
            "%s: no config of this encoder is here; its sizes are read from its weights, and heads of 64 and "
            "gelu are "
            "assumed: put its LanguageBind folder beside the checkpoint if they differ",
            name,
        )
    video = "video" in name.lower()
    frames = time[1][1] if time else (8 if video else 1)
    return LanguageBindVisionConfig(temporal_attention=time is not None, num_frames=frames, **found)
