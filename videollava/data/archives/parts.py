"""Archives that were published in parts: those that are cut anywhere are joined, others are refused in words."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from videollava.data.archives.listing import Refusal, place_of
from videollava.errors import InputError

__all__ = ["group_parts", "join_parts"]

# x.zip.001, x.tar.gz.aa, x.tar.part-00: cut by `split` and its like.
_CUT = re.compile(
    r"(?P<whole>.+\.(?:zip|tar|tgz|tbz2|txz|gz|bz2|xz|zst|lz4))[._-](?:part[._-]?)?(?P<part>\d{1,4}|[a-z]{1,3})",
    re.IGNORECASE,
)
# x.z01 beside x.zip: parts that know of each other.
_SPANNED = re.compile(r"(?P<whole>.+)\.z\d{2}", re.IGNORECASE)
_WORDS = {"zip", "tar", "tgz", "gz", "bz2", "xz", "zst", "lz4", "bak", "tmp", "old", "txt", "md5"}


def group_parts(files: Iterable[Path]) -> list[list[Path]]:
    """Files in order, with the parts of one archive together; whatever is no part stands alone."""
    groups: dict[tuple[Path, int], list[Path]] = {}
    for file in files:
        part = _part_of(file.name)
        key = (file.parent / part[0], len(part[1])) if part else (file, 0)
        groups.setdefault(key, []).append(file)
    return list(groups.values())


def join_parts(group: list[Path], scratch: Path) -> Path | Refusal:
    """The whole archive of its parts, in `scratch`; one file alone comes back as it is.

    Raises InputError where there is no room for it.
    """
    first = group[0]
    if _is_spanned(first):
        detail = "part of a split zip; join it with `zip --fix-split` or `zip -s 0 x.zip --out whole.zip`"
        return Refusal(str(first), "", "unreadable archive", detail)
    part = _part_of(first.name)
    if part is None:
        return first
    missing = _first_missing([found[1] for file in group if (found := _part_of(file.name))])
    if missing:
        detail = f"part {missing} of {part[0]} is not there; list all its parts in `urls`"
        return Refusal(str(first), "", "unreadable archive", detail)
    if len(group) == 1:
        return first
    size, free = sum(file.stat().st_size for file in group), shutil.disk_usage(scratch).free
    if size > free:
        raise InputError(
            f"{scratch}: joining {part[0]} takes {size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
            "free some space"
        )
    joined = scratch / f"{place_of(first.parent)}-{part[0]}"
    with joined.open("wb") as out:
        for file in group:
            with file.open("rb") as source:
                shutil.copyfileobj(source, out, 1 << 20)
    return joined


def _part_of(name: str) -> tuple[str, str] | None:
    found = _CUT.fullmatch(name)
    return (found["whole"], found["part"].lower()) if found and found["part"].lower() not in _WORDS else None


def _is_spanned(file: Path) -> bool:
    if _SPANNED.fullmatch(file.name):
        return True
    return file.suffix.lower() == ".zip" and any(
        other.stem == file.stem and _SPANNED.fullmatch(other.name) for other in file.parent.iterdir()
    )


def _first_missing(parts: list[str]) -> str:
    """The first of the names that parts in a row would have and these have not; "" where none is missing."""
    expected = _names(parts[0])
    return next((name for name, part in zip(expected, parts, strict=False) if name != part), "")


def _names(first: str) -> Iterator[str]:
    """Names of parts from the first on: 000 or 001 .., aa .."""
    width = len(first)
    if first.isdigit():
        start = min(int(first), 1)
        yield from (f"{number:0{width}d}" for number in range(start, 10**width))
        return
    for number in range(26**width):
        yield "".join(chr(97 + number // 26**place % 26) for place in reversed(range(width)))
