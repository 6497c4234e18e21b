"""What comes in the place of an archive, by its first bytes, and what to do about it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["name_stranger"]

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
    return next((words for start, words in STRANGERS.items() if head.startswith(start)), "")
