"""A whole Video-LLaVA to go on from, taken apart: what `bases.model` brings to each stage.

Its language model and tokenizer go where `pretrain` and `finetune` look for a base (models/bases/language), its
encoders and its projector to models/given, where `align` and `pretrain` take them. Weights keep their type.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from videollava import params
from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.model.config import model_config
from videollava.model.formats.detect import open_checkpoint
from videollava.model.video_llava import VideoLlavaConfig
from videollava.origin import Origin
from videollava.params import Params
from videollava.train.assemble import save_projector

__all__ = ["take_apart"]

# Fields of a config of ours, and what params.yaml calls them.
TOWER = {
    "image_size": "model.image_size",
    "patch_size": "model.patch_size",
    "hidden_size": "model.vision.width",
    "num_hidden_layers": "model.vision.layers",
    "num_attention_heads": "model.vision.heads",
    "intermediate_size": "model.vision.mlp",
}
CLIP = {"num_frames": "model.frames", "temporal_attention": "model.temporal_attention"}
WHOLE = {"vision_feature_layer": "model.feature_layer"}
# What no parameter says: one kind alone is trained here.
FIXED = ("projector_type", "projector_hidden_act", "vision_feature_select_strategy")


def take_apart(origin: Origin, params: Params, tokenizer: Path, models: Path) -> None:
    """Write the model's parts below `models`. tokenizer: the folder of the one that the data were counted with.

    InputError where the folder holds no whole Video-LLaVA, or one that `params.model` does not describe.
    """
    config = open_checkpoint(origin.folder).config
    if not isinstance(config, VideoLlavaConfig):
        raise InputError(
            f"bases.model: {origin.name} holds no whole Video-LLaVA (its model_type is {config.model_type}): a "
            "language model goes into bases.language, encoders into bases.image_encoder and bases.video_encoder"
        )
    _check_geometry(origin.name, config, params.model)
    loaded = checkpoint.load(origin.folder)
    if loaded.tokenizer is None:
        raise InputError(f"bases.model: {origin.name} has no tokenizer; name a model that was saved whole")
    model = loaded.model
    _check_tokenizer(origin.name, loaded.tokenizer, tokenizer, int(model.config.text_config.vocab_size))
    language = _language_of(model)
    language.save_pretrained(models / "bases/language")
    loaded.tokenizer.save_pretrained(models / "bases/language")
    for kind in ("image", "video"):
        checkpoint.save(getattr(model.model, f"{kind}_tower"), None, models / "given/encoders" / kind)
    save_projector(model, models / "given/projector")


def _check_geometry(name: str, found: VideoLlavaConfig, shape: params.Model) -> None:
    """InputError that lists every parameter in whose place the model has another value."""
    expected = model_config(shape, found.text_config)
    if set(found.towers) != set(expected.towers):
        raise InputError(
            f"bases.model: {name} has the encoder of {' and '.join(found.towers)} alone: training here needs both"
        )
    told = dict(_differences(found, expected))
    if told:
        listed = ", ".join(f"{key}={value}" for key, value in told.items())
        raise InputError(
            f"bases.model: {name} has another geometry than params.yaml; set {listed} (and `index` counts anew)"
        )
    for field in FIXED:
        theirs, ours = (str(getattr(config, field)) for config in (found, expected))
        if theirs != ours:
            raise InputError(
                f"bases.model: {name} has {field} {theirs}, and training here knows {ours} alone: it can be asked "
                "and evaluated, not gone on from"
            )


def _differences(found: VideoLlavaConfig, expected: VideoLlavaConfig) -> Iterator[tuple[str, Any]]:
    parts = (("vision_config", TOWER), ("video_config", {**TOWER, **CLIP}))
    for part, names in parts:
        yield from _differing(getattr(found, part), getattr(expected, part), names)
    yield from _differing(found, expected, WHOLE)


def _differing(found: Any, expected: Any, names: dict[str, str]) -> Iterator[tuple[str, Any]]:
    for field, parameter in names.items():
        if getattr(found, field) != getattr(expected, field):
            yield parameter, _as_yaml(getattr(found, field))


def _as_yaml(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _check_tokenizer(name: str, theirs: Any, folder: Path, rows: int) -> None:
    """Lengths and cuts were counted with the tokenizer in `folder`. rows: of the table; tokens past them stand for
    media (transformers' layout has them), and no text has those.
    """
    known = [
        {token: number for token, number in one.get_vocab().items() if number < rows}
        for one in (checkpoint.load_tokenizer(folder), theirs)
    ]
    if known[0] != known[1]:
        raise InputError(
            f"bases.model: {name} has another vocabulary than the data were counted with: set index.tokenizer to the "
            "model's own (a folder, a hub id or models:/NAME@champion, as bases.model has it)"
        )


def _language_of(model: Any) -> Any:
    """The causal language model inside, sharing its weights."""
    from transformers import AutoModelForCausalLM

    config = model.config.text_config
    config.tie_word_embeddings = model.lm_head.weight is model.get_input_embeddings().weight
    with torch.device("meta"):
        language = AutoModelForCausalLM.from_config(config)
    language.model, language.lm_head = model.model.language_model, model.lm_head
    language.config.dtype = model.lm_head.weight.dtype
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(language.generation_config, token, getattr(model.generation_config, token))
    return language
