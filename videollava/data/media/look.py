"""How a medium looks, in 64 bits a frame: near-duplicates differ in few of them.

dHash: a grey picture of 9 x 8, and of each neighbours whether the right one is brighter. All in whole numbers, so
that it is the same on any machine. Noise of a codec does not make a neighbour brighter: it must be by MARGIN levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

__all__ = ["look_of"]

MARGIN = 3
LEAST = 10  # bits that are set: of fewer, flat pictures and drawings on white, too many are alike by chance


def look_of(frames: Sequence[Image.Image]) -> str:
    """Sixteen hex digits for each frame; "" where the first of them has too little contrast to be told by.

    frames: of a clip the middle one first.
    """
    words = [_hash(frame) for frame in frames]
    return "".join(f"{word:016x}" for word in words) if words and words[0].bit_count() >= LEAST else ""


def _hash(frame: Image.Image) -> int:
    grey = np.asarray(frame.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = grey[:, 1:] >= grey[:, :-1] + MARGIN
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
