"""A fetched source, opened: what its archives hold, which of it records ask for, and what became of that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from videollava.data.acquire.located import MANIFEST, source_files
from videollava.data.archives.listing import (
    AMBIGUOUS,
    Member,
    Refusal,
    list_archive,
    tell_apart,
)
from videollava.data.archives.loose import as_member
from videollava.data.archives.names import is_junk
from videollava.data.archives.parts import group_parts
from videollava.data.prepare.catalogue import Finder, Unfound
from videollava.data.prepare.inspection import Inspected
from videollava.data.prepare.row import Row
from videollava.data.records.endings import kind_of_file
from videollava.data.records.formats.webdataset import TEXTS
from videollava.data.records.items import ABOUT, is_annotations
from videollava.data.records.marks import MediumKind
from videollava.data.records.quarantine import Quarantine
from videollava.data.records.readers import Rejected, read_records
from videollava.data.records.record import Record
from videollava.data.records.rejected import Notes
from videollava.errors import InputError
from videollava.params import Source

__all__ = ["Opened", "Origin", "open_source"]

LONGEST = 300  # characters of a path in a reason
NAMED = 5  # archives that are not read


@dataclass(frozen=True, slots=True)
class Origin:
    """Where members come from: `digest` of the archive's bytes, `seen`: at which look at the source it was there."""

    digest: str
    seen: int


@dataclass
class Opened:
    """A fetched source: the members of its archives by name, and what became of those that records want.

    `ambiguous`: names that several members have. `refused`: archives that are not read, or not to their end. By the
    path in a record: `renamed` has the member that goes by another name, `unfound` why there is none.
    """

    source: Source
    folder: Path
    catalogue: dict[str, Member] = field(default_factory=dict)
    ambiguous: dict[str, str] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    wanted: dict[str, MediumKind] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    unfound: dict[str, Unfound] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)  # media_id of each that is good
    broken: dict[str, Inspected] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)  # what readers did to records that are kept
    origins: dict[str, Origin] = field(default_factory=dict)  # by the file that members are read from

    def entries(self) -> Iterator[tuple[str, Record] | Rejected]:
        """Its records, as often as asked for."""
        return read_records(self.source, self.folder, self.catalogue)

    def unread(self) -> list[str]:
        """Archives that are not read, or not to their end, and why; not all where they are many."""
        told = [f"{Path(one.archive).name}: {one.reason}: {one.detail}" for one in self.refused[:NAMED]]
        more = len(self.refused) - NAMED
        return [*told, *([f"{more:,} more archives are not read"] if more > 0 else [])]

    def find_wanted(self) -> int:
        """Note the media that records ask for; how many entries the source has, InputError where it has none."""
        count = 0
        try:
            for entry in read_records(self.source, self.folder, self.catalogue, self.notes):
                count += 1
                for medium in () if isinstance(entry, Rejected) else entry[1].media:
                    name = self._name_of(medium.path)
                    if name:
                        self.wanted.setdefault(name, medium.kind)
            if not count:
                raise InputError(
                    f"source {self.source.name!r}: no record is in its annotations; mend them or drop it"
                )
        except InputError as error:  # they may lie where nothing can be read
            raise InputError("\n".join([str(error), *self.unread()])) from error
        return count

    def resolve(self, entry: tuple[str, Record] | Rejected) -> Row | Rejected:
        """Replace a record's paths by media ids, or say which medium is missing or broken."""
        if isinstance(entry, Rejected):
            return entry
        split, record = entry
        numbers = []
        for medium in record.media:
            name = self._name_of(medium.path)
            reason, detail = "", ""
            if not name:
                reason, detail = self.unfound[medium.path].reason, self.unfound[medium.path].detail
            elif name in self.broken:
                reason, detail = self.broken[name].reason, self.broken[name].detail
            elif self.wanted[name] != medium.kind:
                reason, detail = "medium of two kinds", f"elsewhere its kind is {self.wanted[name]}"
            if reason:
                return Rejected(
                    self.source.name, split, record.id, reason, f"{medium.path[:LONGEST]}: {detail}"
                )
            numbers.append(self.numbers[name])
        return Row(split, record, tuple(numbers))

    @cached_property
    def _finder(self) -> Finder:
        return Finder(self.catalogue, self.ambiguous)

    def _name_of(self, path: str) -> str:
        """The member's name, "" where there is none (then `unfound` says why)."""
        if path in self.wanted:
            return path
        if path in self.renamed or path in self.unfound:
            return self.renamed.get(path, "")
        found = self._finder.find(path)
        if isinstance(found, Unfound):
            self.unfound[path] = found
            return ""
        if found.name != path:
            self.renamed[path] = found.name
        return found.name


def open_source(source: Source, raw: Path, scratch: Path, quarantine: Quarantine) -> Opened:
    """List a source's archives; what is in them and is no member to read goes to the quarantine list.

    raw, scratch: folders of fetched sources, and for archives that are unpacked to be read.
    """
    folder = raw / source.name
    if not folder.is_dir():
        raise InputError(f"{folder}: not found; run `videollava fetch` first")
    opened = Opened(source, folder)
    origins = {name: _origin(entry) for name, entry in _fetched(folder).items()}
    names = {path: name for name, path in source_files(folder)}
    brought = {name.partition("/")[0] for name in origins} | {MANIFEST}
    for stray in sorted({path.name for path in folder.iterdir()} - brought):
        detail = "fetch did not bring it: add it to the source, or take it away"
        quarantine.refuse(source.name, Refusal(str(folder / stray), "", "unreadable archive", detail))
    # What came later stands after what was there: its media go into shards of their own.
    order = sorted(names, key=lambda path: (origins[names[path]].seen, names[path]))
    lists = [path for path in order if is_annotations(names[path])]
    for path in lists:
        if path.parent != folder and isinstance(member := as_member(names[path], path), Member):
            opened.catalogue[member.name] = member
    for group in group_parts(path for path in order if not is_annotations(names[path])):
        origin = _whole([origins[names[path]] for path in group])
        for found in _list(group, names[group[0]], scratch):
            loose = found.name == names[group[0]]
            if isinstance(found, Member) and source.format == "webdataset" and not loose:
                # Each tar may count its samples from 0.
                found = replace(found, name=f"{group[0].name.partition('.')[0]}/{found.name}")
            opened.origins.setdefault(found.archive, origin)
            other = None if isinstance(found, Refusal) else opened.catalogue.setdefault(found.name, found)
            if not isinstance(found, Refusal) and other is not None and other is not found:
                found = tell_apart(found, other)
            if isinstance(found, Refusal):
                quarantine.refuse(source.name, found)
                if not found.name:
                    opened.refused.append(found)
                if found.reason == AMBIGUOUS:
                    opened.ambiguous[found.name] = found.detail
    return opened


def _fetched(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """What `fetch` wrote down of each file of a source."""
    file = folder / MANIFEST
    try:
        return dict(json.loads(file.read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: not what fetch writes ({error!r}); run `videollava fetch` again"
        ) from error


def _origin(entry: Mapping[str, Any]) -> Origin:
    return Origin(str(entry["sha256"]), int(entry.get("seen", 1)))


def _whole(parts: Sequence[Origin]) -> Origin:
    """Of an archive in parts, their digests together."""
    digest = parts[0].digest
    if len(parts) > 1:
        digest = hashlib.sha256(" ".join(part.digest for part in parts).encode()).hexdigest()
    return Origin(digest, max(part.seen for part in parts))


def _list(group: list[Path], name: str, scratch: Path) -> Iterator[Member | Refusal]:
    archive = group[0]
    if is_junk(archive.name) or archive.name.lower() in ABOUT:
        return
    if kind_of_file(archive.name) is not None or archive.name.lower().endswith(TEXTS):
        yield as_member(name, archive)
        return
    if not archive.is_file():
        yield Refusal(str(archive), "", "unreadable archive", "not a file; pack folders into a tar")
        return
    yield from list_archive(group, scratch)
