"""Members of zips that are packed by Deflate64, as Windows packs large files; zipfile does not read them."""

from __future__ import annotations

import copy
import io
import threading
import zipfile
import zlib
from typing import IO, Any

from videollava.errors import InputError

__all__ = ["DEFLATE64", "open_deflate64"]

DEFLATE64 = 9  # method of a zip's entry
# Bytes that are unpacked at once. At most 26 MiB come of them: of two bits, a copy of 65,538.
FED = 1 << 10


class _Feed(threading.local):
    """What Inflater is given. It never lets go of that (1.0.4): were it new each time, all that is read would stay."""

    def __init__(self) -> None:
        self.bytes = bytearray(FED)


_FEED = _Feed()


def open_deflate64(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    """A member as a stream of what it was before it was packed.

    Reading raises BadZipFile where that is not of the size and the sum that the entry says.
    """
    packed = copy.copy(entry)
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, entry.compress_size
    del packed.CRC  # it is of the unpacked bytes; zipfile asks for none where none is
    return io.BufferedReader(_Inflated(archive.open(packed), entry), 1 << 16)


class _Inflated(io.RawIOBase):
    def __init__(self, packed: IO[bytes], entry: zipfile.ZipInfo) -> None:
        try:
            from inflate64 import Inflater
        except ImportError as error:
            raise InputError(
                f"{entry.filename}: packed by Deflate64, which inflate64 reads; `pip install inflate64`"
            ) from error
        self._packed, self._entry, self._inflater = packed, entry, Inflater()
        self._ready = memoryview(b"")
        self._size = self._sum = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._inflater.eof:
            self._ready = memoryview(self._inflate())
        if not self._ready:
            self._check(self._size == self._entry.file_size and self._sum == self._entry.CRC)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _inflate(self) -> bytes:
        """The next bytes, perhaps none yet."""
        fed = _FEED.bytes
        count = self._packed.readinto(fed)  # type: ignore[attr-defined]
        self._check(count > 0)
        try:
            data: bytes = self._inflater.inflate(fed if count == FED else memoryview(fed)[:count])
        except ValueError as error:
            raise zipfile.BadZipFile(f"{self._entry.filename}: damaged ({error})") from error
        self._size, self._sum = self._size + len(data), zlib.crc32(data, self._sum)
        self._check(self._size <= self._entry.file_size)
        return data

    def _check(self, good: bool) -> None:
        if not good:
            raise zipfile.BadZipFile(f"{self._entry.filename}: not of the size or the sum that the zip says")

    def close(self) -> None:
        self._packed.close()
        super().close()
