"""Media files to arrays, and arrays to what the encoders take: one table of rows, a row a modality.

Everything here gives the numbers of the original's processors (LanguageBind's processing_<modality>.py and
the image branch of Video-LLaVA's dataset), so published weights see what they were trained on. The original
also flips videos left-right at random, even in evaluation: that is left out.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videollava.data.audio import audio_to_pixels, read_audio
from videollava.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "MAX_PIXELS",
    "MODALITIES",
    "Modality",
    "audio_to_pixels",
    "depth_to_pixels",
    "frame_indices",
    "frames_to_pixels",
    "image_to_pixels",
    "load_pixels",
    "read_audio",
    "read_depth",
    "read_frames",
    "read_image",
]

Source = bytes | Path
T = TypeVar("T")

MAX_PIXELS = 89_478_485  # where Pillow starts to warn of decompression bombs
DECODE_SECONDS = 60.0
MAX_RATIO = 16  # beyond it, only the middle of a crop's long side is resized
MAX_SQUARE = (
    6000  # pictures with a longer side are shrunk before padding: a square of it would take gigabytes
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Modality:
    """How one kind of picture becomes pixel values.

    full: the stored number that becomes 1.0; low: what smaller ones are raised to, before resizing.
    ratio_first: how the original rounds the long side: int(long / short * size), or int(size * long / short).
    """

    channels: int = 3
    full: float = 255.0
    low: float = 0.0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    ratio_first: bool = False
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD


# Audio has rows of its own: audio.Fbank.
MODALITIES = {
    "image": Modality(),
    "video": Modality(interpolation="bilinear", ratio_first=True),
    "thermal": Modality(),
    "depth": Modality(channels=1, full=10_000.0, low=10.0),  # millimetres: 1 cm to 10 m
}

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO")
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


def read_image(source: Source, where: str = "") -> Image.Image:
    """Decode an image to RGB.

    Alpha is dropped, and the orientation stored in EXIF is not applied, as the original's
    `Image.open(...).convert("RGB")`. 16-bit grey is scaled to 8 bits, where that clips it to white.

    Raises:
        InputError: not an image, broken, or of more than MAX_PIXELS pixels.
    """
    image = _open_image(source, where)
    try:
        if image.mode.startswith("I"):
            grey = np.clip(np.asarray(image, np.int64) >> 8, 0, 255).astype(np.uint8)
            return Image.fromarray(grey).convert("RGB")
        if image.mode == "P":  # a palette with alpha turns into RGB only with a warning
            return image.convert("RGBA").convert("RGB")
        return image.convert("RGB")
    except _BROKEN as error:
        raise _unreadable(source, where, "image", error) from error


def read_depth(source: Source, where: str = "") -> NDArray[np.float32]:
    """Decode a depth map, a picture of one channel (16-bit PNG), to millimetres: float32 (H, W)."""
    image = _open_image(source, where)
    if len(image.getbands()) != 1 or image.mode == "P":
        raise InputError(
            f"{_name(source, where)}: a depth map is 16-bit PNG, one channel of millimetres, not {image.mode}"
        )
    try:
        return np.array(image, np.float32)
    except _BROKEN as error:
        raise _unreadable(source, where, "depth map", error) from error


def read_frames(source: Source, frames: int, where: str = "") -> NDArray[np.uint8]:
    """Decode `frames` frames spread evenly over a video, first and last included: uint8 (T, H, W, 3).

    Frames come by index, so one repeats where the video has fewer, as in the original. decord decodes
    in one thread (workers are what runs in parallel); what it cannot read, or takes a minute over, PyAV
    reads where installed.

    Raises:
        InputError: no decodable video.
    """
    if isinstance(source, Path) and not source.is_file():
        raise InputError(f"{_name(source, where)}: not found")
    try:
        return _limited(lambda: _read_decord(source, frames), DECODE_SECONDS)
    except ImportError as error:
        failure: Exception = error
        remedy = "install decord or av"
    except (RuntimeError, ValueError, OSError) as error:
        failure, remedy = error, "re-encode it as H.264 (or install av)"
    try:
        return _read_av(source, frames)
    except ImportError:
        pass
    except (RuntimeError, ValueError, OSError) as error:
        failure, remedy = error, "check that it plays, then re-encode it as H.264 mp4"
    raise _unreadable(source, where, "video", failure, remedy)


def frame_indices(total: int, frames: int) -> NDArray[np.int64]:
    """Which frames of `total` are taken: linspace(0, total - 1, frames), cut to integers."""
    return np.linspace(0, total - 1, frames, dtype=int)


def image_to_pixels(
    image: Image.Image, size: int, aspect: Literal["crop", "pad"] = "crop", kind: str = "image"
) -> Tensor:
    """An RGB image (or thermal picture) as float32 (3, size, size).

    crop: the short side is resized to `size` (bicubic, no antialias) and the middle cut out.
    pad: first padded to a square with the mean colour (LLaVA's expand2square), so nothing is cut off.
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    picture = _pad(rgb) if aspect == "pad" else rgb
    return _to_pixels(np.array(picture)[None], size, MODALITIES[kind])[0]


def frames_to_pixels(frames: NDArray[np.uint8], size: int) -> Tensor:
    """Video frames (T, H, W, 3) as float32 (T, 3, size, size); the original has (3, T, size, size)."""
    return _to_pixels(frames, size, MODALITIES["video"])


def depth_to_pixels(depth: NDArray[np.float32], size: int) -> Tensor:
    """A depth map in millimetres (H, W) as float32 (3, size, size), the one channel three times."""
    return _to_pixels(depth[None, :, :, None], size, MODALITIES["depth"])[0]


def load_pixels(
    kind: str,
    source: Source,
    size: int,
    frames: int = 8,
    aspect: Literal["crop", "pad"] = "crop",
    where: str = "",
) -> Tensor:
    """Read and prepare one medium of any kind: (3, H, W), or (T, 3, H, W) for a video."""
    if kind in ("image", "thermal"):
        return image_to_pixels(read_image(source, where), size, aspect, kind)
    if kind == "video":
        return frames_to_pixels(read_frames(source, frames, where), size)
    if kind == "depth":
        return depth_to_pixels(read_depth(source, where), size)
    if kind == "audio":
        return audio_to_pixels(*read_audio(source, where))
    raise InputError(
        f"{_name(source, where)}: no modality {kind!r}; there are: {', '.join(MODALITIES)}, audio"
    )


def _to_pixels(pictures: NDArray[Any], size: int, row: Modality) -> Tensor:
    """(N, H, W, C) of stored numbers -> (N, 3, size, size).

    Normalising is affine and resizing weights add up to one, so the order of the two is free: the smaller
    array is normalised. One picture at a time: a float copy of a whole clip would not fit the caches.
    """
    import torch

    height, width = pictures.shape[1:3]
    if width > MAX_RATIO * height:
        pictures = pictures[:, :, _middle(width, MAX_RATIO * height)]
    elif height > MAX_RATIO * width:
        pictures = pictures[:, _middle(height, MAX_RATIO * width)]
    # Channels last in memory (a view): how pictures are stored, and the faster way to interpolate them.
    stored = torch.from_numpy(np.require(pictures, requirements="W")).permute(0, 3, 1, 2)
    scale, shift = _affine(row)
    if stored.shape[2:] == (size, size) and not row.low:
        return stored.to(torch.float32, memory_format=torch.contiguous_format).mul_(scale).add_(shift)
    pixels = torch.empty(len(stored), row.channels, size, size)
    for index in range(len(stored)):
        pixels[index] = _resize(stored[index : index + 1].float(), size, row)[0]
    return pixels.mul(scale).add_(shift) if row.channels == 1 else pixels.mul_(scale).add_(shift)


def _resize(picture: Tensor, size: int, row: Modality) -> Tensor:
    """Short side to `size`, then the middle (1, C, size, size)."""
    import torch

    if row.low:
        picture = picture.clamp(row.low, row.full)
    height, width = picture.shape[2:]
    short, long = sorted((height, width))
    scaled = int(long / short * size) if row.ratio_first else int(size * long / short)
    target = (size, scaled) if height <= width else (scaled, size)
    if target != (height, width):
        picture = torch.nn.functional.interpolate(
            picture, size=target, mode=row.interpolation, align_corners=False
        )
    return picture[:, :, _middle(target[0], size), _middle(target[1], size)]


def _middle(length: int, kept: int) -> slice:
    start = round((length - kept) / 2)
    return slice(start, start + kept)


@lru_cache(maxsize=16)
def _affine(row: Modality) -> tuple[Tensor, Tensor]:
    """Scale and shift (3, 1, 1) that turn stored numbers into normalised ones."""
    import torch

    mean = torch.tensor(row.mean, dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor(row.std, dtype=torch.float64).view(3, 1, 1)
    return (1 / (row.full * std)).float(), (-mean / std).float()


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
    try:
        image = Image.open(
            io.BytesIO(source if isinstance(source, bytes) else source.read_bytes()), formats=_FORMATS
        )
        if image.width * image.height <= MAX_PIXELS:
            image.load()
            return image
        size = f"{image.width} x {image.height} pixels"
    except FileNotFoundError as error:
        raise InputError(f"{_name(source, where)}: not found") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        size = f"over {MAX_PIXELS} pixels"
    except _BROKEN as error:
        raise _unreadable(source, where, "image", error) from error
    raise InputError(
        f"{_name(source, where)}: too large an image ({size}): scale it down below {MAX_PIXELS} pixels"
    )


def _limited(call: Callable[[], T], seconds: float) -> T:
    """The result of `call`; TimeoutError after `seconds`.

    decord spins for ever on some files (its issues 269, 373, 375) and nothing can interrupt it: its thread is
    left behind, so that the file costs a core until this process ends, not the whole run.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # raised again where the result is asked for
            result.set_exception(error)

    Thread(target=run, name="decord", daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(f"not decoded after {seconds:.0f} s") from error


def _read_decord(source: Source, frames: int) -> NDArray[np.uint8]:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(_opened(source), ctx=decord.cpu(0), num_threads=1)
        if not len(reader):
            raise ValueError("no frames")
        chosen: NDArray[np.uint8] = reader.get_batch(frame_indices(len(reader), frames)).asnumpy()
        return chosen
    except decord.DECORDError as error:  # a plain Exception
        raise ValueError(str(error).rpartition("] ")[2]) from error


def _read_av(source: Source, frames: int) -> NDArray[np.uint8]:
    import av

    try:
        wanted = frame_indices(_count_packets(source), frames).tolist()
        kept: dict[int, NDArray[np.uint8]] = {}
        with av.open(_opened(source)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for index, frame in enumerate(container.decode(video=0)):
                if index in wanted:
                    # As decord does, which turns a clip as a player would.
                    kept[index] = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    except (av.FFmpegError, EOFError, LookupError) as error:
        raise ValueError(str(error)) from error
    if wanted[-1] not in kept:
        raise ValueError(f"only {len(kept)} of the {frames} frames wanted could be decoded")
    return np.stack([kept[index] for index in wanted])


def _count_packets(source: Source) -> int:
    """Frames that the file holds; ValueError where it should hold more."""
    import av

    with av.open(_opened(source)) as container:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            raise ValueError("it has no video stream that can be decoded")
        declared = container.streams.video[0].frames
        total = sum(packet.size > 0 for packet in container.demux(video=0))
    if total < max(declared, 1):
        raise ValueError(f"cut short: {total} of {declared} frames" if declared else "no frames")
    return total


def _opened(source: Source) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else str(source)


def _unreadable(
    source: Source, where: str, what: str, error: Exception, remedy: str = "save it again or leave it out"
) -> InputError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"{_name(source, where)}: cannot be read as {what} ({reason}): {remedy}")


def _name(source: Source, where: str) -> str:
    if isinstance(source, bytes):
        return where or f"{len(source)} bytes"
    return f"{where}: {source}" if where else str(source)
