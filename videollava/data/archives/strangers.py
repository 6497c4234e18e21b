"""What comes in the place of an archive, by its first bytes, and what to do about it."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["is_foreign", "name_stranger"]

# x.7z, x.rar, and their parts: x.7z.002, x.part2.rar, x.r00
_FOREIGN = re.compile(r".+\.(?:(?:7z|rar)(?:\.\d{1,4})?|r\d{2})", re.IGNORECASE)

STRANGERS = {
    b"7z\xbc\xaf": "a 7z archive: pack it again as tar or zip",
    b"Rar!": "a RAR archive: pack it again as tar or zip",
    b"<": "a web page, perhaps a login or an error: check its address",
    b"version https://git-lfs": "a pointer of Git LFS, not the file: `git lfs pull`, or use its download address",
    b"[": "annotations, not media: unpack them to .json or .jsonl",
    b"{": "annotations, not media: unpack them to .json or .jsonl",
    b"ID3": "a sound, no archive: pack media into a tar",
    b"\x89PNG": "a picture, no archive: pack media into a tar",
    b"\xff\xd8\xff": "a picture, no archive: pack media into a tar",
}


def name_stranger(file: Path) -> str:
    """What a file that is no archive is; "" where its first bytes do not tell."""
    with file.open("rb") as opened:
        head = opened.read(512).lstrip()
    part = "a part of a 7z or RAR archive: pack it again as tar or zip" if is_foreign(file.name) else ""
    return next((words for start, words in STRANGERS.items() if head.startswith(start)), part)


def is_foreign(name: str) -> bool:
    """Whether a file of this name is an archive that is not read here, or a part of one."""
    return _FOREIGN.fullmatch(name) is not None
