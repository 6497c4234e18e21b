"""What a source looks like before it is fetched: its files, what they hold, the format that its first records have."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from videollava.data.acquire.declared import folder_of, where
from videollava.data.acquire.hub import hub_address
from videollava.data.acquire.lock import Lock, LockedFile
from videollava.data.acquire.remote import open_url
from videollava.data.acquire.replies import Body, Span, TransientError
from videollava.data.acquire.s3_client import access_of
from videollava.data.archives.parts import is_archive, is_part
from videollava.data.records.endings import kind_of_file
from videollava.data.records.formats.table import LOOKED_AT, guess_format
from videollava.data.records.items import is_annotations, read_items
from videollava.errors import InputError
from videollava.params import Source

__all__ = ["Sight", "look_into"]

START = 8 << 20  # bytes of annotations that are read for a guess


@dataclass(frozen=True)
class Sight:
    """What is seen. counts: files by what they are. annotations: names. told: of the guess, or why there is none."""

    files: int
    size: int
    counts: dict[str, int]
    annotations: tuple[str, ...]
    form: str
    told: str

    def lines(self) -> list[str]:
        """In words."""
        parts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        return [f"{self.files} files, {_in_words(self.size)}: {parts}", self.told]


def look_into(source: Source, lock: Lock, workspace: Path) -> Sight:
    """Look at a source's files as they are locked; of annotations only the start is read."""
    names = tuple(file.name for file in lock.files if is_annotations(file.name))
    counts = Counter(_what(file.name) for file in lock.files)
    size = sum(max(file.size, 0) for file in lock.files)
    form, told = _guess(source, lock, workspace)
    return Sight(len(lock.files), size, dict(counts), names, form, told)


def _what(name: str) -> str:
    if is_annotations(name):
        return "annotations"
    kind = kind_of_file(name)
    if kind:
        return f"{kind} files"
    plain = name.rpartition("/")[2]
    return "parts of archives" if is_part(plain) else "archives" if is_archive(plain) else "others"


def _guess(source: Source, lock: Lock, workspace: Path) -> tuple[str, str]:
    file = next((file for file in lock.files if is_annotations(file.name)), None)
    if file is None:
        return "", "no annotations lie beside the archives: the format is seen once they are fetched"
    try:
        with _opened(source, file, workspace) as stream:
            items = list(islice(read_items(stream, file.name), LOOKED_AT))
        form, told = guess_format(items, file.name)
        return form.name, told
    except (InputError, TransientError, OSError, ValueError) as error:
        return "", f"no format is seen: {error}"


@contextmanager
def _opened(source: Source, file: LockedFile, workspace: Path) -> Iterator[IO[bytes]]:
    if source.kind == "folder":
        with (folder_of(source, workspace) / file.name).open("rb") as opened:
            yield opened
        return
    urls = [
        url
        for url in (*source.urls, source.annotations)
        if url.rpartition("/")[2].partition("?")[0] == file.name
    ]
    url = urls[0] if urls else hub_address(file.url)
    with open_url(url, Span(), "", where(source), access_of(source)) as answer:
        yield io.BufferedReader(_Start(answer.body), 1 << 16)


class _Start(io.RawIOBase):
    """The start of what comes, as a file: what follows is not waited for."""

    def __init__(self, body: Body) -> None:
        self._body, self._left = body, START

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._body.readinto(memoryview(buffer)[: self._left]) if self._left else 0
        self._left -= count
        return count


def _in_words(size: int) -> str:
    for unit, least in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size} bytes"
