"""The original LanguageBind folders: an encoder pair of one modality, LoRA merged or not.

Original: github.com/PKU-YuanGroup/LanguageBind. Its key names are ours but for what PEFT put into them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from videollava.data.modalities import KINDS
from videollava.errors import InputError
from videollava.model.encoders import (
    LanguageBindConfig,
    LanguageBindTextConfig,
    LanguageBindVisionConfig,
    resize_positions,
)
from videollava.model.formats.files import find_weights
from videollava.model.formats.lora import merge_inline

__all__ = ["frames_first", "is_languagebind", "pair_config", "read_pair", "read_tower", "vision_config"]

log = logging.getLogger(__name__)

POSITIONS = "embeddings.position_embedding.weight"
SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "projection_dim")
NORM = ("hidden_act", "layer_norm_eps", "attention_dropout", "initializer_range", "initializer_factor")
VISION = (*SHAPE, *NORM, "num_channels", "image_size", "patch_size")
TEXT = (
    *SHAPE,
    *NORM,
    "vocab_size",
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
CLIP_ACTIVATION = "quick_gelu"  # what the original takes where its config does not say


def is_languagebind(config: Mapping[str, Any]) -> bool:
    """Whether config.json is one of the original LanguageBind's."""
    return str(config.get("model_type", "")).startswith("LanguageBind")


def modality(config: Mapping[str, Any]) -> str:
    """image, video, depth, thermal or audio, from model_type."""
    name = str(config.get("model_type", "")).removeprefix("LanguageBind").lower()
    if name not in KINDS:
        raise InputError(f"model_type {config.get('model_type')!r}: expected LanguageBind + one of {KINDS}")
    return name


def vision_config(config: Mapping[str, Any]) -> LanguageBindVisionConfig:
    """Our vision config of an original config.json (the whole one, or its vision_config)."""
    vision = config.get("vision_config", config)
    kind = modality(config) if is_languagebind(config) else "image"
    given = _pick(vision, VISION)
    # The original widens the audio encoder's grid from these two.
    if vision.get("num_mel_bins") and vision.get("target_length"):
        given["image_size"] = [int(vision["num_mel_bins"]), int(vision["target_length"])]
    return LanguageBindVisionConfig(
        modality=kind,
        temporal_attention=bool(vision.get("add_time_attn", False)),
        num_frames=int(vision.get("num_frames", 1)),
        patch_dropout=float(vision.get("force_patch_dropout", 0.0)),
        **given,
    )


def pair_config(config: Mapping[str, Any]) -> LanguageBindConfig:
    """Our config of an original pair's config.json."""
    return LanguageBindConfig(
        vision_config=vision_config(config),
        text_config=LanguageBindTextConfig(pooling="highest", **_pick(config["text_config"], TEXT)),
        projection_dim=int(config["projection_dim"]),
        logit_scale_init_value=float(config.get("logit_scale_init_value", 2.6592)),
    )


def _pick(config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {"hidden_act": CLIP_ACTIVATION, **{name: config[name] for name in names if name in config}}


def read_pair(folder: Path, config: Mapping[str, Any]) -> tuple[LanguageBindConfig, dict[str, Tensor]]:
    """Config and weights of a pair, in our names."""
    ours = pair_config(config)
    tensors = convert_pair(find_weights(folder).read(), config)
    tower = {n.removeprefix("vision_model."): t for n, t in tensors.items() if n.startswith("vision_model.")}
    fit_positions(tower, ours.vision_config)
    return ours, {**tensors, **{f"vision_model.{name}": tensor for name, tensor in tower.items()}}


def read_tower(folder: Path, config: Mapping[str, Any]) -> tuple[LanguageBindVisionConfig, dict[str, Tensor]]:
    """Config and weights of the vision encoder alone, in our names."""
    ours = vision_config(config)
    tensors = {
        name.removeprefix("vision_model."): tensor
        for name, tensor in find_weights(folder).read().items()
        if not name.startswith(("text_model.", "text_projection.", "visual_projection.", "logit_scale"))
    }
    return ours, convert_tower(tensors, config, ours)


def convert_pair(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Original names to ours: LoRA merged, buffers that are made anew left out."""
    return merge_inline(_weights(tensors), _alpha(config.get("vision_config", config)))


def convert_tower(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], ours: LanguageBindVisionConfig
) -> dict[str, Tensor]:
    """As convert_pair, for names that start at the vision encoder."""
    # merge_inline looks for PEFT's words after a dot.
    dotted = merge_inline(
        {f".{n}": t for n, t in _weights(tensors).items()}, _alpha(config.get("vision_config", config))
    )
    tower = {name.removeprefix("."): tensor for name, tensor in dotted.items()}
    fit_positions(tower, ours)
    return tower


def fit_positions(tower: dict[str, Tensor], config: LanguageBindVisionConfig) -> None:
    """Interpolate a square position grid to the config's, as the original does for audio."""
    weight = tower.get(POSITIONS)
    if weight is None or weight.shape[0] == config.patches + 1:
        return
    side = math.isqrt(weight.shape[0] - 1)
    if side * side != weight.shape[0] - 1:
        return  # not a grid this could be made from: the check of shapes reports it
    log.warning("position embeddings of a %dx%d grid are interpolated to %dx%d", side, side, *config.grid)
    tower[POSITIONS] = resize_positions(weight, (side, side), config.grid)


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("embeddings.position_ids")}


def _alpha(vision: Mapping[str, Any]) -> float:
    return float(vision.get("lora_alpha", 16))


def frames_first(pixels: Tensor) -> Tensor:
    """The original's clips (..., C, T, H, W) as ours (..., T, C, H, W)."""
    return pixels.transpose(-3, -4)
