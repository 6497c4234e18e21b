"""The frames that training takes of a clip, stored in its place: a zip that any tool opens, sealed with the clip's sum.

What is stored is where decoding ends: frames chosen, resized and cut, as pixels travel (pixels.py). Reading gives them
back bit for bit, whatever their form was; what the forms keep differs:

exact    int16 (T, 3, S, S) in steps of 1/128 of a level as `pixels.npy`, which numpy.load reads. Of a clip that has
         the size already the whole levels themselves, as lossless WebP, `000.webp` and on
rounded  always whole levels, as WebP: of what was resized, off by half a level at most. Videos are resized bilinearly,
         so nothing leaves 0..255
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videollava.data.media.pixels import AT, STEPS
from videollava.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMS", "SUFFIX", "Form", "StoredFrames", "is_stored", "nominal_size", "store_frames"]

Form = Literal["exact", "rounded"]
FORMS: tuple[Form, ...] = get_args(Form)
SUFFIX = ".frames.zip"
ARRAY, PICTURE = "pixels.npy", ".webp"
# Of lossless WebP: a quarter of the time of its own choice (4 and 80), for 4 % more bytes.
EFFORT = {"method": 2, "quality": 20}
SHARE = 0.3  # what is left of whole levels once they are WebP, of clips of the world
_BEGINS = b"PK\x03\x04"
_SUM = 64  # hex digits of the clip's SHA-256, the last bytes of the zip
# Of a bit that fell over: zipfile says RuntimeError where it would want a password, or another version of itself.
_BROKEN = (
    *(zipfile.BadZipFile, OSError, ValueError, EOFError, KeyError, SyntaxError, RuntimeError),
    *(struct.error, zlib.error),
)


def store_frames(pixels: Tensor, form: Form, sha256: str) -> bytes:
    """The stored form of a clip's pixels, int16 or uint8 (T, 3, S, S). Equal pixels give equal bytes."""
    values: NDArray[Any] = pixels.numpy()
    whole = values.dtype == np.uint8 or form == "rounded"
    members = _pictures(_levels(values)) if whole else [(ARRAY, _array(values))]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)  # of no date
        archive.comment = sha256.encode()
    return file.getvalue()


def is_stored(data: bytes) -> bool:
    """Whether a medium's bytes are stored frames: no file of a video begins so."""
    return data.startswith(_BEGINS)


def nominal_size(count: int, size: int, form: Form) -> int:
    """Bytes of stored frames of a clip that had to be resized: exact ones to the byte but for the zip's own few."""
    values = 3 * count * size * size
    return 2 * values if form == "exact" else int(SHARE * values)


@dataclass(frozen=True, slots=True)
class StoredFrames:
    """A clip as `store_frames` wrote it."""

    data: bytes

    @property
    def seal(self) -> str:
        """The sum of the clip that they say they stand for, read in no time: nothing else of them is looked at."""
        return self.data[-_SUM:].decode("ascii", "replace")

    def sha256(self) -> str:
        """Of the clip it stands for; every member's checksum is compared. InputError where it is damaged."""
        try:
            with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
                if broken := archive.testzip():
                    raise zipfile.BadZipFile(f"{broken} is damaged")
                return archive.comment.decode("ascii", "replace")
        except _BROKEN as error:
            raise _damaged("", error) from error

    def pixels(self, size: int, frames: int, where: str = "") -> Tensor:
        """As `load_pixels` gives them: (frames, 3, size, size), int16 or uint8.

        InputError where other frames are stored (they are never sampled or resized again), or damaged ones.
        """
        import torch

        values = self._read(where)
        if values.shape != (frames, 3, size, size):
            count, _, side = values.shape[:3]
            raise InputError(
                f"{where or 'a clip of the shards'}: {count} frames of {side} pixels are stored (shards.frames), and "
                f"{frames} of {size} are asked for: cut the shards for those (`videollava shards`, `index`), or with "
                "shards.frames.count: 0, which keeps the clips"
            )
        return torch.from_numpy(values)

    def pictures(self, most: int, where: str = "") -> NDArray[np.uint8]:
        """Up to `most` of the frames, spread evenly, to look at: uint8 (T, S, S, 3)."""
        values = self._read(where)
        chosen = np.linspace(0, len(values) - 1, min(most, len(values)), dtype=int)
        return np.ascontiguousarray(_levels(values[chosen]).transpose(0, 2, 3, 1))

    def _read(self, where: str) -> NDArray[Any]:
        try:
            with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
                members = archive.infolist()
                if [member.filename for member in members] != [ARRAY]:
                    # By its entry, not its name: a name that was damaged may be another's.
                    frames = [_picture(archive.read(member)) for member in members]
                    return np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2))
                with archive.open(ARRAY) as member:
                    values: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        except _BROKEN as error:
            raise _damaged(where, error) from error
        if values.ndim != 4 or values.dtype != np.int16:
            raise _damaged(where, ValueError(f"{values.dtype} {values.shape} are no pixels"))
        return values


def _levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Whole levels of pixels as they travel."""
    if values.dtype == np.uint8:
        return values
    return np.clip((values.astype(np.int32) + AT * STEPS + STEPS // 2) // STEPS, 0, 255).astype(np.uint8)


def _array(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)
    return file.getvalue()


def _pictures(levels: NDArray[np.uint8]) -> Iterable[tuple[str, bytes]]:
    for number, frame in enumerate(levels.transpose(0, 2, 3, 1)):
        file = io.BytesIO()
        picture = Image.fromarray(np.ascontiguousarray(frame))
        picture.save(file, "WEBP", lossless=True, exact=True, **EFFORT)
        yield f"{number:03d}{PICTURE}", file.getvalue()


def _picture(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data), formats=("WEBP",)).convert("RGB"))


def _damaged(where: str, error: Exception) -> InputError:
    return InputError(
        f"{where or 'a clip of the shards'}: its stored frames are damaged ({error}); run `videollava shards` and "
        "`videollava index` again"
    )
