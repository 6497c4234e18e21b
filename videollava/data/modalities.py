"""The modalities, a row each: what their files are called, how their numbers become pixels, and who sees them.

Readers, preparation, encoders and search all go by this table; nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["KINDS", "MODALITIES", "MediumKind", "Modality"]

MediumKind = Literal["image", "video", "depth", "thermal", "audio"]
KINDS: tuple[MediumKind, ...] = get_args(MediumKind)


@dataclass(frozen=True)
class Modality:
    """One kind of medium.

    endings: of its files; depth and thermal pictures look like any other, so `.depth.png` says it, or who names them.
    spoken: the language model sees it. Other kinds are aligned with captions, and no more.
    floats: its pixels are normalised when they are decoded; others travel as whole numbers (pixels.py).
    full: the stored number that becomes 1.0; low: what smaller ones are raised to, before resizing.
    ratio_first: how the original rounds the long side: int(long / short * size), or int(size * long / short).
    """

    endings: tuple[str, ...]
    spoken: bool = False
    floats: bool = False
    channels: int = 3
    full: float = 255.0
    low: float = 0.0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    ratio_first: bool = False


_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_CLIPS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv")
_SOUNDS = (".wav", ".mp3", ".flac", ".ogg", ".m4a")

MODALITIES: Mapping[MediumKind, Modality] = {
    "image": Modality(_PICTURES, spoken=True),
    "video": Modality(_CLIPS, spoken=True, interpolation="bilinear", ratio_first=True),
    # Stored in millimetres or brought to them: from 1 cm on, and 10 m are 1.0.
    "depth": Modality(
        (*(f".depth{ending}" for ending in _PICTURES), ".npy"),
        floats=True,
        channels=1,
        full=10_000.0,
        low=10.0,
    ),
    "thermal": Modality(tuple(f".thermal{ending}" for ending in _PICTURES)),
    # A picture of its sound: bins of the spectrogram down, time across; its numbers are in media/audio.py.
    "audio": Modality(_SOUNDS, floats=True),
}
