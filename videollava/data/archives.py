"""Tar and zip archives: written so that equal content gives equal bytes, read without trusting them.

Nothing is ever extracted to a path that an archive names. A member that could do harm, or that is not what
it claims to be, comes out as a Refusal with its reason.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any

from videollava.errors import InputError

__all__ = [
    "DAMAGED",
    "Member",
    "Refusal",
    "TarWriter",
    "is_safe",
    "list_members",
    "open_member",
    "read_member",
    "unpack_compressed",
]

MAX_MEMBER = 4 << 30  # bytes of one member
MAX_RATIO = 200  # times its compressed size that a member or an archive may grow
FREE = 64 << 20  # growth up to this size is never a bomb

# What reading a damaged archive raises.
DAMAGED: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, OverflowError, NotImplementedError),
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive. `offset` is where its bytes start in the archive, -1 where they're compressed."""

    archive: str
    name: str
    size: int
    offset: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A member (or a whole archive, named "") that is not read, and why."""

    archive: str
    name: str
    reason: str
    detail: str = ""


class TarWriter:
    """Writes a tar whose bytes depend on names and contents alone."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._size = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member and return the offset of its bytes in the file."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        header = info.tobuf(tarfile.PAX_FORMAT)
        offset = self._size + len(header)
        padding = bytes(-len(data) % tarfile.BLOCKSIZE)
        for part in (header, data, padding):
            self._file.write(part)
        self._size = offset + len(data) + len(padding)
        return offset

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            end = self._size + 2 * tarfile.BLOCKSIZE
            self._file.write(bytes(end + -end % tarfile.RECORDSIZE - self._size))
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()


def is_safe(name: str) -> bool:
    """Whether a member's name stays inside the archive: relative, no "..", no other system's separators."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and not set(name) & set("\\\0:\n\r")


def list_members(archive: Path) -> Iterator[Member | Refusal]:
    """Every regular file of a plain tar or a zip, in its order; unpack compressed tars first."""
    listed = _list_zip(archive) if zipfile.is_zipfile(archive) else _list_tar(archive)
    seen: set[str] = set()
    try:
        for member in listed:
            if isinstance(member, Member) and member.name in seen:
                yield Refusal(str(archive), member.name, "duplicate member", "the first one is used")
                continue
            seen.add(member.name)
            yield member
    except DAMAGED as error:
        yield Refusal(str(archive), "", "unreadable archive", f"{error} (a tar or a zip is expected)")


def _list_tar(archive: Path) -> Iterator[Member | Refusal]:
    total = archive.stat().st_size
    with tarfile.open(archive, "r:") as tar:
        while (info := tar.next()) is not None:
            if not info.isdir():
                yield _check_tar(str(archive), info, total)
            tar.members.clear()  # type: ignore[attr-defined]  # or the headers of millions stay in memory
        end = tar.offset
    # tarfile takes a broken header for the end.
    with archive.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            yield Refusal(str(archive), "", "damaged archive", f"no tar header at byte {end} of {total}")


def _check_tar(archive: str, info: tarfile.TarInfo, total: int) -> Member | Refusal:
    name = info.name.removeprefix("./")
    if not is_safe(name):
        return Refusal(archive, name, "unsafe member", "its path leads outside the archive")
    if info.issym() or info.islnk():
        return Refusal(archive, name, "unsafe member", f"a link to {info.linkname}")
    if not info.isreg() or info.issparse():
        return Refusal(archive, name, "unsafe member", "not a regular file")
    if info.size > MAX_MEMBER:
        return Refusal(archive, name, "too large", f"{info.size} bytes, at most {MAX_MEMBER} are read")
    if info.offset_data + info.size > total:
        return Refusal(archive, name, "damaged archive", "the archive ends before the member does")
    return Member(archive, name, info.size, info.offset_data)


def _list_zip(archive: Path) -> Iterator[Member | Refusal]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if not info.is_dir():
                yield _check_zip(str(archive), info)


def _check_zip(archive: str, info: zipfile.ZipInfo) -> Member | Refusal:
    name = info.filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    if not is_safe(name):
        return Refusal(archive, name, "unsafe member", "its path leads outside the archive")
    if kind not in (0, stat.S_IFREG):
        return Refusal(archive, name, "unsafe member", "not a regular file")
    if info.flag_bits & 1:
        return Refusal(archive, name, "unreadable member", "encrypted")
    if info.file_size > MAX_MEMBER:
        return Refusal(archive, name, "too large", f"{info.file_size} bytes, at most {MAX_MEMBER} are read")
    if info.file_size > FREE and info.file_size > MAX_RATIO * max(info.compress_size, 1):
        grown = f"{info.compress_size} bytes grow to {info.file_size}"
        return Refusal(archive, name, "decompression bomb", grown)
    return Member(archive, name, info.file_size, -1)


def read_member(member: Member) -> bytes:
    """The bytes of a member; one of DAMAGED where the archive is."""
    if member.offset < 0:
        with _open_zip(*_version(member.archive)).open(member.name) as file:
            data = file.read(member.size + 1)
    else:
        data = os.pread(_open_file(*_version(member.archive)).fileno(), member.size, member.offset)
    if len(data) != member.size:
        raise OSError(f"{member.archive}: {member.name} has not the {member.size} bytes it should have")
    return data


def open_member(member: Member) -> IO[bytes]:
    """A member as a stream, for what is too large to hold."""
    if member.offset < 0:
        return zipfile.ZipFile(member.archive).open(member.name)
    return io.BufferedReader(_Window(member.archive, member.offset, member.size), 1 << 20)


class _Window(io.RawIOBase):
    """Part of a file, as a file."""

    def __init__(self, path: str, offset: int, size: int) -> None:
        self._file = open(path, "rb")  # noqa: SIM115
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


def _version(path: str) -> tuple[str, int, int]:
    # A file that was replaced is another file: kept open, the old one would still be read.
    state = os.stat(path)
    return path, state.st_ino, state.st_mtime_ns


@lru_cache(maxsize=64)
def _open_file(path: str, inode: int, modified: int) -> IO[bytes]:
    return open(path, "rb", buffering=0)


@lru_cache(maxsize=16)
def _open_zip(path: str, inode: int, modified: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def unpack_compressed(archive: Path, scratch: Path) -> Path:
    """A plain tar, in `scratch`, of a compressed one (gz, bz2, xz); other archives come back as they are."""
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    with archive.open("rb") as file:
        opener = openers.get(file.read(2))
    if opener is None:
        return archive
    target = scratch / f"{archive.parent.name}-{archive.name}.plain"
    limit = max(FREE, MAX_RATIO * archive.stat().st_size)
    try:
        with opener(archive, "rb") as source, target.open("wb") as out:
            while block := source.read(1 << 20):
                if out.tell() + len(block) > limit:
                    raise InputError(
                        f"{archive}: a decompression bomb, past {limit} bytes; check where it came from"
                    )
                out.write(block)
    except InputError:
        target.unlink()
        raise
    except DAMAGED:
        pass  # what came out before the damage is listed, and ends with a Refusal
    return target
