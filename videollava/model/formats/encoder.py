"""Encoder pairs to take or to begin alignment from: a folder of any format, or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.model.encoders import LanguageBind, LanguageBindVisionModel
from videollava.model.formats.towers import locate

__all__ = ["find_encoder", "load_encoder", "load_tower"]


def load_encoder(source: str | Path, modality: str) -> tuple[LanguageBind, Any]:
    """A vision and text encoder pair of `modality`, and its tokenizer (None where there is none)."""
    folder = find_encoder(source)
    loaded = checkpoint.load(folder)
    if not isinstance(loaded.model, LanguageBind):
        raise InputError(
            f"{source}: a {type(loaded.model).__name__}, without the text encoder that a pair needs: "
            "use it as a start for alignment (align.train: true), or name a LanguageBind folder"
        )
    found = loaded.model.config.vision_config.modality
    # Plain CLIP says image; what starts a depth or thermal encoder may come from it.
    if found not in (modality, "image"):
        raise InputError(f"{source}: an encoder of {found}, where one of {modality} is needed")
    return loaded.model, loaded.tokenizer


def load_tower(source: str | Path) -> LanguageBindVisionModel:
    """The vision encoder alone: of a pair, of a vision model, of plain CLIP or OpenCLIP."""
    return checkpoint.load_tower(find_encoder(source))


def find_encoder(source: str | Path) -> Path:
    """The local folder of `source`, fetched from the hub where it is an id that is not here yet."""
    found = locate(str(source), Path())
    if found is not None:
        return found
    if Path(source).exists() or str(source).count("/") != 1:
        raise InputError(
            f"encoder {str(source)!r}: no folder with a config.json, and not a hub id (owner/name)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(str(source)))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        raise InputError(f"encoder {str(source)!r}: cannot be fetched from the hub: {error}") from error
