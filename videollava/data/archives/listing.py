"""Tar and zip archives, read without trusting them.

Nothing is ever extracted to a path that an archive names. A member that could do harm, or that is not what
it claims to be, comes out as a Refusal with its reason.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from videollava.data.archives.compressed import find_opener
from videollava.data.archives.deflate64 import DEFLATE64
from videollava.data.archives.joined import open_joined
from videollava.data.archives.members import (
    DAMAGED,
    Member,
    Refusal,
    have_same_bytes,
    open_entry,
    open_member,
    read_member,
)
from videollava.data.archives.names import clean_name, is_junk, is_safe, zip_name
from videollava.data.archives.parts import find_lacking, is_archive, is_part
from videollava.data.archives.split_zip import SplitZipError, open_zip
from videollava.data.archives.strangers import is_foreign, name_stranger
from videollava.data.archives.tar_writer import TarWriter
from videollava.errors import InputError

__all__ = [
    "AMBIGUOUS",
    "DAMAGED",
    "JUNK",
    "Member",
    "Refusal",
    "TarWriter",
    "is_safe",
    "list_archive",
    "list_members",
    "open_member",
    "place_of",
    "read_member",
    "tell_apart",
    "unpack_compressed",
]

MAX_MEMBER = 4 << 30  # bytes of one member
MAX_RATIO = 200  # times its compressed size that a member or an archive may grow
MAX_MEMBERS = 5_000_000  # of one archive
MAX_ZIP = 1 << 30  # bytes that a zip may hold in all, whatever it is compressed to
FREE = 64 << 20  # growth up to this size is never a bomb
LONGEST_LINK = 4096  # bytes of a path that a link in a zip holds
LINKS = 8  # one after the other, to a file

JUNK = "left by an operating system"
AMBIGUOUS = "ambiguous member"
ZIP_METHODS = {
    1: "shrink",
    6: "implode",
    20: "Zstandard",
    93: "Zstandard",
    95: "XZ",
    98: "PPMd",
}
READ_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, DEFLATE64, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ENCRYPTED = 0x2041  # flags of a zip's entry


@dataclass(frozen=True, slots=True)
class Link:
    """A member that stands for another of the same archive."""

    name: str
    target: str
    hard: bool


def list_archive(group: Sequence[Path], scratch: Path) -> Iterator[Member | Refusal]:
    """Every regular file of an archive, of one file or of several (of group_parts). scratch: where a compressed tar is
    unpacked; InputError where that grows past all bounds."""
    lacking = find_lacking(group)
    if lacking:
        yield Refusal(str(group[0]), "", "unreadable archive", lacking)
        return
    plain, damage = unpack_compressed(group, scratch)
    if not damage:
        yield from list_members(*plain)
        return
    # What came out before may end between two members, and look whole.
    yield Refusal(str(group[0]), "", "damaged archive", f"{damage}; {_mend(group)}")
    yield from (found for found in list_members(*plain) if found.name)


def list_members(*files: Path) -> Iterator[Member | Refusal]:
    """Every regular file of a plain tar or a zip, in its order; unpack compressed tars first.

    files: the archive, or all its parts in order. Names come out clean (names.py). Links to files of the same archive
    are files, after the others.
    """
    archive, names = str(files[0]), tuple(map(str, files))
    seen: dict[str, Member] = {}
    links: list[Link] = []
    try:
        for count, found in enumerate(_list_zip(names) if _is_zip(files) else _list_tar(names)):
            if count == MAX_MEMBERS:
                detail = f"more than {MAX_MEMBERS}, and the rest is not read: pack them into several"
                yield Refusal(archive, "", "too many members", detail)
                return
            if isinstance(found, Member) and len(files) > 1:
                found = replace(found, parts=names)
            if isinstance(found, Link) and not found.hard:
                links.append(found)
                continue
            member = _follow(archive, found, seen, {}) if isinstance(found, Link) else found
            yield _admit(member, seen)
        targets = {link.name: link.target for link in links}
        for link in links:
            yield _admit(_follow(archive, link, seen, targets), seen)
    except SplitZipError as error:
        yield Refusal(archive, "", "unreadable archive", str(error))
    except DAMAGED as error:
        yield Refusal(archive, "", "unreadable archive", name_stranger(files[0]) or _expected(error, files))


def _expected(error: Exception, files: Sequence[Path]) -> str:
    return f"{error}; {_mend(files)}" if _is_parted(files) else f"{error} (a tar or a zip is expected)"


def _is_parted(files: Sequence[Path]) -> bool:
    return len(files) > 1 or is_part(files[0].name)


def _mend(files: Sequence[Path]) -> str:
    if not _is_parted(files):
        return f"get {files[0].name} again"
    return f"a part after {files[-1].name} lacks, or one is damaged: get all parts of it again"


def _is_zip(files: Sequence[Path]) -> bool:
    if len(files) > 1 and files[-1].suffix.lower() == ".zip":
        return True  # the last of x.z01, x.z02 and so on
    with open_joined(list(map(str, files))) as file:
        head = file.read(tarfile.BLOCKSIZE)
        # By its start: a tar whose last member is a zip ends like one. Starts like neither: may be a self-extractor.
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00")):
            return True
        return not _is_tar_header(head) and zipfile.is_zipfile(file)


def _is_tar_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _admit(found: Member | Refusal, seen: dict[str, Member]) -> Member | Refusal:
    """A member, if it is the only one of its name and no by-product."""
    if isinstance(found, Refusal):
        return found
    if is_junk(found.name):
        return Refusal(found.archive, found.name, JUNK)
    if is_archive(found.name) or is_foreign(found.name):
        return Refusal(
            found.archive, found.name, "nested archive", "unpack it, and list it as an archive of its own"
        )
    other = seen.setdefault(found.name, found)
    return found if other is found else tell_apart(found, other)


def tell_apart(member: Member, other: Member) -> Refusal:
    """Two members of one name: the first is used if they are the same to the byte, else neither may be guessed at."""
    names = f"{other.written!r} and {member.written!r}"
    if other.archive != member.archive:
        names = f"{other.written!r} of {Path(other.archive).name} and of {Path(member.archive).name}"
    if have_same_bytes(member, other):
        return Refusal(member.archive, member.name, "duplicate member", f"{names} are the same")
    return Refusal(
        member.archive, member.name, AMBIGUOUS, f"{names} have one name and other contents; rename one"
    )


def _follow(
    archive: str, link: Link, seen: Mapping[str, Member], links: Mapping[str, str]
) -> Member | Refusal:
    """The file that a link stands for, under the link's name; a path that leaves the archive is never followed."""
    target = link.target
    for _ in range(LINKS):
        if not is_safe(target):
            return Refusal(archive, link.name, "unsafe member", f"a link to {target}")
        if target in seen:
            return replace(seen[target], name=link.name, written=link.name)
        if target not in links:
            break
        target = links[target]
    return Refusal(archive, link.name, "unsafe member", f"a link to {link.target}, no file of the archive")


def _resolve(name: str, target: str) -> str:
    """Where a symbolic link leads, from the folder of its name."""
    return clean_name(target if target.startswith("/") else f"{name.rpartition('/')[0] or '.'}/{target}")


def _list_tar(files: tuple[str, ...]) -> Iterator[Member | Refusal | Link]:
    archive, total, start = files[0], _size(files), 0
    while start >= 0:
        with open_joined(files) as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    if not info.isdir():
                        yield _check_tar(archive, info, total)
                    tar.members.clear()  # type: ignore[attr-defined]  # or the headers of millions stay in memory
                end = tar.offset
            # tarfile takes a broken header for the end.
            file.seek(end)
            block = file.read(tarfile.BLOCKSIZE)
            if block.strip(b"\0"):
                yield Refusal(archive, "", "damaged archive", f"no tar header at byte {end} of {total}")
                return
            parts = list(map(Path, files))
            if not block and _is_parted(parts):  # what is whole may lack them, as some programs write it
                detail = f"it ends without the empty blocks that end a tar; {_mend(parts)}"
                yield Refusal(archive, "", "damaged archive", detail)
                return
            start, rest = _next_tar(file, end)
        if rest:
            yield Refusal(archive, "", "trailing bytes", f"{total - end} bytes follow its end; not read")


def _size(files: Sequence[str]) -> int:
    return sum(os.stat(file).st_size for file in files)


def _next_tar(file: IO[bytes], end: int) -> tuple[int, bool]:
    """Where another tar begins behind the end of one (they are joined by `cat`), -1: nowhere; and if bytes follow."""
    file.seek(end)
    while data := file.read(tarfile.BLOCKSIZE << 11):
        if not data.strip(b"\0"):
            end += len(data)
            continue
        skipped = (len(data) - len(data.lstrip(b"\0"))) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        found = _is_tar_header(data[skipped : skipped + tarfile.BLOCKSIZE])
        return (end + skipped, False) if found else (-1, True)
    return -1, False


def _check_tar(archive: str, info: tarfile.TarInfo, total: int) -> Member | Refusal | Link:
    name = clean_name(info.name)
    if not is_safe(name):
        return Refusal(archive, name, "unsafe member", "its path leads outside the archive")
    if info.issym():
        return Link(name, _resolve(name, info.linkname), hard=False)
    if info.islnk():
        return Link(name, clean_name(info.linkname), hard=True)
    if info.issparse():
        return Refusal(archive, name, "unreadable member", "a sparse file: pack it without `tar --sparse`")
    if not info.isreg():
        return Refusal(archive, name, "unsafe member", "not a regular file")
    if info.size > MAX_MEMBER:
        return Refusal(archive, name, "too large", f"{info.size} bytes, at most {MAX_MEMBER} are read")
    if info.offset_data + info.size > total:
        return Refusal(archive, name, "damaged archive", "the archive ends before the member does")
    return Member(archive, name, info.size, info.offset_data, written=info.name)


def _list_zip(files: tuple[str, ...]) -> Iterator[Member | Refusal | Link]:
    archive = files[0]
    with open_zip(files) as file:
        # Entries that share their bytes are each within bounds, and no bound together.
        total, packed = sum(info.file_size for info in file.infolist()), _size(files)
        if total > max(MAX_ZIP, MAX_RATIO * packed):
            yield Refusal(archive, "", "decompression bomb", f"{packed} bytes grow to {total}")
            return
        for entry, info in enumerate(file.infolist()):
            if not info.is_dir() and not info.filename.endswith("\\"):
                found: Member | Refusal | Link = _check_zip(archive, info, entry)
                if isinstance(found, Member) and stat.S_ISLNK(info.external_attr >> 16):
                    with open_entry(file, info) as link:
                        target = link.read(LONGEST_LINK + 1).decode("utf-8", "replace")
                    found = Link(found.name, _resolve(found.name, target), hard=False)
                yield found


def _check_zip(archive: str, info: zipfile.ZipInfo, entry: int) -> Member | Refusal:
    written, legacy = zip_name(info)
    name = clean_name(written)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if not is_safe(name):
        return Refusal(archive, name, "unsafe member", "its path leads outside the archive")
    if kind not in (0, stat.S_IFREG, stat.S_IFLNK) or (
        kind == stat.S_IFLNK and info.file_size > LONGEST_LINK
    ):
        return Refusal(archive, name, "unsafe member", "not a regular file")
    if info.flag_bits & ENCRYPTED:
        return Refusal(archive, name, "unreadable member", "encrypted: pack it again without a password")
    if info.compress_type not in READ_METHODS:
        method = ZIP_METHODS.get(info.compress_type, f"method {info.compress_type}")
        return Refusal(
            archive, name, "unreadable member", f"packed by {method}: pack it again with Deflate, or as a tar"
        )
    if info.file_size > MAX_MEMBER:
        return Refusal(archive, name, "too large", f"{info.file_size} bytes, at most {MAX_MEMBER} are read")
    if info.file_size > FREE and info.file_size > MAX_RATIO * max(info.compress_size, 1):
        grown = f"{info.compress_size} bytes grow to {info.file_size}"
        return Refusal(archive, name, "decompression bomb", grown)
    return Member(archive, name, info.file_size, -1, entry, written, legacy)


def place_of(folder: Path) -> str:
    """A short name for a folder, another for each: archives of one name lie in several."""
    return f"{folder.name}-{zlib.crc32(os.fsencode(folder)):08x}"


def unpack_compressed(files: Sequence[Path], scratch: Path) -> tuple[Sequence[Path], str]:
    """A plain tar, in `scratch`, of a compressed one (gz, bz2, xz, zst, lz4); others come back as they are. And why it
    is only the beginning, "" where it is all.

    files: the archive, or all its parts in order.
    """
    names = list(map(str, files))
    with open_joined(names) as file:
        opener = find_opener(file.read(2))
    if opener is None:
        return files, ""
    target = scratch / f"{place_of(files[0].parent)}-{files[0].name}.plain"
    limit = max(FREE, MAX_RATIO * _size(names))
    with open_joined(names) as packed, opener(packed) as source, target.open("wb") as out:
        while True:
            try:
                block = source.read(1 << 20)
            except DAMAGED as error:
                return [target], str(error) or repr(error)
            if not block:
                return [target], ""
            if out.tell() + len(block) > limit:
                target.unlink()
                raise InputError(
                    f"{files[0]}: a decompression bomb, past {limit} bytes; check where it came from"
                )
            out.write(block)  # a full disk is no damage of the archive's
