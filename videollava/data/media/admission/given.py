"""Whatever a caller gives for a picture or a video, as what the readers take; a sentence where that is nothing.

Paths, addresses, bytes, open files, Pillow pictures, arrays and tensors, and the records that data sets keep them in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from videollava.data.media.admission.addresses import Limits, fetch_address, is_address, read_data_address
from videollava.data.media.admission.opening import MOST_BYTES, Source
from videollava.data.media.read import (
    MAX_PIXELS,
    floats_to_bytes,
    frame_indices,
    read_frames,
    read_image,
    to_rgb,
)
from videollava.errors import InputError

__all__ = ["Given", "Policy", "listed", "open_image", "open_video"]

Frames = NDArray[np.uint8]
Given = Any  # what a caller gives; anything is answered
CHANNELS = (1, 3, 4)
MOST_FRAMES = 100_000
_WAYS = "give a path, an http(s) or data address, bytes, an open file, a Pillow picture or an array"


@dataclass(frozen=True)
class Policy:
    """What a caller may name. roots: folders whose files may be read; None: any file (the caller's own machine)."""

    limits: Limits = field(default_factory=Limits.from_environment)
    roots: tuple[Path, ...] | None = None


def listed(given: Given, kind: str, where: str) -> list[Given]:
    """The media of one question: a single one, or any sequence of them.

    Stills given flat as a video are the frames of one.
    """
    if given is None:
        return []
    if isinstance(given, str | bytes | bytearray | memoryview | os.PathLike | Mapping | Image.Image):
        return [given]
    if hasattr(given, "read"):
        return [given]
    if _is_array(given) and given.dtype != object and getattr(given.dtype, "kind", "") not in ("U", "S"):
        return _split_array(_to_array(given, where), kind)
    if not isinstance(given, Iterable):
        raise InputError(f"{where}: {type(given).__name__} is no {kind}; {_WAYS}")
    items = list(given)
    stills = bool(items) and all(_is_still(item) for item in items)
    return [items] if kind == "video" and stills else items


def open_image(given: Given, policy: Policy, where: str) -> Image.Image:
    """A picture as RGB, by the rules of `read_image`; InputError where it is none, or an animation."""
    if _is_array(given):
        given = _picture(_to_array(given, where), where)
    if isinstance(given, Image.Image):
        return _rgb(_one_picture(given, where), where)
    if isinstance(given, list | tuple):
        raise InputError(f"{where}: a list within the list of images; give each image by itself")
    return read_image(_source(given, policy, "image", where), where, still=True)


def open_video(given: Given, frames: int, policy: Policy, where: str) -> Frames:
    """Frames uint8 (T, H, W, 3) spread over a video, which may be given as pictures or an array of its frames."""
    if isinstance(given, Image.Image):
        if not getattr(given, "is_animated", False):
            raise InputError(
                f"{where}: a picture is no video; give it as an image, or give a list of pictures"
            )
        given = [frame.copy() for frame in ImageSequence.Iterator(given)]
    if _is_array(given):
        every: Any = _clip(_to_array(given, where), where)
    elif isinstance(given, list | tuple):
        every = given
    else:
        return read_frames(_source(given, policy, "video", where), frames, where)
    if not 0 < len(every) <= MOST_FRAMES:
        raise InputError(f"{where}: {len(every)} frames are no video; give 1 to {MOST_FRAMES}")
    chosen = [every[index] for index in frame_indices(len(every), frames)]
    return np.stack(chosen) if _is_array(given) else _stacked(chosen, where)


def _source(given: Given, policy: Policy, kind: str, where: str) -> Source:
    if isinstance(given, Mapping):
        return _source(_unfolded(given, kind, where), policy, kind, where)
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    if hasattr(given, "read"):
        return _all_of(given, where)
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
        text = os.fsdecode(given)
        folded = re.match(r"https?:/(?!/)", text)  # what pathlib makes of an address
        return _named(text.replace(":/", "://", 1), policy, where) if folded else _path(text, policy, where)
    if not isinstance(given, str):
        raise InputError(f"{where}: {type(given).__name__} is no {kind}; {_WAYS}")
    if not given.strip():
        raise InputError(f"{where}: an empty text names no {kind}; {_WAYS}")
    return _named(given.strip(), policy, where)


def _named(text: str, policy: Policy, where: str) -> Source:
    if not is_address(text):
        return _path(text, policy, where)
    scheme = text.partition(":")[0].lower()
    if scheme == "data":
        return read_data_address(text, where)
    if scheme == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise InputError(f"{where}: {text}: names another machine's file; copy it here")
        return _path(unquote(parts.path), policy, where)
    return fetch_address(text, policy.limits, where)


def _path(text: str, policy: Policy, where: str) -> Path:
    path = Path(text)
    if policy.roots is None:
        try:
            return path.expanduser()
        except RuntimeError as error:
            raise InputError(f"{where}: {text}: {error}; write the whole path") from error
    try:
        inside = any(path.resolve().is_relative_to(root.resolve()) for root in policy.roots)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: not a path; send the file as a data address") from error
    if not inside:
        raise InputError(
            f"{where}: {text}: files of the server are not read for callers; send the file as a data address or "
            "bytes, or an http(s) address (whoever serves may allow folders: VIDEOLLAVA_MEDIA_ROOTS)"
        )
    return path.resolve()


def _unfolded(given: Mapping[Any, Any], kind: str, where: str) -> Given:
    """The medium of a data set's or a chat's record: {"bytes", "path"}, {"b64"}, {"url"}, {"image_url": {"url"}}."""
    for key in ("bytes", "b64", "path", "url", f"{kind}_url", kind):
        value = given.get(key)
        if value is not None:
            if isinstance(value, Mapping):
                return _unfolded(value, kind, where)
            return f"data:;base64,{value}" if key == "b64" else value
    raise InputError(
        f"{where}: a record with {', '.join(map(str, given)) or 'nothing'} is no {kind}; {_WAYS}"
    )


def _all_of(file: Any, where: str) -> bytes:
    try:
        data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{where}: the file cannot be read ({error}); open it again, with 'rb'") from error
    if not isinstance(data, bytes | bytearray):
        raise InputError(f"{where}: the file gives {type(data).__name__}, not bytes; open it with 'rb'")
    if len(data) > MOST_BYTES:
        raise InputError(f"{where}: over {MOST_BYTES >> 20} MiB; give its path")
    return bytes(data)


def _one_picture(image: Image.Image, where: str) -> Image.Image:
    if getattr(image, "is_animated", False):
        raise InputError(f"{where}: {getattr(image, 'n_frames', 0)} frames in one image; give it as a video")
    return image


def _is_array(given: Given) -> bool:
    return isinstance(given, np.ndarray) or (
        hasattr(given, "__array__") and hasattr(given, "shape") and not isinstance(given, Image.Image)
    )


def _is_still(given: Given) -> bool:
    return isinstance(given, Image.Image) or (_is_array(given) and len(given.shape) in (2, 3))


def _to_array(given: Given, where: str) -> NDArray[Any]:
    try:
        if hasattr(given, "detach"):  # a tensor: of any device, with gradients, of a type that numpy lacks
            given = given.detach().cpu()
            given = given.float() if "float" in str(given.dtype) else given
        array = np.asarray(given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{where}: no array of pictures ({error}); {_WAYS}") from error
    if array.dtype == bool or array.dtype.kind not in "uif" or not array.size:
        raise InputError(
            f"{where}: an array of {array.dtype} {array.shape} is no picture; give uint8 (H, W, 3)"
        )
    return array


def _split_array(array: NDArray[Any], kind: str) -> list[NDArray[Any]]:
    """A batch as its pictures or videos."""
    return list(array) if array.ndim == (4 if kind == "image" else 5) else [array]


def _picture(array: NDArray[Any], where: str) -> Image.Image:
    """(H, W), (H, W, C) or (C, H, W) as a picture; 16-bit grey keeps its rule (`read_image`)."""
    if array.ndim == 3 and array.shape[2] not in CHANNELS and array.shape[0] in CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in CHANNELS):
        raise InputError(
            f"{where}: an array of shape {array.shape} is no picture; give (H, W, 3) or (3, H, W)"
        )
    plain = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(_to_bytes(plain, where)))


def _clip(array: NDArray[Any], where: str) -> Frames:
    """(T, H, W, C), (T, C, H, W) or (C, T, H, W) as frames."""
    if array.ndim == 4 and array.shape[3] not in CHANNELS:
        channels = 1 if array.shape[1] in CHANNELS else 0
        array = np.moveaxis(array, channels, -1)
    if array.ndim != 4 or array.shape[3] not in CHANNELS:
        raise InputError(f"{where}: an array of shape {array.shape} is no video; give (T, H, W, 3)")
    frames = _to_bytes(array, where)
    return np.repeat(frames, 3, -1) if frames.shape[3] == 1 else np.ascontiguousarray(frames[..., :3])


def _to_bytes(array: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    try:
        if array.dtype.kind == "f":
            return floats_to_bytes(array)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    if array.min() < 0 or array.max() > 65535:
        raise InputError(
            f"{where}: numbers from {array.min()} to {array.max()} are no brightness; give 0 to 255"
        )
    wide = array.dtype == np.uint16 or array.max() > 255
    return (array >> 8 if wide else array).astype(np.uint8)


def _rgb(image: Image.Image, where: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"{where}: {image.width} x {image.height} pixels; scale it down below {MAX_PIXELS}")
    try:
        image.load()
        return to_rgb(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{where}: the picture cannot be read ({error}); open it again") from error


def _stacked(pictures: Sequence[Given], where: str) -> Frames:
    frames = []
    for number, given in enumerate(pictures):
        if not _is_still(given):
            raise InputError(
                f"{where}: frame {number} is {type(given).__name__}; give Pillow pictures or arrays (H, W, 3)"
            )
        image = given if isinstance(given, Image.Image) else _picture(_to_array(given, where), where)
        frames.append(np.asarray(_rgb(image, where)))
    sizes = sorted({f"{frame.shape[1]} x {frame.shape[0]}" for frame in frames})
    if len(sizes) > 1:
        raise InputError(f"{where}: frames of different sizes ({', '.join(sizes[:4])}); bring them to one")
    return np.stack(frames)
