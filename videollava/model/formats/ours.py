"""Folders of our own format, as `checkpoint.save` and transformers' `save_pretrained` write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from videollava.errors import InputError
from videollava.model.encoders import LanguageBind, LanguageBindTextModel, LanguageBindVisionModel
from videollava.model.formats.files import Weights, find_weights, read_config
from videollava.model.formats.tables import NOT_TIED, Tables, open_tables
from videollava.model.video_llava import FORMAT_VERSION, VideoLlavaForConditionalGeneration

__all__ = ["CLASSES", "Source", "open_source"]

CLASSES: dict[str, type[Any]] = {
    kind.config_class.model_type: kind
    for kind in (
        VideoLlavaForConditionalGeneration,
        LanguageBind,
        LanguageBindVisionModel,
        LanguageBindTextModel,
    )
}


@dataclass(frozen=True)
class Source:
    """A checkpoint of ours."""

    config: Any
    main: Weights
    tables: Tables
    tokenizer: Path | None

    def shards(self) -> Iterator[dict[str, Tensor]]:
        """The weights, a file at a time."""
        return map(self.tables.arrange, self.main.shards())


def open_source(folder: Path) -> Source:
    """Open a folder of ours; InputError where a newer release wrote it."""
    given = read_config(folder)
    check_version(folder, given)
    plain = {name: value for name, value in given.items() if name != "quantization_config"}
    kind = CLASSES[given["model_type"]]
    config = kind.config_class.from_dict(plain)
    main = find_weights(folder)
    whole = kind is VideoLlavaForConditionalGeneration
    return Source(config, main, open_tables(config, main, str) if whole else NOT_TIED, folder)


def check_version(folder: Path, config: Mapping[str, Any]) -> None:
    version = config.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise InputError(
            f"{folder}/config.json: format_version is {version!r}, not a whole number from 1: save it again"
        )
    if version > FORMAT_VERSION:
        raise InputError(
            f"{folder}: saved in format {version}, this release reads up to {FORMAT_VERSION}: install a "
            f"newer videollava"
        )
