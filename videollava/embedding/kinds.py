"""Which modality a file is: by its ending, or as it is said."""

from __future__ import annotations

from pathlib import Path

from videollava.data.modalities import KINDS
from videollava.data.records.endings import kind_of_file
from videollava.errors import InputError

__all__ = ["KINDS", "kind_of", "kind_said"]


def kind_of(file: Path) -> str:
    """By a file's ending. Depth and thermal pictures look like any other, but for .depth.png, .thermal.jpg and .npy."""
    kind = kind_of_file(file.name)
    if kind not in KINDS:
        raise InputError(f"{file}: its ending tells no modality; say it (--as, or kind=): {', '.join(KINDS)}")
    return kind


def kind_said(kind: str) -> str:
    """A modality's name as given. InputError where there is no such one."""
    if kind not in KINDS:
        raise InputError(f"{kind}: no modality; there are {', '.join(KINDS)}")
    return kind
