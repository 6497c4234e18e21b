"""Files in a row, read as the one that they were cut from; nothing is copied."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import IO, Any

__all__ = ["Joined", "open_joined"]


class Joined(io.RawIOBase):
    """Files (by their paths), or bytes that stand for one, as one file to be read.

    One file is open at a time: an archive may come in a thousand parts. `starts`: where each begins.
    """

    def __init__(self, parts: Sequence[str | bytes]) -> None:
        self.parts = tuple(parts)
        sizes = [len(part) if isinstance(part, bytes) else os.stat(part).st_size for part in self.parts]
        *self.starts, self.size = accumulate(sizes, initial=0)
        self._place = 0
        self._opened: tuple[int, IO[bytes]] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        if place < 0:
            raise ValueError(f"byte {place} is before the archive's start")
        self._place = place
        return place

    def readinto(self, buffer: Any) -> int:
        if self._place >= self.size:
            return 0
        number = (
            bisect_right(self.starts, self._place) - 1
        )  # the last of those that begin here: others are empty
        within = self._place - self.starts[number]
        part = self.parts[number]
        if isinstance(part, bytes):
            data = part[within : within + len(buffer)]
        else:
            file = self._file(number, part)
            file.seek(within)
            data = file.read(len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _file(self, number: int, path: str) -> IO[bytes]:
        if self._opened is None or self._opened[0] != number:
            self._shut()
            self._opened = (number, open(path, "rb", buffering=0))  # noqa: SIM115
        return self._opened[1]

    def _shut(self) -> None:
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def close(self) -> None:
        self._shut()
        super().close()


def open_joined(files: Sequence[str]) -> IO[bytes]:
    """A file, or several as one, to be read from any place."""
    return open(files[0], "rb") if len(files) == 1 else io.BufferedReader(Joined(files), 1 << 16)
