"""The model without its weights, and how many of them learn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from videollava.params import Params, Train
from videollava.train.memory import Weights

__all__ = ["model_of", "shape_of", "weights_of"]


def model_of(params: Params, workspace: Path) -> Any:
    """The model on no device."""
    from videollava.model.config import read_language
    from videollava.model.formats.files import read_config
    from videollava.model.video_llava import language_config, model_config

    folder = workspace / "models/bases/language"
    if (folder / "config.json").is_file():
        text = read_language(read_config(folder))
    else:
        text = language_config(params.model.language, _vocabulary(params, workspace))
    return shape_of(model_config(params.model, text))


def shape_of(config: Any) -> Any:
    """The model of this configuration, on no device."""
    import torch

    from videollava.model.video_llava import VideoLlavaForConditionalGeneration

    with torch.device("meta"):
        return VideoLlavaForConditionalGeneration(config)


def weights_of(model: Any, settings: Train, language_learns: bool) -> Weights:
    """What a stage's learns and what does not, and how it is gathered where weights are sharded."""
    from torch import nn

    from videollava.train.adapters import TARGETS

    language, projector = model.model.language_model, model.model.multi_modal_projector
    tied = model.config.tie_word_embeddings
    head = 0 if tied else model.lm_head.weight.numel()
    every, inside = _count(model), _count(language) + head
    shape = {
        "whole": every - inside - _count(projector),
        "layer": _count(language.layers[0]),
        "head": head,
        "table": language.embed_tokens.weight.numel(),
    }
    if not language_learns:
        return Weights(_count(projector), every - _count(projector), **shape)
    if settings.adapter == "none":
        return Weights(inside + _count(projector), shape["whole"], **shape)
    linear = [
        m for name, m in model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(TARGETS, name)
    ]
    low_rank = settings.lora.r * sum(m.in_features + m.out_features for m in linear)
    quantized = sum(m.weight.numel() for m in linear) if settings.adapter == "qlora" else 0
    # The projector learns as a copy beside its frozen original.
    return Weights(low_rank + _count(projector), every, quantized, **shape)


def _count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _vocabulary(params: Params, workspace: Path) -> int:
    folder = workspace / "data/index/tokenizer"
    if folder.is_dir():
        from transformers import AutoTokenizer

        return len(AutoTokenizer.from_pretrained(folder))
    return params.index.vocab_size if params.index.tokenizer == "train" else 32_000  # Llama 2, Vicuna
