"""Names of media in annotations and in archives: one form for what a person would call the same name."""

from __future__ import annotations

import posixpath
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial

__all__ = ["clean_name", "fold_name", "is_junk", "is_safe", "renaming", "zip_name"]

_UTF8_NAME = 0x800  # flag of a zip's entry
_DRIVE = re.compile(r"[A-Za-z]:")
# What operating systems leave in archives beside what was packed.
_JUNK_FILES = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".localized", "icon\r"}
_JUNK_FOLDERS = {"__macosx", "@eadir", ".appledouble", ".trashes", ".spotlight-v100", "$recycle.bin"}


def clean_name(name: str) -> str:
    """The name with forward slashes, composed letters (NFC), and without "./", "//" and "a/..".

    What leads outside still does, and is_safe says so.
    """
    plain = unicodedata.normalize("NFC", name).replace("\\", "/")
    if not plain:
        return ""
    clean = re.sub("^//+", "/", posixpath.normpath(plain))
    return "" if clean == "." else clean


def is_safe(name: str) -> bool:
    """Whether a clean name stays inside its archive: relative, no drive, no "..", no control characters."""
    parts = name.split("/")
    return (
        bool(name)
        and not name.startswith("/")
        and not {".", "..", ""} & set(parts)
        and not _DRIVE.match(name)
        and not set(name) & set("\\\0\n\r")
    )


def is_junk(name: str) -> bool:
    """Whether an archive's member was put there by an operating system, not by a person."""
    *folders, file = name.casefold().split("/")
    return file in _JUNK_FILES or file.startswith("._") or not _JUNK_FOLDERS.isdisjoint(folders)


def zip_name(info: zipfile.ZipInfo) -> tuple[str, bytes]:
    """A zip entry's name, and its bytes where nobody says what they mean (then the name is a guess, code page 437)."""
    written = info.orig_filename  # later Pythons put a name of the Unicode path field into `filename`
    if info.flag_bits & _UTF8_NAME or written.isascii():
        return info.filename, b""
    raw = written.encode("cp437", "replace")
    stated = _unicode_path(info.extra, raw)
    if stated:
        return stated, b""
    try:
        return raw.decode("utf-8"), b""
    except UnicodeDecodeError:
        return info.filename, raw


def _unicode_path(extra: bytes, raw: bytes) -> str:
    """The name in Info-ZIP's Unicode path field, "" where there is none for these bytes."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == 0x7075 and field[1:5] == struct.pack("<I", zlib.crc32(raw)):
            return field[5:].decode("utf-8", "replace")
    return ""


def fold_name(name: str) -> str:
    """What is left of a clean name when case, and dots and spaces at the ends of its parts, are no difference."""
    parts = unicodedata.normalize("NFC", name).casefold().split("/")
    return "/".join(part.strip(" ").rstrip(" .") or part for part in parts)


def renaming(strip: Iterable[str] = (), prefix: str = "") -> Callable[[str], str]:
    """From paths as annotations write them to names as the archives have them.

    Args:
        strip: folders (also of addresses, `https://host/data`) that paths begin with and members do not.
        prefix: the folder that members lie in and paths do not name.
    """
    folders = sorted((_as_folder(folder) for folder in strip if folder), key=len, reverse=True)
    return partial(_rename, folders=folders, prefix=_as_folder(prefix) if prefix else "")


def _rename(path: str, *, folders: list[str], prefix: str) -> str:
    plain = _slashes(path)
    for folder in folders:
        if plain.startswith(folder):
            plain = plain[len(folder) :].lstrip("/")
            break
    return clean_name(prefix + plain if plain else plain)


def _as_folder(text: str) -> str:
    return _slashes(text).rstrip("/") + "/"


def _slashes(text: str) -> str:
    return re.sub(r"[\\/]+", "/", text)
