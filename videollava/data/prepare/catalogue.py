"""The members of a source's archives, found by the names that annotations use for them."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote

from videollava.data.archives.listing import Member
from videollava.data.archives.names import clean_name, fold_name, is_safe
from videollava.data.records.endings import MEDIA_ENDINGS

__all__ = ["Finder", "Unfound"]

# What packers without Unicode wrote names in, where the archive does not say.
CODECS = ("cp932", "gb18030", "cp949", "big5", "cp866", "cp1251", "cp1252", "cp850")
MOST_HINTS = 200  # searches for the nearest name, each through many
MOST_COMPARED = 5_000


@dataclass(frozen=True, slots=True)
class Unfound:
    """A name that no member, or more than one, answers to."""

    reason: str
    detail: str


class Finder:
    """Finds members by name: as it is written, else as a person would read it; never one of several.

    Args:
        catalogue: members by their clean names.
        ambiguous: clean names that several members have, and what they are called in the archive.
    """

    def __init__(self, catalogue: Mapping[str, Member], ambiguous: Mapping[str, str]) -> None:
        self._catalogue, self._ambiguous = catalogue, ambiguous
        self._hints = 0

    def find(self, path: str) -> Member | Unfound:
        """The member of this (clean) name.

        Where there is none: the one member that differs only in case, in percent signs, in white space or dots at
        the ends of its parts, in the code page of an old zip, or in an ending that the path leaves out.
        """
        if path in self._ambiguous:
            return Unfound("ambiguous medium", self._ambiguous[path])
        if path in self._catalogue:
            return self._catalogue[path]
        for search in (self._alike, self._unnamed_ending):
            found = sorted(search(path))
            if len(found) > 1:
                names = ", ".join(map(repr, found[:3]))
                return Unfound("ambiguous medium", f"may be {names}; write one of them")
            if found:
                if found[0] in self._ambiguous:
                    return Unfound("ambiguous medium", self._ambiguous[found[0]])
                return self._catalogue[found[0]]
        if not is_safe(path):
            return Unfound("unsafe path", f"leads outside its archive{self._hint(path)}")
        return Unfound("missing medium", f"not in the archives of its source{self._hint(path)}")

    def _alike(self, path: str) -> set[str]:
        found = set(self._folded.get(_read(path), ()))
        if not found and not path.isascii():
            found = {name for raw in _encodings(path) for name in self._legacy.get(raw, ())}
        return found

    def _unnamed_ending(self, path: str) -> set[str]:
        if path.lower().endswith(MEDIA_ENDINGS):
            return set()
        return set(self._stems.get(fold_name(path), ()))

    @cached_property
    def _names(self) -> list[str]:
        return [*self._catalogue, *(name for name in self._ambiguous if name not in self._catalogue)]

    @cached_property
    def _folded(self) -> Mapping[str, list[str]]:
        return _group(self._names, _read)

    @cached_property
    def _stems(self) -> Mapping[str, list[str]]:
        return _group(self._names, lambda name: fold_name(_stem(name)))

    @cached_property
    def _files(self) -> Mapping[str, list[str]]:
        return _group(self._names, lambda name: fold_name(name.rpartition("/")[2]))

    @cached_property
    def _legacy(self) -> Mapping[bytes, list[str]]:
        members = (member for member in self._catalogue.values() if member.legacy)
        found: defaultdict[bytes, list[str]] = defaultdict(list)
        for member in members:
            found[member.legacy.replace(b"\\", b"/")].append(member.name)
        return found

    def _hint(self, path: str) -> str:
        """The nearest member, and what of the source's settings would lead to it."""
        self._hints += 1
        if self._hints > MOST_HINTS or not self._names:
            return ""
        same = self._files.get(fold_name(path.rpartition("/")[2]), [])
        if same:
            nearest = max(same[:MOST_COMPARED], key=lambda name: (_shared_end(path, name), -len(name)))
            return f"; the nearest member is {nearest!r}{_settings(path, nearest)}"
        folder = path.rpartition("/")[0]
        names = [name for name in self._names if name.rpartition("/")[0] == folder] or self._names
        close = difflib.get_close_matches(path, names[:MOST_COMPARED], n=1, cutoff=0.6)
        return f"; the nearest member is {close[0]!r}" if close else f"; there is for example {names[0]!r}"


def _group(names: Iterable[str], key: Callable[[str], str]) -> Mapping[str, list[str]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    return groups


def _read(name: str) -> str:
    return fold_name(clean_name(unquote(name)))


def _stem(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    stem, dot, _ = file.rpartition(".")
    return folder + slash + (stem if dot and stem else file)


def _encodings(name: str) -> Iterable[bytes]:
    for codec in CODECS:
        try:
            yield name.encode(codec)
        except UnicodeEncodeError:
            continue


def _shared_end(one: str, other: str) -> int:
    """How many parts at their ends two names share."""
    pairs = zip(reversed(one.split("/")), reversed(other.split("/")), strict=False)
    return next(
        (count for count, (a, b) in enumerate(pairs) if a != b), min(one.count("/"), other.count("/")) + 1
    )


def _settings(path: str, member: str) -> str:
    """What `strip` and `prefix` of the source lead from the path to the member; "" where none do."""
    shared = _shared_end(path, member)
    if not shared:
        return ""
    strip, prefix = "/".join(path.split("/")[:-shared]), "/".join(member.split("/")[:-shared])
    strip = re.sub(r"^(\w{2,}:)/", r"\1//", strip)  # clean_name took one of an address's slashes
    asked = [*([f"strip: [{strip}/]"] if strip else []), *([f"prefix: {prefix}/"] if prefix else [])]
    return f": {' and '.join(asked)} of the source would lead there" if asked else ""
