"""transformers' own Video-LLaVA layout (the hub's `-hf` folders), read and written.

It has no temporal attention: its video encoder is the image one, run on every frame alone. So a model of ours
goes there only without temporal attention, and what comes from there sees motion in the language model alone.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN as CLIP_MEAN
from transformers.image_utils import OPENAI_CLIP_STD as CLIP_STD

from videollava.errors import InputError
from videollava.model.config import VideoLlavaConfig, choose, read_language
from videollava.model.formats.clip import clip_vision_config
from videollava.model.formats.files import Weights, find_weights, read_config, write_config
from videollava.model.formats.tables import HEAD, TABLE, Tables, open_tables, say_tied

__all__ = ["Source", "export_config", "find_obstacle", "from_ours", "open_source", "write_processor"]

log = logging.getLogger(__name__)

KEPT = "videollava"  # the key of a config of ours inside an exported one
CLIP = (
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
    "initializer_factor",
)
# What somebody may have changed in an export of ours, in the whole model's config and in its language model's.
WRITTEN = (
    "image_token_index",
    "video_token_index",
    "image_token_id",
    "video_token_id",
    "vision_feature_layer",
    "vision_feature_select_strategy",
    "projector_hidden_act",
)
SPOKEN = (
    "vocab_size",
    "rope_parameters",
    "rms_norm_eps",
    "hidden_act",
    "max_position_embeddings",
    "eos_token_id",
)
# What old releases saved though it is computed.
COMPUTED = ("embeddings.position_ids", "rotary_emb.inv_freq")
# Every way transformers has saved it: older releases, and newer ones without going back to the older names.
RENAMES = (
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
    (re.compile(r"^(?:model\.)?language_model\.(?:model\.)?"), "model.language_model."),
    (re.compile(r"^(?:model\.)?(image|video)_tower\.(?:vision_model\.)?"), r"model.\1_tower."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\."), "model.multi_modal_projector."),
)


@dataclass(frozen=True)
class Source:
    """A transformers checkpoint; `shards` gives the weights under our names."""

    config: VideoLlavaConfig
    main: Weights
    tables: Tables
    tokenizer: Path | None

    def shards(self) -> Iterator[dict[str, Tensor]]:
        rows = int(self.config.text_config.vocab_size)
        for tensors in self.main.shards():
            renamed = {rename(n): t for n, t in tensors.items() if not n.endswith(COMPUTED)}
            yield self.tables.arrange({n: t[:rows] if n in (TABLE, HEAD) else t for n, t in renamed.items()})


def rename(name: str) -> str:
    """A name of transformers' as ours."""
    for pattern, ours in RENAMES:
        name, found = pattern.subn(ours, name)
        if found:
            return name
    return name


def open_source(folder: Path) -> Source:
    """Open a folder of transformers' VideoLlavaForConditionalGeneration."""
    config = read_config(folder)
    ours = ours_config(config)
    if KEPT not in config:
        log.warning(
            "%s is transformers' port of Video-LLaVA, which drops the video encoder's temporal attention: "
            "frames are "
            "encoded one by one, so motion is seen by the language model alone and video answers fall behind "
            "the "
            "original's. Load the original checkpoint (LanguageBind/Video-LLaVA-7B) for those",
            folder,
        )
    main = find_weights(folder)
    _take_rows(ours, main, folder)
    return Source(ours, main, open_tables(ours, main, rename), folder)


def _take_rows(ours: VideoLlavaConfig, main: Weights, folder: Path) -> None:
    """The vocabulary that the weights have, where text_config was left behind when tokens were added."""
    rows = {spec[1][0] for name, spec in main.specs().items() if rename(name) in (TABLE, HEAD)}
    said = int(ours.text_config.vocab_size)
    known = {said} if hasattr(ours, "transformers_config") else {said, extended_rows(ours)}
    if len(rows) != 1 or rows <= known:
        return
    found = rows.pop()
    log.warning(
        "%s: config.json says vocab_size %d, its weights have %d rows: the weights hold", folder, said, found
    )
    ours.text_config.vocab_size = found


def ours_config(config: Mapping[str, Any]) -> VideoLlavaConfig:
    """Our config of theirs; one that we exported comes back as it was, unless it was changed there."""
    if KEPT in config:
        kept = VideoLlavaConfig(**{k: v for k, v in config[KEPT].items() if k != "model_type"})
        parts = (config, config.get("text_config") or {})
        say_tied(kept, kept.tie_word_embeddings or any(part.get("tie_word_embeddings") for part in parts))
        if not _find_changes(config, kept):
            return kept
    if config.get("multimodal_projector_bias") is False:
        raise InputError("multimodal_projector_bias: false: a projector without biases has no place here")
    language = read_language(config.get("text_config") or {})
    vision = clip_vision_config({"hidden_size": 1024, **_L14, **(config.get("vision_config") or {})})
    video = clip_vision_config({"hidden_size": 1024, **_L14, **(config.get("vision_config") or {})})
    video.modality = "video"
    video.num_frames = config.get("video_seq_length", 8 * (video.patches + 1)) // (video.patches + 1)
    return VideoLlavaConfig(
        vision_config=vision,
        video_config=video,
        text_config=language,
        image_token_index=choose(config, "image_token_index", "image_token_id") or 32000,
        video_token_index=choose(config, "video_token_index", "video_token_id") or 32001,
        projector_hidden_act=config.get("projector_hidden_act", "gelu"),
        vision_feature_layer=config.get("vision_feature_layer", -2),
        vision_feature_select_strategy=config.get("vision_feature_select_strategy", "default"),
        tie_word_embeddings=config.get("tie_word_embeddings") or False,
        transformers_config=json.dumps({name: value for name, value in config.items() if name != KEPT}),
    )


def _find_changes(config: Mapping[str, Any], kept: VideoLlavaConfig) -> list[str]:
    """What transformers' part of an export of ours says otherwise than our own config inside it."""
    exported = export_config(kept)
    found, was = (read_language(part["text_config"]).to_dict() for part in (config, exported))
    for kind in ("image", "video"):
        exported[f"{kind}_token_id"] = exported[f"{kind}_token_index"]
    changed = [name for name in WRITTEN if name in config and config[name] != exported[name]]
    return changed + [name for name in SPOKEN if found.get(name) != was.get(name)]


# What transformers takes where a config leaves the encoder out.
_L14 = {
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
}


def find_obstacle(config: VideoLlavaConfig) -> str:
    """Why transformers' class cannot hold this model, or ""."""
    image, video = config.vision_config, config.video_config
    if tuple(config.towers) != ("image", "video"):
        return (
            f"transformers' Video-LLaVA needs both encoders, this model has {', '.join(config.towers)} alone"
        )
    if video.temporal_attention:
        return (
            "this model's video encoder has temporal attention, for which transformers' Video-LLaVA has no "
            "place: "
            "there it would be lost in silence, and video answers with it"
        )
    if any(getattr(image, name) != getattr(video, name) for name in CLIP):
        return "transformers' Video-LLaVA has one shape for both encoders, and these differ"
    if config.projector_type != "mlp2x_gelu":
        return f"transformers' projector is mlp2x_gelu, this one is {config.projector_type}"
    return ""


def export_config(config: VideoLlavaConfig) -> dict[str, Any]:
    """config.json for transformers' VideoLlavaForConditionalGeneration, which must be able to hold it."""
    kept: str | None = getattr(config, "transformers_config", None)
    if kept is not None:
        return _give_back(json.loads(kept), config)
    vision = {name: getattr(config.vision_config, name) for name in CLIP}
    text = {**config.text_config.to_dict(), "vocab_size": extended_rows(config)}
    if rope := dict(text.get("rope_parameters") or {}):
        # In both forms: transformers 4 reads these two, 5 the rope_parameters beside them.
        text["rope_theta"] = rope.pop("rope_theta", None)
        text["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
    return {
        "model_type": "video_llava",
        "architectures": ["VideoLlavaForConditionalGeneration"],
        "vision_config": {**vision, "model_type": "clip_vision_model"},
        "text_config": text,
        "image_token_index": config.image_token_index,
        "video_token_index": config.video_token_index,
        "image_seq_length": config.image_tokens,
        "video_seq_length": config.video_tokens(),
        "projector_hidden_act": config.projector_hidden_act,
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "tie_word_embeddings": config.tie_word_embeddings,
        "multimodal_projector_bias": True,
        "dtype": None,  # filled in with the weights' own
        KEPT: config.to_dict(),
    }


def _give_back(given: dict[str, Any], config: VideoLlavaConfig) -> dict[str, Any]:
    """The config that a model came with, but for what has changed since or was not true of its weights."""
    text = dict(given.get("text_config") or {})
    rows, tied = extended_rows(config), config.tie_word_embeddings
    if text.get("vocab_size", rows) != rows:
        text["vocab_size"] = rows
    if tied != bool(given.get("tie_word_embeddings")) or tied != bool(text.get("tie_word_embeddings")):
        given = {**given, "tie_word_embeddings": tied}
        text["tie_word_embeddings"] = tied
    if "video_seq_length" in given:
        given["video_seq_length"] = config.video_tokens()
    return {**given, "text_config": text} if text else given


def extended_rows(config: VideoLlavaConfig) -> int:
    """Rows of the embedding table with the placeholders inside it, as transformers needs them."""
    return max(config.text_config.vocab_size, config.image_token_index + 1, config.video_token_index + 1)


def from_ours(tensors: Mapping[str, Tensor], config: VideoLlavaConfig) -> dict[str, Tensor]:
    """Weights of ours under the hub layout's names, the tables widened to hold the placeholders."""
    rows = extended_rows(config)
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in (TABLE, HEAD) and len(tensor) < rows:
            # Copies of row 0: never looked up, and never a better next token than row 0 itself.
            tensor = torch.cat([tensor, tensor[:1].expand(rows - len(tensor), -1)])
        renamed[_their_name(name)] = tensor
    return renamed


def _their_name(name: str) -> str:
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return re.sub(r"^(image|video)_tower\.", r"\1_tower.vision_model.", name)


def write_processor(config: VideoLlavaConfig, tokenizer: Any, folder: Path) -> None:
    """Preprocessing and tokenizer as transformers' VideoLlavaProcessor reads them."""
    height, width = config.vision_config.size
    frames = {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": min(height, width)},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "processor_class": "VideoLlavaProcessor",
    }
    write_config(
        {**frames, "image_processor_type": "VideoLlavaImageProcessor"}, folder, "preprocessor_config.json"
    )
    write_config(
        {**frames, "video_processor_type": "VideoLlavaVideoProcessor"},
        folder,
        "video_preprocessor_config.json",
    )
    write_config(
        {
            "processor_class": "VideoLlavaProcessor",
            "patch_size": config.vision_config.patch_size,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "num_additional_image_tokens": 1,
            "image_token": "<image>",
            "video_token": "<video>",
        },
        folder,
        "processor_config.json",
    )
    if tokenizer is not None:
        _add_placeholders(tokenizer, config)
        tokenizer.save_pretrained(folder)


def _add_placeholders(tokenizer: Any, config: VideoLlavaConfig) -> None:
    wanted = {"<image>": config.image_token_id, "<video>": config.video_token_id}
    if {mark: tokenizer.convert_tokens_to_ids(mark) for mark in wanted} == wanted:
        return
    if len(tokenizer) != config.image_token_id:
        log.warning(
            "the tokenizer has %d ids, the model's placeholders start at %d: <image> and <video> are not "
            "added to it; "
            "write placeholder ids yourself",
            len(tokenizer),
            config.image_token_id,
        )
        return
    tokenizer.add_special_tokens({"additional_special_tokens": list(wanted)})
