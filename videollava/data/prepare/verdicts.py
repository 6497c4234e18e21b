"""What was found when a medium was opened, kept by its content: it is opened once ever.

A folder of SQLite files: each process that finds something writes its own, all are read. Beside the verdicts stand
the contents of the members of archives, so that a member of an archive that was seen before is not even read; one of
another archive with the same bytes is read, and not decoded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from videollava.data.prepare.inspection import Inspected
from videollava.data.prepare.remembered import digest_of_code
from videollava.data.records.marks import MediumKind

__all__ = ["Contents", "Verdicts"]

# What opens media, and so decides: others may find otherwise.
OPENERS = ("decord", "av", "pillow")
TABLE = (
    "create table if not exists seen (archive text, member text, kind text, opener text, sha256 text, "
    "width int, height int, frames int, reason text, detail text, look text, "
    "primary key (archive, member, kind, opener))"
)
CONTENT = "create index if not exists content on seen (sha256, kind, opener)"
AT_ONCE = 500  # names in one question
COLUMNS = ("sha256", "width", "height", "frames", "reason", "detail", "look")


class Verdicts:
    """Reads all files of `folder` and writes `<writer>.sqlite` in it.

    An archive is named by the sha256 of its bytes: where it lies does not matter.
    """

    def __init__(self, folder: Path, writer: str = "own") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"{writer}.sqlite"
        self._own = _open(own)
        self._all = [self._own, *(_open(file) for file in sorted(folder.glob("*.sqlite")) if file != own)]
        self._opener = _opener()
        self.contents = Contents(folder)

    def __enter__(self) -> Verdicts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for base in self._all:
            base.close()

    def of_members(self, archive: str, kind: str, names: Sequence[str]) -> dict[str, Inspected]:
        """By name, what is known of members of an archive."""
        known: dict[str, Inspected] = {}
        for base in self._all:
            for start in range(0, len(names), AT_ONCE):
                part = names[start : start + AT_ONCE]
                marks = ", ".join("?" * len(part))
                asked = (
                    f"select member, {', '.join(COLUMNS)} from seen "
                    f"where archive = ? and kind = ? and opener = ? and member in ({marks})"
                )
                for name, *values in base.execute(asked, (archive, kind, self._opener, *part)):
                    known[name] = Inspected(name, kind, *values)  # type: ignore[arg-type]
        return known

    def add(self, archive: str, found: Iterable[Inspected]) -> None:
        """Keep what was found of members of an archive."""
        names = [field.name for field in fields(Inspected)]
        rows = [dict(zip(names, astuple(seen), strict=True)) for seen in found]
        with self._own:
            self._own.executemany(
                f"insert or replace into seen (archive, member, kind, opener, {', '.join(COLUMNS)}) "
                f"values (:archive, :name, :kind, :opener, {', '.join(f':{name}' for name in COLUMNS)})",
                [{**row, "archive": archive, "opener": self._opener} for row in rows],
            )


@dataclass(frozen=True)
class Contents:
    """What is known of contents, whatever they were called: for processes that open media and write no verdicts."""

    folder: Path

    def __call__(self, sha256: str, kind: MediumKind) -> Inspected | None:
        """What was found of the same bytes, taken for the same kind, by the openers of today."""
        asked = f"select member, {', '.join(COLUMNS)} from seen where sha256 = ? and kind = ? and opener = ? limit 1"
        for base in _readers(self.folder):
            try:
                found = base.execute(asked, (sha256, kind, _opener())).fetchone()
            except sqlite3.Error:  # another process is about to make it
                continue
            if found:
                return Inspected(found[0], kind, *found[1:])
        return None


@lru_cache(maxsize=1)
def _readers(folder: Path) -> list[sqlite3.Connection]:
    return [
        sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=60)
        for file in sorted(folder.glob("*.sqlite"))
    ]


def _opener() -> str:
    return digest_of_code(("media",), OPENERS)


def _open(file: Path) -> sqlite3.Connection:
    base = sqlite3.connect(file, timeout=60)
    try:
        base.execute(TABLE)
        base.execute(CONTENT)
        base.execute(f"select {', '.join(COLUMNS)} from seen limit 0")
    except sqlite3.DatabaseError:  # cut off by a full disk, or of other columns: it can be found out again
        base.close()
        file.unlink()
        base = sqlite3.connect(file, timeout=60)
        base.execute(TABLE)
        base.execute(CONTENT)
    return base
