"""Sums of shards. A file that is as it was is not read again: the media of two million samples take most of an hour."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

__all__ = ["Sums"]

NAMES = ("sha256", "md5")  # the second is what DVC calls a file
BLOCK = 1 << 22

Stamp = list[int]  # size, time of writing and inode: what tells whether a file is as it was


class Sums:
    """Of files, with what was found before in `memory`, a file that may be lost; None: nothing is kept."""

    def __init__(self, memory: Path | None) -> None:
        self._memory = memory
        self._known: dict[str, tuple[Stamp, dict[str, str]]] = {}
        self._used: dict[str, tuple[Stamp, dict[str, str]]] = {}
        try:
            read = json.loads(memory.read_text()) if memory else {}
            self._known = {
                name: (stamp, {key: sums[key] for key in NAMES}) for name, (stamp, sums) in read.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # not there, or cut off by a full disk

    def of(self, file: Path) -> dict[str, str]:
        """The sums of one file, in hexadecimal."""
        state = file.stat()
        stamp = [state.st_size, state.st_mtime_ns, state.st_ino]
        before, sums = self._known.get(str(file), ([], {}))
        if before != stamp:
            sums = _sum(file)
        self._used[str(file)] = stamp, sums
        return sums

    def keep(self) -> None:
        """Keep what was asked for, and no more."""
        if self._memory:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            half = self._memory.with_suffix(".tmp")
            half.write_text(json.dumps(self._used))
            half.replace(self._memory)


def _sum(file: Path) -> dict[str, str]:
    sums = {name: hashlib.new(name, usedforsecurity=False) for name in NAMES}
    with file.open("rb") as data:
        while block := data.read(BLOCK):
            for digest in sums.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in sums.items()}
