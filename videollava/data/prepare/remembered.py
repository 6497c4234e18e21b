"""What is worked out once and kept follows from the code and the libraries too: a digest of these."""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import lru_cache
from pathlib import Path

__all__ = ["digest_of_code"]

DATA = Path(__file__).parents[1]


@lru_cache(maxsize=8)
def digest_of_code(rooms: tuple[str, ...], libraries: tuple[str, ...]) -> str:
    """Of the files of rooms (or single files) of data/, and the versions of libraries."""
    digest = hashlib.sha256()
    for room in rooms:
        place = DATA / room
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    for name in libraries:
        try:
            digest.update(f"{name} {importlib.metadata.version(name)}".encode())
        except importlib.metadata.PackageNotFoundError:
            digest.update(f"no {name}".encode())
    return digest.hexdigest()[:16]
