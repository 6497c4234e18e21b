"""Copies of artifacts (runs/artifacts) that are no longer needed: what arrived goes, and the oldest beyond a bound."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from videollava.tracking.journal import journals

__all__ = ["STORE_LIMIT", "tidy"]

STORE_LIMIT = 2 << 30  # bytes of copies that wait for a server
FRESH = 600.0  # seconds in which a journal may come to name a copy that is there


def tidy(runs: Path, limit: int = STORE_LIMIT) -> int:
    """Remove copies that every journal naming them has sent; and the oldest of those that wait beyond `limit` bytes.
    How many were removed. What is sent later without its copy is counted there as skipped.
    """
    store = runs / "artifacts"
    there = [path for path in store.iterdir() if path.is_dir()] if store.is_dir() else []
    waiting = {name for path in journals(runs) if not _arrived(path) for name in _named(path, store)}
    old = [path for path in there if path.stat().st_mtime < time.time() - FRESH]
    going = [path for path in old if path.name not in waiting]
    kept = sorted((path for path in old if path.name in waiting), key=lambda path: path.stat().st_mtime)
    size = {path: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in kept}
    over = sum(size.values()) - limit
    for path in kept:
        if over <= 0:
            break
        going.append(path)
        over -= size[path]
    for path in going:
        shutil.rmtree(path, ignore_errors=True)
    return len(going)


def _arrived(path: Path) -> bool:
    """Whether a server has the whole journal (`<journal>.<server>.json`, which forward.py writes)."""
    return any(_whole(state, path.stat().st_size) for state in path.parent.glob(f"{path.stem}.*.json"))


def _whole(state: Path, size: int) -> bool:
    try:
        held = json.loads(state.read_text())
        return int(held["offset"]) >= size and not held.get("owed")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _named(path: Path, store: Path) -> set[str]:
    """Names of the copies that the journal's artifacts are."""
    found = set()
    with path.open("rb") as stream:
        for line in stream:
            if b'"event": "artifact"' in line:
                try:
                    place = Path(json.loads(line)["path"])
                except (ValueError, KeyError):
                    continue
                found |= (
                    {place.relative_to(store.resolve()).parts[0]}
                    if place.is_relative_to(store.resolve())
                    else set()
                )
    return found
