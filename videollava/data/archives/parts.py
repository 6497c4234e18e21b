"""Names of archives, and of the parts that one was published in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from videollava.data.modalities import MODALITIES

__all__ = ["find_lacking", "group_of", "group_parts", "is_archive", "is_part"]

ENDINGS = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
# x.zip.001, x.tar.gz.aa, x.tar.part-00: cut by `split` and its like.
_CUT = re.compile(
    r"(?P<whole>.+\.(?:zip|tar|tgz|tbz2|txz|gz|bz2|xz|zst|lz4))[._-](?:part[._-]?)?(?P<part>\d{1,4}|[a-z]{1,3})",
    re.IGNORECASE,
)
# x.z01 beside x.zip, which is the last: parts that know of each other.
_SPLIT = re.compile(r"(?P<whole>.+)\.z(?P<part>\d{2,4})", re.IGNORECASE)
_WORDS = {"zip", "tar", "tgz", "gz", "bz2", "xz", "zst", "lz4", "bak", "tmp", "old", "txt", "md5"}
# Signatures, sums and lists that lie beside archives.
_WORDS |= {"asc", "sig", "sha", "sum", "crc", "sfv", "idx", "lst", "log", "csv", "tsv", "xml", "yml", "pdf"}
_WORDS |= {ending.rpartition(".")[2] for row in MODALITIES.values() for ending in row.endings}
_REMEDY = "put all its parts into the source"


@dataclass(frozen=True, slots=True)
class _Part:
    """A file as a part of `whole`: `text` and `number` say which; `split`: of parts that know of each other."""

    whole: str
    text: str
    number: int
    split: bool = False


def is_archive(name: str) -> bool:
    """Whether a file of this name is an archive, or a part of one."""
    return name.lower().endswith(ENDINGS) or is_part(name)


def is_part(name: str) -> bool:
    """Whether a file of this name is a part of an archive; the last of a split zip is named as a zip."""
    return _part_of(name) is not None


def group_parts(files: Iterable[Path]) -> list[list[Path]]:
    """Files in order, with the parts of one archive together, in theirs; whatever is no part stands alone."""
    listed = list(files)
    parts = {file: _part_of(file.name) for file in listed}
    split = {(file.parent, part.whole.casefold()) for file, part in parts.items() if part and part.split}
    groups: dict[tuple[Path, int], list[tuple[int, Path]]] = {}
    for file, part in parts.items():
        ending = (file.parent, file.stem.casefold())
        if (part and part.split) or (file.suffix.lower() == ".zip" and ending in split):
            whole = part.whole if part else file.stem
            key, number = (file.parent / whole.casefold(), -1), part.number if part else 10**4
        elif part:
            # Of digits all are one row; what is cut by `split -a 3` is another than what is by `split`.
            width = 0 if part.text.isdigit() else len(part.text)
            key, number = (file.parent / part.whole.casefold(), 1 + width), part.number
        else:
            key, number = (file, 0), 0
        groups.setdefault(key, []).append((number, file))
    return [[file for _, file in sorted(group)] for group in groups.values()]


def group_of(file: Path) -> list[Path]:
    """A file with the other parts of its archive that lie beside it."""
    beside = (path for path in sorted(file.parent.iterdir()) if path.is_file() or path == file)
    return next(group for group in group_parts(beside) if file in group)


def find_lacking(group: Sequence[Path]) -> str:
    """What the parts of an archive (of group_parts) lack by their names, and what to do; "" where nothing."""
    parts = [_part_of(file.name) for file in group]
    first = parts[0]
    if first is None:
        return ""
    if first.split and parts[-1] is not None:
        return f"{first.whole}.zip, the last part of a split zip, is not there; {_REMEDY}"
    found = [part for part in parts if part is not None]
    for (one, path), (other, twin) in pairwise(zip(found, group, strict=False)):
        if one.number == other.number:
            return f"{path.name} and {twin.name} are the same part; take one away"
    if first.split and not first.number:
        return (
            f"{group[0].name} is no part of {first.whole}.zip, whose first is {first.whole}.z01; take it away"
        )
    start = 1 if first.split else min(first.number, 1) if first.text.isdigit() else 0
    missing = next((number for number, part in enumerate(found, start) if part.number != number), None)
    if missing is None:
        return ""
    name = (
        f"z{missing:02d} of {first.whole}.zip" if first.split else f"{_text(missing, first)} of {first.whole}"
    )
    return f"part {name} is not there; {_REMEDY}"


def _part_of(name: str) -> _Part | None:
    if found := _SPLIT.fullmatch(name):
        return _Part(found["whole"], found["part"], int(found["part"]), split=True)
    found = _CUT.fullmatch(name)
    if not found or found["part"].lower() in _WORDS:
        return None
    text = found["part"].lower()
    if text.isdigit():
        return _Part(found["whole"], text, int(text))
    number = 0
    for letter in text:
        number = 26 * number + ord(letter) - ord("a")
    return _Part(found["whole"], text, number)


def _text(number: int, like: _Part) -> str:
    """How a part is named beside another: 001, ab."""
    width = len(like.text)
    if like.text.isdigit():
        return f"{number:0{width}d}"
    return "".join(chr(ord("a") + number // 26**place % 26) for place in reversed(range(width)))
