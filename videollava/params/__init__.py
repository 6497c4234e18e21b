"""The recipe: params.yaml in `sections` of values with `bounds`, how it is read (`reading`) and shown (`page`)."""

from __future__ import annotations

from videollava.params.page import markdown, schema
from videollava.params.reading import (
    load_params,
    parse_params,
    profile_names,
    profile_text,
    read_mapping,
    read_mapping_text,
    read_section,
    split_overrides,
)
from videollava.params.sections import (
    Align,
    Bases,
    Encoder,
    Evaluate,
    Index,
    Judge,
    Language,
    Lora,
    Model,
    Params,
    Portion,
    Pretrain,
    Shards,
    Source,
    Tower,
    Tracking,
    Train,
)

__all__ = [
    "Align",
    "Bases",
    "Encoder",
    "Evaluate",
    "Index",
    "Judge",
    "Language",
    "Lora",
    "Model",
    "Params",
    "Portion",
    "Pretrain",
    "Shards",
    "Source",
    "Tower",
    "Tracking",
    "Train",
    "load_params",
    "markdown",
    "parse_params",
    "profile_names",
    "profile_text",
    "read_mapping",
    "read_mapping_text",
    "read_section",
    "schema",
    "split_overrides",
]
