"""How pixels travel from whoever decodes them to the device: in as few bytes as lose nothing, normalised there.

uint8: the stored numbers themselves, where nothing had to be resized. int16: resized ones, in steps of 1/128 (0 for
`AT`). The original resizes floats and rounds nothing: whole numbers would be off by up to 7e-3 once normalised, these
by 6e-5, in half a float32's bytes. Floats are normalised already (depth, audio).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CLIP_MEAN", "CLIP_STD", "FULL", "affine", "finely", "normalise", "stack"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
FULL = 255.0  # the stored number that is 1.0 before the mean is taken off
AT, STEPS = 128, 128  # 16 bits reach from -128 to 384, bicubic curves from -114 to 369


def finely(stored: Tensor) -> Tensor:
    """Stored numbers, whole or not, as int16."""
    return stored.float().sub(AT).mul_(STEPS).round_().short()


def stack(pixels: Sequence[Tensor]) -> Tensor:
    """Media of one kind as one tensor: whole numbers in fine steps where others are."""
    import torch

    if len({medium.dtype for medium in pixels}) > 1:
        pixels = [finely(medium) if medium.dtype == torch.uint8 else medium for medium in pixels]
    return torch.stack(list(pixels))


def normalise(pixels: Tensor) -> Tensor:
    """Pixels (..., 3, H, W) as they travel -> float32, less CLIP's mean over its deviation; floats as they are."""
    import torch

    if pixels.is_floating_point():
        return pixels
    stored = pixels.float()
    if pixels.dtype == torch.int16:
        stored = stored.div_(STEPS).add_(AT)
    scale, shift = affine(FULL, str(pixels.device))
    return stored.mul_(scale).add_(shift)


@lru_cache(maxsize=16)
def affine(full: float, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Scale and shift (3, 1, 1), kept on the device, that normalise stored numbers with `full` for 1.0."""
    import torch

    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (1 / (full * std)).float().to(device), (-mean / std).float().to(device)
