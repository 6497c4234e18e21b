"""Which modality a file is: by its ending, or as it is said."""

from __future__ import annotations

from pathlib import Path

from videollava.data.records.endings import kind_of_file
from videollava.errors import InputError

__all__ = ["KINDS", "kind_of", "kind_said"]

KINDS = ("image", "video", "depth", "thermal", "audio")


def kind_of(file: Path) -> str:
    """image, video or audio by a file's ending: depth and thermal pictures look like any other."""
    kind = kind_of_file(file.name)
    if kind not in KINDS:
        raise InputError(f"{file}: its ending tells no modality; say it (--as, or kind=): {', '.join(KINDS)}")
    return kind


def kind_said(kind: str) -> str:
    """A modality's name as given. InputError where there is no such one."""
    if kind not in KINDS:
        raise InputError(f"{kind}: no modality; there are {', '.join(KINDS)}")
    return kind
