"""Media files to arrays, and arrays to what the encoders take, by the rows of data/modalities.py.

Everything here gives the numbers of the original's processors (LanguageBind's processing_<modality>.py and
the image branch of Video-LLaVA's dataset), so published weights see what they were trained on. The original
also flips videos left-right at random, even in evaluation: that is left out. What the numbers are in until the
device normalises them is in pixels.py.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videollava.data.media.admission.opening import Source, name_of, open_medium, read_file, unreadable
from videollava.data.media.audio import BINS, FRAMES, audio_to_pixels, read_audio
from videollava.data.media.pixels import CLIP_MEAN, FULL, affine, finely
from videollava.data.media.stored import StoredFrames
from videollava.data.media.video import frame_indices, read_frames
from videollava.data.modalities import MODALITIES, MediumKind, Modality
from videollava.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "MAX_PIXELS",
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


MAX_METRES = 1000.0
_NPY = b"\x93NUMPY"
_NPY_HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
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
    """Decode a depth map to millimetres: float32 (H, W); 0 where nothing was measured.

    Whole numbers (16-bit PNG or TIFF, .npy) are millimetres, as the original takes them all (NYU-D); floats (TIFF,
    .npy) are metres. Floats that are no numbers, and those below 0, are 0.

    Raises:
        InputError: no picture and no array of one channel, broken, or floats beyond 1,000 m.
    """
    data = source if isinstance(source, bytes) else read_file(source, where)
    name = name_of(source, where)
    stored = _load_array(data, name) if data.startswith(_NPY) else _load_grey(data, name)
    if stored.dtype.kind != "f":
        return stored.astype(np.float32)
    metres = np.where(np.isfinite(stored) & (stored > 0), stored, 0).astype(np.float32)
    if metres.size and metres.max() > MAX_METRES:
        raise InputError(
            f"{name}: floats are metres and the largest is {metres.max():.0f}: save millimetres as 16-bit whole numbers"
        )
    return metres * np.float32(1000)


def _load_grey(data: bytes, name: str) -> NDArray[Any]:
    """A picture of one channel as it is stored."""
    image = _open_image(data, name)
    if len(image.getbands()) != 1 or image.mode == "P":
        raise InputError(
            f"{name}: a depth map is 16-bit PNG, one channel of millimetres, not {image.mode}: save the distances "
            "themselves, or give it as a picture"
        )
    try:
        return np.array(image)
    except _BROKEN as error:
        raise unreadable(data, name, "depth map", error) from error


def _load_array(data: bytes, name: str) -> NDArray[Any]:
    """A .npy file of (H, W) numbers; nothing is allocated that its header claims and its bytes do not hold."""
    file = io.BytesIO(data)
    try:
        read_header = _NPY_HEADERS[np.lib.format.read_magic(file)]
        shape, is_fortran, kind = read_header(file)
        sides = [side for side in shape if side != 1] if len(shape) == 3 else list(shape)
        if len(sides) == 2 and kind.kind in "iuf" and 0 < math.prod(sides) <= MAX_PIXELS:
            flat = np.frombuffer(data, kind, math.prod(sides), file.tell())
            return flat.reshape(sides, order="F" if is_fortran else "C")
    except (ValueError, KeyError, EOFError, SyntaxError, TypeError) as error:
        raise unreadable(data, name, "depth map", error, "save it again with numpy.save") from error
    raise InputError(
        f"{name}: a depth map is (height, width) whole millimetres or float metres, not {kind} {shape}"
    )


def image_to_pixels(
    image: Image.Image, size: int, aspect: Literal["crop", "pad"] = "crop", kind: MediumKind = "image"
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
    source: Source | StoredFrames,
    size: int,
    frames: int = 8,
    aspect: Literal["crop", "pad"] = "crop",
    where: str = "",
    spectrogram: tuple[int, int] = (BINS, FRAMES),
) -> Tensor:
    """Read and prepare one medium of any kind: pixels (3, H, W), or (T, 3, H, W) for a video.

    size: of a picture's side; spectrogram: bins and frames of a sound's.
    """
    if isinstance(source, StoredFrames):
        return source.pixels(size, frames, where)
    loaders: dict[MediumKind, Callable[[], Tensor]] = {
        "image": lambda: image_to_pixels(read_image(source, where), size, aspect),
        "video": lambda: frames_to_pixels(read_frames(source, frames, where), size),
        "depth": lambda: depth_to_pixels(read_depth(source, where), size),
        "thermal": lambda: image_to_pixels(read_image(source, where), size, aspect, "thermal"),
        "audio": lambda: audio_to_pixels(*read_audio(source, where), *spectrogram),
    }
    for name, load in loaders.items():
        if name == kind:
            return load()
    raise InputError(f"{name_of(source, where)}: no modality {kind!r}; there are: {', '.join(MODALITIES)}")


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
