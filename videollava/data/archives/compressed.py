"""What compressed a file, told by its first bytes: gz, bz2, xz, zst, lz4; a zip is an archive."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["find_opener"]

Opener = Callable[[Any], Any]


def find_opener(head: bytes) -> Opener | None:
    """From a path or an open file to a stream of what is in it, for a file that begins so; None: not compressed."""
    return next((_OPENERS[start] for start in _OPENERS if head.startswith(start)), None)


def _open_arrow(source: Any, *, codec: str) -> Any:
    """What Python's own library cannot decompress."""
    import pyarrow as pa

    file = pa.OSFile(str(source)) if isinstance(source, str | Path) else pa.PythonFile(source, "r")
    return pa.CompressedInputStream(file, codec)


_OPENERS: dict[bytes, Opener] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
    b"\x28\xb5": partial(_open_arrow, codec="zstd"),
    b"\x04\x22": partial(_open_arrow, codec="lz4"),
}
