"""Where media should be: a folder, archives in it, or a fetched source; asked for by name, opened never."""

from __future__ import annotations

import os
import stat
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from videollava.data.archives.listing import (
    AMBIGUOUS,
    Member,
    Refusal,
    list_archive,
    tell_apart,
)
from videollava.data.archives.names import is_junk, is_safe
from videollava.data.archives.parts import group_of, group_parts, is_archive
from videollava.data.records.rejected import Notes
from videollava.errors import InputError

__all__ = ["Folder", "Place", "list_archives", "open_place"]


class Folder(Mapping[str, Member]):
    """The files of a folder by their names in it. What lies outside (a link leads there) is not in it."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._folders: dict[str, str] = {}

    def __getitem__(self, name: str) -> Member:
        size = self._size(name)
        if size is None:
            raise KeyError(name)
        return Member(os.path.join(self._root, name), name, size, 0)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._size(name) is not None

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._walk() if not is_archive(name) and name in self)

    def archives(self) -> list[Path]:
        """Archives in it and their parts, wherever they lie."""
        return [Path(self._root, name) for name in sorted(self._walk()) if is_archive(name) and name in self]

    def _walk(self) -> Iterator[str]:
        for folder, _, files in os.walk(self._root):
            inside = os.path.relpath(folder, self._root).replace(os.sep, "/")
            for file in files:
                name = file if inside == "." else f"{inside}/{file}"
                if not is_junk(name):
                    yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _size(self, name: str) -> int | None:
        if not is_safe(name):
            return None
        inside, _, file = name.rpartition("/")
        path = os.path.join(self._real(inside), file)
        try:
            if os.path.islink(path):
                path = os.path.realpath(path)
            state = os.stat(path)
        except OSError:  # not there, or a name too long for the system
            return None
        within = path.startswith(self._root + os.sep)
        return state.st_size if within and stat.S_ISREG(state.st_mode) else None

    def _real(self, inside: str) -> str:
        """A folder in it, links followed; they are few beside the files."""
        if inside not in self._folders:
            self._folders[inside] = os.path.realpath(os.path.join(self._root, inside))
        return self._folders[inside]


@dataclass
class Place:
    """Media by name; `ambiguous`: names that several have; `notes`: members that are not read, and why."""

    catalogue: Mapping[str, Member] = field(default_factory=dict)
    ambiguous: dict[str, str] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)


def list_archives(files: Iterable[Path], scratch: Path) -> Place:
    """The members of tars or zips, also in parts; InputError where one can't be read. scratch: for those that are
    compressed."""
    found: dict[str, Member] = {}
    place = Place(found)
    for group in group_parts(files):
        for member in list_archive(group, scratch):
            if isinstance(member, Refusal) and not member.name:
                raise InputError(
                    f"{group[0]}: {member.reason}: {member.detail}; annotations are files named .json or .jsonl"
                )
            other = None if isinstance(member, Refusal) else found.setdefault(member.name, member)
            if isinstance(member, Member) and other is not None and other is not member:
                member = tell_apart(member, other)
            if isinstance(member, Refusal):
                _tell(place, member)
    return place


def _tell(place: Place, member: Refusal) -> None:
    place.notes[f"members of archives that are not read: {member.reason}"] += 1
    if member.reason == AMBIGUOUS:
        place.ambiguous[member.name] = member.detail


def open_place(place: Path, scratch: Path) -> Place:
    """Media of one archive, or of a folder: those that lie in it, and those in its archives, as the pipeline has a
    source of kind folder.
    """
    if not place.is_dir():
        if not place.is_file():
            raise InputError(f"--media {place}: not found; name the folder that the media lie in")
        return list_archives(group_of(place), scratch)
    folder = Folder(place)
    opened = list_archives(folder.archives(), scratch)
    for name, member in opened.catalogue.items():
        if name in folder:
            _tell(opened, tell_apart(member, folder[name]))
    opened.catalogue = ChainMap(dict(opened.catalogue), folder)  # type: ignore[arg-type]  # which is not written
    return opened
