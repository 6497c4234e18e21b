"""Bytes and their sums: files are hashed as they are written, and never read back for it.

Weights are safetensors files, written piece by piece from a buffer that is laid out as the file is: nothing in them is
code, and any tool reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["Sum", "Summing", "sum_of", "write_tensors", "write_text"]

PIECE = 16 << 20
# As safetensors names them.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Sum:
    """A file's SHA-256 and size."""

    sha256: str
    size: int


class Summing:
    """A file to write into, that sums what passes; a context, on the disk when it ends. `sum` then tells."""

    def __init__(self, path: Path) -> None:
        self._path, self._digest, self._size = path, hashlib.sha256(), 0

    def __enter__(self) -> Summing:
        self._file = open(self._path, "wb")
        return self

    def write(self, data: Any) -> int:
        """Append bytes."""
        self._digest.update(data)
        written = self._file.write(data)
        self._size += written
        return written

    def flush(self) -> None:
        """For those who think it a file."""
        self._file.flush()

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    @property
    def sum(self) -> Sum:
        """Of what was written."""
        return Sum(self._digest.hexdigest(), self._size)


def write_tensors(
    path: Path, layout: Mapping[str, tuple[torch.dtype, tuple[int, ...], int]], data: Tensor
) -> Sum:
    """A safetensors file of `data` (bytes on the host), in which `layout` names tensors: type, shape, first byte."""
    header: dict[str, Any] = {}
    for name, (dtype, shape, start) in layout.items():
        end = start + dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with Summing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        raw = data.numpy().data  # no copy
        for start in range(0, len(raw), PIECE):
            file.write(raw[start : start + PIECE])
    return file.sum


def write_text(path: Path, text: str) -> Sum:
    """A small file."""
    with Summing(path) as file:
        file.write(text.encode())
    return file.sum


def sum_of(path: Path) -> Sum:
    """Of a file that is there."""
    with open(path, "rb") as file:
        return Sum(hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)
