"""Zips split over several files (x.z01, x.z02, .., x.zip), opened as one.

Their directory says where a member starts by the number of a file and the place in it (PKWARE's APPNOTE.TXT, 4.3, 4.4
and 8), which Python's zipfile does not take. So behind the files, joined, goes a directory of the same members that
says where they start in the whole: zipfile reads a plain zip.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO

from videollava.data.archives.joined import Joined

__all__ = ["SplitZipError", "open_zip"]

LONGEST_COMMENT = 0xFFFF
FULL, HALF_FULL = 0xFFFFFFFF, 0xFFFF  # in place of what stands in a wider field elsewhere
WIDE = 1  # kind of the extra field that holds those
LOOKED_AT = 3  # members of each file whose headers must not all lack

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_WIDE_END = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")


class SplitZipError(zipfile.BadZipFile):
    """Parts lack, or do not fit each other; the words say which, and what to do."""


@dataclass(frozen=True, slots=True)
class _End:
    """Of how many files the zip says to be, and where its directory is: `count` entries in `size` bytes from byte
    `offset` of file `disk` on, and before byte `limit` of the whole."""

    files: int
    disk: int
    count: int
    size: int
    offset: int
    limit: int


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a member starts (`place`: in the whole; `disk`: in which file), and how many bytes it takes at least."""

    place: int
    disk: int
    least: int
    name: bytes


def open_zip(files: Sequence[str]) -> zipfile.ZipFile:
    """A zip of one file, or of several in their order: split, or cut anywhere.

    Raises SplitZipError where parts lack or do not fit, BadZipFile where it is damaged otherwise.
    """
    whole = Joined(files)
    file = io.BufferedReader(whole, 1 << 16)
    end = _read_end(file, whole)
    if end is None or end.files == 1:
        if len(files) == 1:
            file.close()
            return zipfile.ZipFile(files[0])
        _check_cut(end, whole)
        return zipfile.ZipFile(file)
    _check_count(end, whole)
    directory = _directory(file, whole, end)
    file.close()
    return zipfile.ZipFile(io.BufferedReader(Joined([*files, directory]), 1 << 16))


def _read_end(file: IO[bytes], whole: Joined) -> _End | None:
    """What the end of the zip says; None where it has none."""
    low = max(whole.size - LONGEST_COMMENT - _END.size, 0)
    file.seek(low)
    tail = file.read()
    at = len(tail) - _END.size
    if at < 0 or not (tail.startswith(b"PK\x05\x06", at) and tail.endswith(b"\0\0")):
        at = tail.rfind(b"PK\x05\x06", 0, at + 4) if at >= 0 else -1
    if at < 0:
        return None
    _, number, disk, _, count, size, offset, _ = _END.unpack_from(tail, at)
    end = _End(number + 1, disk, count, size, offset, low + at)
    if at < _LOCATOR.size or not tail.startswith(b"PK\x06\x07", at - _LOCATOR.size):
        return end
    _, wide_disk, wide_offset, files = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
    return _widen(file, whole, end, wide_disk, wide_offset, files)


def _widen(file: IO[bytes], whole: Joined, end: _End, disk: int, offset: int, files: int) -> _End:
    """The end with the fields that stand in its wider form, byte `offset` of file `disk`."""
    files = max(files, 1) if end.files > HALF_FULL else end.files
    if files == len(whole.starts) == 1:
        return replace(end, files=1)  # zipfile finds it, also behind what makes a zip extract itself
    if disk >= len(whole.starts):
        return _End(files, 0, 0, 0, 0, end.limit)  # parts lack: their count alone is asked for
    place = whole.starts[disk] + offset
    file.seek(min(place, whole.size))
    found = file.read(_WIDE_END.size)
    if len(found) < _WIDE_END.size or not found.startswith(b"PK\x06\x06"):
        raise SplitZipError(
            f"the end of its directory is not in {_name(whole, disk)}, where it should be; {_again()}"
        )
    *_, wide_disk, _, count, size, start = _WIDE_END.unpack(found)
    return _End(files, wide_disk, count, size, start, place)


def _check_cut(end: _End | None, whole: Joined) -> None:
    """Parts that were cut anywhere are one zip, from its first byte to its last."""
    if end is None:
        raise SplitZipError(
            f"{_name(whole, -1)} does not end the zip: a part after it lacks, or it is damaged; get all parts again"
        )
    spare = end.limit - end.size - end.offset
    if spare < 0:
        raise SplitZipError(f"its parts lack {-spare} bytes: one is shorter than it was; get them again")
    if spare > 0:
        raise SplitZipError(
            f"its parts hold {spare} bytes more than belong to it: {_name(whole, -1)} is whole by itself, or a part "
            "is of another archive; take away what is not its own"
        )


def _check_count(end: _End, whole: Joined) -> None:
    """That a split zip has as many parts as it says."""
    here = len(whole.parts)
    if end.files == here:
        return
    last = _name(whole, -1)
    told = f"{last} is the last of {end.files} parts, and {here} {'is' if here == 1 else 'are'} here: "
    if end.files < here:
        raise SplitZipError(f"{told}a part is of another archive; take away what is not its own")
    stem = Path(last).stem
    names = [f"{stem}.z{number:02d}" for number in sorted({here, end.files - 1})]
    raise SplitZipError(f"{told}list {' to '.join(names)} beside it")


def _directory(file: IO[bytes], whole: Joined, end: _End) -> bytes:
    """The zip's directory anew, as it stands behind the whole."""
    if end.disk >= len(whole.starts) or (start := whole.starts[end.disk] + end.offset) + end.size > end.limit:
        raise SplitZipError(f"its directory is not where {_name(whole, -1)} says; {_again()}")
    file.seek(start)
    written, starts = bytearray(), [_Start(start, end.disk, end.size, b"")]
    for count, (entry, member) in enumerate(_entries(file, whole, end)):
        if count == end.count:
            raise SplitZipError(f"its directory lists more than the {end.count} members it says; {_again()}")
        written += entry
        starts.append(member)
    if len(starts) - 1 != end.count:
        raise SplitZipError(f"its directory lists {len(starts) - 1} members and says {end.count}; {_again()}")
    _check_parts(file, whole, sorted(starts, key=lambda one: one.place))
    count, size, place = end.count, len(written), whole.size
    written += _WIDE_END.pack(b"PK\x06\x06", _WIDE_END.size - 12, 45, 45, 0, 0, count, count, size, place)
    written += _LOCATOR.pack(b"PK\x06\x07", 0, place + size, 1)
    written += _END.pack(b"PK\x05\x06", 0, 0, HALF_FULL, HALF_FULL, FULL, FULL, 0)
    return bytes(written)


def _entries(file: IO[bytes], whole: Joined, end: _End) -> Iterator[tuple[bytes, _Start]]:
    """Every entry of the directory, which `file` stands at, as it is in the whole, and where its member starts."""
    left = end.size
    while left > 0:
        head = file.read(_ENTRY.size)
        if len(head) < _ENTRY.size or not head.startswith(b"PK\x01\x02"):
            raise SplitZipError(f"its directory is damaged in {_name(whole, -1)}; {_again()}")
        fields = list(_ENTRY.unpack(head))
        packed, size, name_length, extra_length, comment_length, disk = fields[8:14]
        name, extra, comment = (file.read(length) for length in (name_length, extra_length, comment_length))
        left -= len(head) + name_length + extra_length + comment_length
        wide, others = _take_wide(extra)
        sizes = [field for field in (size, packed) if field == FULL]
        values = _wide_values(wide, len(sizes), fields[16] == FULL, disk == HALF_FULL, whole)
        packed = values[len(sizes) - 1] if packed == FULL else packed
        offset = values[len(sizes)] if fields[16] == FULL else fields[16]
        disk = values[-1] if disk == HALF_FULL else disk
        place = _place(whole, disk, offset, name)
        kept = values[: len(sizes)] + ([place] if place >= FULL else [])
        field = struct.pack(f"<2H{len(kept)}Q", WIDE, 8 * len(kept), *kept) if kept else b""
        fields[11], fields[13], fields[16] = len(field) + len(others), 0, min(place, FULL)
        if fields[11] > HALF_FULL:
            raise SplitZipError(f"its directory is damaged in {_name(whole, -1)}; {_again()}")
        least = _HEADER.size + name_length + packed
        yield _ENTRY.pack(*fields) + name + field + others + comment, _Start(place, disk, least, name)


def _take_wide(extra: bytes) -> tuple[bytes, bytes]:
    """Of an entry's extra fields the one of wide values, and the others."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == WIDE:
            return extra[at + 4 : at + 4 + size], extra[:at] + extra[at + 4 + size :]
        at += 4 + size
    return b"", extra


def _wide_values(wide: bytes, sizes: int, offset: bool, disk: bool, whole: Joined) -> list[int]:
    """The sizes that an entry has in wide form, then where it starts, then in which file."""
    form = struct.Struct(f"<{sizes + offset}Q{'L' if disk else ''}")
    if len(wide) < form.size:
        raise SplitZipError(f"its directory is damaged in {_name(whole, -1)}; {_again()}")
    return list(form.unpack_from(wide))


def _place(whole: Joined, disk: int, offset: int, name: bytes) -> int:
    """Where a member starts in the whole."""
    member = name.decode("utf-8", "replace")
    if disk >= len(whole.starts):
        raise SplitZipError(
            f"{member} is said to start in part {disk + 1}, and {len(whole.starts)} are here; {_again()}"
        )
    size = (*whole.starts[1:], whole.size)[disk] - whole.starts[disk]
    if offset >= size:
        raise SplitZipError(
            f"{_name(whole, disk)} has {size} bytes and {member} is said to start at byte {offset} of it: it is "
            f"shorter than it was, or of another archive; {_again()}"
        )
    return whole.starts[disk] + offset


def _check_parts(file: IO[bytes], whole: Joined, starts: Sequence[_Start]) -> None:
    """That no file is cut short or of another zip, as far as the starts of members (and the directory's) tell."""
    seen: dict[int, list[bool]] = {}
    for member, following in pairwise(starts):
        looked = seen.setdefault(member.disk, [])
        if member.name and len(looked) < LOOKED_AT:
            looked.append(_begins(file, member))
        if member.place + member.least > following.place and member.disk < following.disk:
            names = " or ".join(_name(whole, disk) for disk in range(member.disk, following.disk))
            raise SplitZipError(f"{names} is shorter than it was, or of another archive; {_again()}")
    for disk, looked in seen.items():
        if looked and not any(looked):
            raise SplitZipError(
                f"{_name(whole, disk)} does not hold the members it should: it is of another archive, not the part "
                f"that its name says, or damaged; {_again()}"
            )


def _begins(file: IO[bytes], member: _Start) -> bool:
    """Whether a member's header is where it should be."""
    file.seek(member.place)
    head = file.read(_HEADER.size + len(member.name))
    return head.startswith(b"PK\x03\x04") and head[_HEADER.size :] == member.name


def _name(whole: Joined, number: int) -> str:
    part = whole.parts[number]
    return Path(part).name if isinstance(part, str) else ""


def _again() -> str:
    return "get all parts of the archive again"
