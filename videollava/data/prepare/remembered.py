"""What was worked out before, kept by all that it follows from: the input, the code, the libraries.

It lies outside the outputs, which are removed before their stage runs, and may be lost at any time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["digest_of_code", "drop_unused", "remember"]

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


def remember(folder: Path | None, parts: Iterable[Any], work: Callable[[], Any]) -> Any:
    """What `work` gives, a plain value, or what it gave for the same `parts` (plain values) before."""
    if folder is None:
        return work()
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")
    file = folder / f"{digest.hexdigest()}.json"
    try:
        known = json.loads(file.read_bytes())
        os.utime(file)
        return known
    except (OSError, ValueError):
        pass  # not there, or cut off by a full disk
    found = work()
    folder.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(f".{os.getpid()}.tmp")
    half.write_text(json.dumps(found, separators=(",", ":")))
    half.replace(file)
    return found


def drop_unused(folder: Path, since: float) -> None:
    """Remove what was neither used nor written since a time (time.time())."""
    for file in folder.glob("*"):
        if file.stat().st_mtime < min(since, time.time()) - 1:
            file.unlink(missing_ok=True)
