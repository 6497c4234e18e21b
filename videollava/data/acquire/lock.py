"""A source's lock, `locks/NAME.json`: which files it is made of, as they were first seen; git keeps it.

Files stand in the order of first sight and keep their place; those that come later are put behind them and have a
higher `seen`. A sum is what the source says of it, what params.yaml declares, or what the first download had.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from videollava.errors import InputError

__all__ = ["LOCKS", "Lock", "LockedFile", "look_again", "place_locks", "read_lock", "write_lock"]

LOCKS = Path("locks")


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A file of a source: its name under data/raw/NAME and where it is had from.

    size: bytes (-1: nobody says before it is there). sha256: "" until it is known. version: of its object (an ETag,
    a version's id, a commit, a package's version). seen: the number of the look at which it first appeared.
    """

    name: str
    url: str = ""
    size: int = -1
    sha256: str = ""
    version: str = ""
    seen: int = 1


@dataclass(frozen=True)
class Lock:
    """What was asked for, and the files that were seen."""

    source: Mapping[str, Any]
    files: tuple[LockedFile, ...] = field(default=())

    @property
    def looks(self) -> int:
        """How often new files were seen."""
        return max((file.seen for file in self.files), default=0)

    def with_sums(self, sums: Mapping[str, tuple[int, str]]) -> Lock:
        """With size and sha256 of the files that were fetched, by name."""
        files = (
            replace(file, size=sums[file.name][0], sha256=sums[file.name][1]) if file.name in sums else file
            for file in self.files
        )
        return Lock(self.source, tuple(files))


def read_lock(workspace: Path, name: str) -> Lock | None:
    """A source's lock, None where it has none. InputError where it can't be read."""
    path = workspace / LOCKS / f"{name}.json"
    try:
        held = json.loads(path.read_text())
        return Lock(held["source"], tuple(LockedFile(**entry) for entry in held["files"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: no lock can be read there ({' '.join(str(error).split())}); take it from git again, or remove it "
            f"and run `videollava data lock {name}`"
        ) from error


def write_lock(workspace: Path, name: str, lock: Lock) -> bool:
    """Write a source's lock, whole or not at all; whether that changed it. Equal locks have equal bytes."""
    path = workspace / LOCKS / f"{name}.json"
    entries = ",\n".join("  " + json.dumps(asdict(file), ensure_ascii=False) for file in lock.files)
    source = json.dumps(lock.source, sort_keys=True, ensure_ascii=False)
    text = f'{{"source": {source},\n "files": [{chr(10) + entries + chr(10) if entries else ""} ]}}\n'
    if path.is_file() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return True


def place_locks(workspace: Path, names: Iterable[str]) -> None:
    """An empty lock for each source that has none: DVC wants the file, and the first fetch fills it."""
    for name in names:
        if not (workspace / LOCKS / f"{name}.json").exists():
            write_lock(workspace, name, Lock({}))


def look_again(before: Lock | None, source: Mapping[str, Any], found: Iterable[LockedFile]) -> Lock:
    """The lock after another look: what is there still keeps its place, its number and, unchanged, its sum.

    A sum that is known also stays where the address changed and name and size did not: then it is what the file that
    is had from there must be.
    """
    known = {file.name: file for file in before.files} if before is not None else {}
    number = (before.looks if before is not None else 0) + 1
    now = {file.name: file for file in found}
    kept = [_merge(file, now[name]) for name, file in known.items() if name in now]
    new = [replace(file, seen=number) for name, file in now.items() if name not in known]
    return Lock(source, (*kept, *new))


def _merge(before: LockedFile, now: LockedFile) -> LockedFile:
    same = now.size in (before.size, -1) and (now.url != before.url or now.version == before.version)
    known = before if same and not now.sha256 else now
    size = now.size if now.size >= 0 or not same else before.size
    return replace(now, size=size, sha256=known.sha256, seen=before.seen)
