"""Sums of files that were fetched, noted beside a fetch that isn't done: after a kill nothing is fetched twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from videollava.data.acquire.lock import LockedFile

__all__ = ["Noted"]


class Noted:
    """What was fetched so far, in a file that is written as it goes."""

    def __init__(self, path: Path) -> None:
        self._sums: dict[tuple[Any, ...], tuple[int, str]] = {}
        if path.is_file():
            for line in path.read_text(errors="replace").splitlines():
                try:
                    name, url, size, version, found, digest = json.loads(line)
                    self._sums[name, url, size, version] = found, digest
                except (ValueError, TypeError):
                    continue  # cut by a kill
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = path.open("a")

    def known(self, file: LockedFile) -> LockedFile:
        """A file with the sum that it had when it was fetched, where nobody says another."""
        found = self._sums.get(_key(file))
        return file if found is None or file.sha256 else replace(file, size=found[0], sha256=found[1])

    def add(self, file: LockedFile, size: int, digest: str) -> None:
        """Note a file that was fetched."""
        if _key(file) not in self._sums:
            self._file.write(json.dumps([*_key(file), size, digest]) + "\n")
            self._file.flush()

    def __enter__(self) -> Noted:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _key(file: LockedFile) -> tuple[str, str, int, str]:
    return file.name, file.url, file.size, file.version
