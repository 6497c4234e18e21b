"""Encoders to take or to begin alignment from: a folder of any format, or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.model.encoders import LanguageBind, LanguageBindVisionModel
from videollava.model.formats.hub import find_checkpoint

__all__ = ["load_encoder", "load_tower"]


def load_encoder(
    source: str | Path,
    modality: str = "",
    device: str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[LanguageBind, Any]:
    """A vision and text encoder pair of `modality` ("": of any), and its tokenizer (None where there is none)."""
    loaded = checkpoint.load(source, dtype, device)
    if not isinstance(loaded.model, LanguageBind):
        raise InputError(
            f"{source}: a {type(loaded.model).__name__}, without the text encoder that a pair needs: "
            "use it as a start for alignment (align.train: true), or name a LanguageBind folder"
        )
    found = loaded.model.config.vision_config.modality
    # Plain CLIP says image; what starts a depth or thermal encoder may come from it.
    if modality and found not in (modality, "image"):
        raise InputError(f"{source}: an encoder of {found}, where one of {modality} is needed")
    return loaded.model, loaded.tokenizer


def load_tower(source: str | Path) -> LanguageBindVisionModel:
    """The vision encoder alone: of a pair, of a vision model, of plain CLIP or OpenCLIP."""
    return checkpoint.load_tower(find_checkpoint(source))
