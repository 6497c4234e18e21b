"""Media files to arrays, and arrays to what the encoders take: one table of rows, a row a modality.

Everything here gives the numbers of the original's processors (LanguageBind's processing_<modality>.py and
the image branch of Video-LLaVA's dataset), so published weights see what they were trained on. The original
also flips videos left-right at random, even in evaluation: that is left out. What the numbers are in until the
device normalises them is in pixels.py.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videollava.data.media.admission.opening import Source, name_of, open_medium, read_file, unreadable
from videollava.data.media.audio import audio_to_pixels, read_audio
from videollava.data.media.pixels import CLIP_MEAN, FULL, affine, finely
from videollava.data.media.video import frame_indices, read_frames
from videollava.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "MAX_PIXELS",
    "MODALITIES",
    "Modality",
    "audio_to_pixels",
    "depth_to_pixels",
    "floats_to_bytes",
    "frame_indices",
    "frames_to_pixels",
    "image_to_pixels",
    "load_pixels",
    "read_audio",
    "read_depth",
    "read_frames",
    "read_image",
    "to_rgb",
]

MAX_PIXELS = 89_478_485  # where Pillow starts to warn of decompression bombs
MAX_RATIO = 16  # beyond it, only the middle of a crop's long side is resized
MAX_SQUARE = (
    6000  # pictures with a longer side are shrunk before padding: a square of it would take gigabytes
)


@dataclass(frozen=True)
class Modality:
    """How one kind of picture becomes pixel values.

    full: the stored number that becomes 1.0; low: what smaller ones are raised to, before resizing.
    ratio_first: how the original rounds the long side: int(long / short * size), or int(size * long / short).
    """

    channels: int = 3
    full: float = FULL
    low: float = 0.0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    ratio_first: bool = False


# Audio has rows of its own: audio.Fbank.
MODALITIES = {
    "image": Modality(),
    "video": Modality(interpolation="bilinear", ratio_first=True),
    "thermal": Modality(),
    "depth": Modality(channels=1, full=10_000.0, low=10.0),  # millimetres: 1 cm to 10 m
}

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO")
_MOVING = ("GIF", "WEBP", "PNG")  # several pictures of other formats are pages, or the two eyes of a camera
# What Pillow's readers raise on broken files of those formats.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    struct.error,
    zlib.error,
)


def read_image(source: Source, where: str = "", still: bool = False) -> Image.Image:
    """Decode an image to RGB.

    Alpha is dropped, and the orientation stored in EXIF is not applied, as the original's
    `Image.open(...).convert("RGB")`. 16-bit grey is scaled to 8 bits, where that clips it to white, and so is
    grey of floats in 0..1, where that cuts it to black. Of several pictures (GIF, TIFF) it is the first.

    Raises:
        InputError: not an image, broken, of more than MAX_PIXELS pixels, or (`still`) an animation.
    """
    image = _open_image(source, where)
    if still and getattr(image, "is_animated", False) and image.format in _MOVING:
        frames = getattr(image, "n_frames", 0)
        raise InputError(f"{name_of(source, where)}: {frames} frames in one image; give it as a video")
    try:
        return to_rgb(image)
    except _BROKEN as error:
        raise unreadable(source, where, "image", error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any picture of Pillow's as RGB, by the rules of `read_image`; ValueError where it has no such colours."""
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":  # Pillow would cut numbers of 0 to 1 to black
        return Image.fromarray(floats_to_bytes(np.asarray(image))).convert("RGB")
    if image.mode in ("P", "PA"):  # a palette with alpha turns into RGB only with a warning
        return image.convert("RGBA").convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def floats_to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Brightness in 0..1, or in 0..255 where some is above 1, as bytes; ValueError for other numbers."""
    if not np.isfinite(values).all() or (values.size and (values.min() < 0 or values.max() > 255)):
        raise ValueError("its numbers are not in 0..1 (nor in 0..255): undo its normalisation first")
    scale = 255 if not values.size or values.max() <= 1 else 1
    return np.round(values * scale).astype(np.uint8)


def read_depth(source: Source, where: str = "") -> NDArray[np.float32]:
    """Decode a depth map, a picture of one channel (16-bit PNG), to millimetres: float32 (H, W)."""
    image = _open_image(source, where)
    if len(image.getbands()) != 1 or image.mode == "P":
        raise InputError(
            f"{name_of(source, where)}: a depth map is 16-bit PNG, one channel of millimetres, not {image.mode}"
        )
    try:
        return np.array(image, np.float32)
    except _BROKEN as error:
        raise unreadable(source, where, "depth map", error) from error


def image_to_pixels(
    image: Image.Image, size: int, aspect: Literal["crop", "pad"] = "crop", kind: str = "image"
) -> Tensor:
    """An RGB image (or thermal picture) as pixels (3, size, size), to be normalised on the device.

    crop: the short side is resized to `size` (bicubic, no antialias) and the middle cut out.
    pad: first padded to a square with the mean colour (LLaVA's expand2square), so nothing is cut off.
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    picture = _pad(rgb) if aspect == "pad" else rgb
    return _to_pixels(np.array(picture)[None], size, MODALITIES[kind])[0]


def frames_to_pixels(frames: NDArray[np.uint8], size: int) -> Tensor:
    """Video frames (T, H, W, 3) as pixels (T, 3, size, size), to be normalised on the device; the original has
    (3, T, size, size).
    """
    return _to_pixels(frames, size, MODALITIES["video"])


def depth_to_pixels(depth: NDArray[np.float32], size: int) -> Tensor:
    """A depth map in millimetres (H, W) as normalised float32 (3, size, size), the one channel three times."""
    return _to_pixels(depth[None, :, :, None], size, MODALITIES["depth"])[0]


def load_pixels(
    kind: str,
    source: Source,
    size: int,
    frames: int = 8,
    aspect: Literal["crop", "pad"] = "crop",
    where: str = "",
) -> Tensor:
    """Read and prepare one medium of any kind: pixels (3, H, W), or (T, 3, H, W) for a video."""
    if kind in ("image", "thermal"):
        return image_to_pixels(read_image(source, where), size, aspect, kind)
    if kind == "video":
        return frames_to_pixels(read_frames(source, frames, where), size)
    if kind == "depth":
        return depth_to_pixels(read_depth(source, where), size)
    if kind == "audio":
        return audio_to_pixels(*read_audio(source, where))
    raise InputError(
        f"{name_of(source, where)}: no modality {kind!r}; there are: {', '.join(MODALITIES)}, audio"
    )


def _to_pixels(pictures: NDArray[Any], size: int, row: Modality) -> Tensor:
    """(N, H, W, C) of stored numbers -> (N, 3, size, size) as pixels travel.

    Normalising is affine and resizing weights add up to one, so the order of the two is free: the device normalises
    the smaller array. One picture at a time: a float copy of a whole clip would not fit the caches.
    """
    import torch

    height, width = pictures.shape[1:3]
    if width > MAX_RATIO * height:
        pictures = pictures[:, :, _middle(width, MAX_RATIO * height)]
    elif height > MAX_RATIO * width:
        pictures = pictures[:, _middle(height, MAX_RATIO * width)]
    # Channels last in memory (a view): how pictures are stored, and the faster way to interpolate them.
    stored = torch.from_numpy(np.require(pictures, requirements="W")).permute(0, 3, 1, 2)
    if row.full != FULL:
        scale, shift = affine(row.full)
        return torch.cat([_resize(one.float(), size, row) for one in stored.split(1)]) * scale + shift
    if _target(stored.shape[2], stored.shape[3], size, row) == tuple(stored.shape[2:]):
        return _cut(stored, size).clone(memory_format=torch.contiguous_format)
    pixels = torch.empty(len(stored), row.channels, size, size, dtype=torch.int16)
    for index in range(len(stored)):
        pixels[index] = finely(_resize(stored[index : index + 1].float(), size, row)[0])
    return pixels


def _resize(picture: Tensor, size: int, row: Modality) -> Tensor:
    """Short side to `size`, then the middle (1, C, size, size)."""
    import torch

    if row.low:
        picture = picture.clamp(row.low, row.full)
    height, width = picture.shape[2:]
    target = _target(height, width, size, row)
    if target != (height, width):
        picture = torch.nn.functional.interpolate(
            picture, size=target, mode=row.interpolation, align_corners=False
        )
    return _cut(picture, size)


def _target(height: int, width: int, size: int, row: Modality) -> tuple[int, int]:
    """Height and width that the original resizes to."""
    short, long = sorted((height, width))
    scaled = int(long / short * size) if row.ratio_first else int(size * long / short)
    return (size, scaled) if height <= width else (scaled, size)


def _cut(pictures: Tensor, size: int) -> Tensor:
    """The middle of (N, C, H, W)."""
    return pictures[:, :, _middle(pictures.shape[2], size), _middle(pictures.shape[3], size)]


def _middle(length: int, kept: int) -> slice:
    start = round((length - kept) / 2)
    return slice(start, start + kept)


def _pad(image: Image.Image) -> Image.Image:
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    if side > MAX_SQUARE:
        return _pad(image.reduce(-(-side // MAX_SQUARE)))
    square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in CLIP_MEAN))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def _open_image(source: Source, where: str) -> Image.Image:
    data = source if isinstance(source, bytes) else read_file(source, where)
    file, _ = open_medium(data, "image", name_of(source, where))
    try:
        image = Image.open(file, formats=_FORMATS)
        if image.width * image.height <= MAX_PIXELS:
            image.load()
            return image
        size = f"{image.width} x {image.height} pixels"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        size = f"over {MAX_PIXELS} pixels"
    except _BROKEN as error:
        raise unreadable(source, where, "image", error) from error
    raise InputError(
        f"{name_of(source, where)}: too large an image ({size}): scale it down below {MAX_PIXELS} pixels"
    )
