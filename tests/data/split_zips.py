"""Writes split zips as `zip -s` does: x.z01, x.z02, .., x.zip."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

__all__ = ["split_zip"]

TIME, DATE = 0x6000, 0x5A21  # 12:00:00 on 1 January 2025
FULL, HALF_FULL = 0xFFFFFFFF, 0xFFFF


class _Parts:
    """What is written, cut every `size` bytes; a record lies within one part, as the specification wants it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts = [bytearray()]

    def record(self, data: bytes) -> tuple[int, int]:
        """Where it begins: number of the part, place in it."""
        if len(self.parts[-1]) + len(data) > self.size:
            self.parts.append(bytearray())
        begins = len(self.parts) - 1, len(self.parts[-1])
        self.parts[-1] += data
        return begins

    def data(self, data: bytes) -> None:
        while data:
            if len(self.parts[-1]) == self.size:
                self.parts.append(bytearray())
            count = self.size - len(self.parts[-1])
            self.parts[-1] += data[:count]
            data = data[count:]


def split_zip(
    path: Path, files: Mapping[str, bytes], size: int, *, wide: bool = False, deflate: bool = False
) -> list[Path]:
    """The parts of `path` (.../x.zip), of `size` bytes each, in order. wide: all that can stands in fields of zip64."""
    parts = _Parts(size)
    parts.record(b"PK\x07\x08")
    directory = []
    for name, content in files.items():
        packed = zlib.compress(content, wbits=-15) if deflate else content
        needed, method = 45 if wide else 20 if deflate else 10, 8 if deflate else 0
        fields = (needed, 0, method, TIME, DATE, zlib.crc32(content))
        sizes = (FULL, FULL) if wide else (len(packed), len(content))
        extra = struct.pack("<2H2Q", 1, 16, len(content), len(packed)) if wide else b""
        header = struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields, *sizes, len(name.encode()), len(extra))
        disk, offset = parts.record(header + name.encode() + extra)
        parts.data(packed)
        if wide:
            extra = struct.pack("<2H3QL", 1, 28, len(content), len(packed), offset, disk)
            disk, offset = HALF_FULL, FULL
        lengths = (len(name.encode()), len(extra), 0)
        rest = (*lengths, disk, 0, 0o100644 << 16, offset)
        entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 0x31E, *fields, *sizes, *rest)
        directory.append(entry + name.encode() + extra)
    starts = [parts.record(entry) for entry in directory] or [parts.record(b"")]
    _end(parts, starts, sum(map(len, directory)), wide=wide)
    named = [path.with_suffix(f".z{number:02d}") for number in range(1, len(parts.parts))] + [path]
    for file, data in zip(named, parts.parts, strict=True):
        file.write_bytes(data)
    return named


def _end(parts: _Parts, starts: list[tuple[int, int]], size: int, *, wide: bool) -> None:
    disk, offset = starts[0]
    here = sum(start[0] == len(parts.parts) - 1 for start in starts)
    counts = (here, len(starts))
    if wide:
        number = len(parts.parts) - 1
        record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, number, disk, *counts, size, offset)
        place = parts.record(record)
        parts.record(struct.pack("<4sLQL", b"PK\x06\x07", *place, len(parts.parts)))
        counts, disk, size, offset = (HALF_FULL, HALF_FULL), HALF_FULL, FULL, FULL
    number = len(parts.parts) - 1
    parts.record(struct.pack("<4s4H2LH", b"PK\x05\x06", number, disk, *counts, size, offset, 0))
