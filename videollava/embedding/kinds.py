"""Which modality a file is: by its ending (and 16 bits of grey), or as it is said."""

from __future__ import annotations

import warnings
from pathlib import Path

from videollava.data.modalities import KINDS, MediumKind
from videollava.data.records.endings import kind_of_file
from videollava.errors import InputError

__all__ = ["KINDS", "kind_of", "kind_said"]

DEEP = (".png", ".tif", ".tiff")
PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*")


def kind_of(file: Path) -> str:
    """By a file's ending; a picture of one channel in 16 bits is depth, as sensors and data sets keep it. Other depth
    and thermal pictures look like any other, but for .depth.png, .thermal.jpg and .npy.
    """
    kind = kind_of_file(file.name)
    if kind == "image" and file.name.lower().endswith(DEEP) and _is_deep(file):
        return "depth"
    if kind not in KINDS:
        raise InputError(f"{file}: its ending tells no modality; say it (--as, or kind=): {', '.join(KINDS)}")
    return kind


def _is_deep(file: Path) -> bool:
    """Whether a PNG or TIFF has one channel of 16 bits; what is not there or broken is told when it is read."""
    try:
        with file.open("rb") as opened:
            head = opened.read(26)
        if head.startswith(PNG):
            return head[12:16] == b"IHDR" and head[24:26] == bytes((16, 0))
        if not head.startswith(TIFF):
            return False
        from PIL import Image, UnidentifiedImageError

        try:
            with warnings.catch_warnings(action="ignore"), Image.open(file, formats=("TIFF",)) as image:
                return image.mode.startswith("I;16")
        except (
            UnidentifiedImageError,
            Image.DecompressionBombError,
            SyntaxError,
            ValueError,
            TypeError,
            KeyError,
        ):
            return False
    except OSError:
        return False


def kind_said(kind: str) -> MediumKind:
    """A modality's name as given. InputError where there is no such one."""
    for known in KINDS:
        if known == kind:
            return known
    raise InputError(f"{kind}: no modality; there are {', '.join(KINDS)}")
