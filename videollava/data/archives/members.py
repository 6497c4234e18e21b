"""Members of archives, found by list_members (archives.py): their bytes, at once or as a stream."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any

from videollava.data.archives.deflate64 import DEFLATE64, open_deflate64
from videollava.data.archives.joined import open_joined
from videollava.data.archives.split_zip import open_zip

__all__ = ["DAMAGED", "Member", "Refusal", "have_same_bytes", "open_entry", "open_member", "read_member"]

# What reading a damaged archive raises.
DAMAGED: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, OverflowError, NotImplementedError),
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    `offset` is where its bytes start in the archive, -1 where they're compressed; `entry` its number in a zip.
    `written` is its name as the archive has it, `legacy` the bytes of that where nothing says what they mean.
    `parts`: all files of an archive in parts, in order; `archive` is one of them.
    """

    archive: str
    name: str
    size: int
    offset: int
    entry: int = -1
    written: str = ""
    legacy: bytes = b""
    parts: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it lies in."""
        return self.parts or (self.archive,)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A member (or a whole archive, named "") that is not read, and why."""

    archive: str
    name: str
    reason: str
    detail: str = ""


def read_member(member: Member) -> bytes:
    """The bytes of a member; one of DAMAGED where the archive is."""
    if member.offset < 0:
        archive = _open_zip(member.files, _versions(member.files))
        with open_entry(archive, _zip_entry(archive, member)) as file:
            data = file.read(member.size + 1)
    elif member.parts:
        with open_member(member) as file:
            data = file.read()
    else:
        archive_file = _open_file(member.archive, _versions(member.files))
        data = os.pread(archive_file.fileno(), member.size, member.offset)
    if len(data) != member.size:
        raise OSError(f"{member.archive}: {member.name} has not the {member.size} bytes it should have")
    return data


def open_member(member: Member) -> IO[bytes]:
    """A member as a stream, for what is too large to hold."""
    if member.offset < 0:
        archive = open_zip(member.files)
        return open_entry(archive, _zip_entry(archive, member))
    return io.BufferedReader(_Window(open_joined(member.files), member.offset, member.size), 1 << 20)


def open_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    """A zip's entry as a stream of its bytes, unpacked."""
    return open_deflate64(archive, entry) if entry.compress_type == DEFLATE64 else archive.open(entry)


def _zip_entry(archive: zipfile.ZipFile, member: Member) -> zipfile.ZipInfo:
    # By number: of two entries of one name, the name opens the last.
    return archive.infolist()[member.entry] if member.entry >= 0 else archive.getinfo(member.name)


class _Window(io.RawIOBase):
    """Part of a file, as a file."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._file = file
        self._file.seek(offset)
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _versions(files: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    # A file that was replaced is another file: kept open, the old one would still be read.
    states = [os.stat(file) for file in files]
    return tuple((state.st_ino, state.st_mtime_ns) for state in states)


@lru_cache(maxsize=64)
def _open_file(path: str, versions: tuple[tuple[int, int], ...]) -> IO[bytes]:
    return open(path, "rb", buffering=0)


@lru_cache(maxsize=16)
def _open_zip(files: tuple[str, ...], versions: tuple[tuple[int, int], ...]) -> zipfile.ZipFile:
    return open_zip(files)


def have_same_bytes(one: Member, other: Member) -> bool:
    """Whether two members hold the same; one that cannot be read is like no other."""
    if one.size != other.size:
        return False
    try:
        with open_member(one) as first, open_member(other) as second:
            while block := first.read(1 << 20):
                if block != second.read(1 << 20):
                    return False
    except DAMAGED:
        return False
    return True
