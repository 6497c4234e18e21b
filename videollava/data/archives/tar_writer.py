"""Writes tar archives so that equal content gives equal bytes."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from types import TracebackType
from typing import IO

__all__ = ["TarWriter"]


class TarWriter:
    """Writes a tar whose bytes depend on names and contents alone."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._size = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member and return the offset of its bytes in the file."""
        header = _header(name, len(data))
        offset = self._size + len(header)
        padding = bytes(-len(data) % tarfile.BLOCKSIZE)
        for part in (header, data, padding):
            self._file.write(part)
        self._size = offset + len(data) + len(padding)
        return offset

    @staticmethod
    def begins(name: str, size: int, end: int) -> int:
        """The offset of a member's bytes where the one before it ends at `end`."""
        return end + len(_header(name, size))

    @staticmethod
    def ends(offset: int, size: int) -> int:
        """Where the next member's header begins."""
        return offset + size + -size % tarfile.BLOCKSIZE

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            end = self._size + 2 * tarfile.BLOCKSIZE
            self._file.write(bytes(end + -end % tarfile.RECORDSIZE - self._size))
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)
