"""`videollava check`: a file of annotations or a source, read as the pipeline will, and what became of each record.

Nothing is opened that a record names: media are looked up by name, in the folder or the archives that were given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from videollava.data.acquire.located import RAW
from videollava.data.check.findings import Findings
from videollava.data.check.lengths import Task, measure
from videollava.data.check.places import Place, open_place
from videollava.data.pool import Pool
from videollava.data.prepare.catalogue import Finder, Unfound
from videollava.data.prepare.opened import open_source
from videollava.data.records.annotations import find_annotations
from videollava.data.records.formats.table import ITEM_FORMATS
from videollava.data.records.items import is_annotations
from videollava.data.records.quarantine import Quarantine
from videollava.data.records.readers import read_records
from videollava.data.records.record import Record
from videollava.data.records.rejected import Notes, Rejected
from videollava.data.text.bounds import Bound, bound_of
from videollava.errors import InputError
from videollava.params import Params, Source

__all__ = ["Asked", "Checked", "check"]

BATCH = 512  # records that are measured at a time
LONGEST = 300  # characters of a path in a reason
Use = Literal["align", "pretrain", "finetune"]


@dataclass(frozen=True)
class Asked:
    """What to check: a file, a folder or a source's name.

    media: where they lie. tokenizer: its folder, None to estimate lengths. listed: takes every problem, a line of
    JSON each. workers: processes that count tokens.
    """

    target: str
    media: Path | None = None
    form: str = ""
    use: Use | Literal[""] = ""
    tokenizer: Path | None = None
    listed: Path | None = None
    workers: int = 1


@dataclass(frozen=True)
class Checked:
    """What was found. searched: whether media were looked for. bound: what training cuts records to.

    stopped: why the file could not be read to its end, else "".
    """

    name: str
    findings: Findings
    searched: bool
    bound: Bound | None
    most: float
    stopped: str = ""

    @property
    def passed(self) -> bool:
        """Whether all could be read, and the share of records that would be quarantined is within the bound."""
        return not self.stopped and self.findings.rejected <= self.most * self.findings.records


@dataclass(frozen=True)
class _Opened:
    source: Source
    folder: Path
    place: Place
    searched: bool = True


def check(
    asked: Asked, params: Params, workspace: Path, advance: Callable[[int], None] = lambda count: None
) -> Checked:
    """Read all that is asked for; InputError where it can't be read at all. advance: told of records as they pass."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        opened = _open(asked, params, workspace, scratch)
        if asked.listed is not None:
            asked.listed.parent.mkdir(parents=True, exist_ok=True)
        listed = stack.enter_context(asked.listed.open("w")) if asked.listed else None
        findings = Findings(listed, notes=Notes(opened.place.notes))
        use = opened.source.use or "finetune"
        bound = bound_of(params, use)
        template = "v1" if use == "finetune" else "plain"
        model = params.model
        task = partial(Task, asked.tokenizer, model.image_tokens, model.video_tokens, template, bound)
        stopped = ""
        with Pool(asked.workers if asked.tokenizer else 1) as pool:
            try:
                _read(opened, findings, task, pool, advance)
            except InputError as error:
                if not findings.records:
                    raise
                stopped = str(error)
    if not findings.records:
        raise InputError(f"{asked.target}: no record is in it; name the file that holds them")
    return Checked(asked.target, findings, opened.searched, bound, params.shards.max_quarantined, stopped)


def _open(asked: Asked, params: Params, workspace: Path, scratch: Path) -> _Opened:
    path = Path(asked.target)
    if path.is_file():
        return _open_file(asked, path, scratch)
    source = params.sources.get(asked.target)
    if source is None and path.is_dir():
        return _Opened(_source_of(asked, path.resolve().name), path, open_place(asked.media or path, scratch))
    if source is None:
        known = ", ".join(params.sources) or "none"
        raise InputError(
            f"{asked.target}: no file, no folder and no source of params.yaml (they are: {known})"
        )
    if asked.media or asked.use:
        raise InputError(
            f"{asked.target}: a source says itself where its media are and what it is used for; "
            f"leave --media and --use out{f', or write ./{path} for the folder' if path.is_dir() else ''}"
        )
    source = source.replace(format=asked.form) if asked.form else source
    with Quarantine(scratch / "members.jsonl") as quarantine:
        opened = open_source(source, workspace / RAW, scratch, quarantine)
        refused = quarantine.summary()["members"].get(source.name, {})
    told = {f"members of archives that are not read: {reason}": count for reason, count in refused.items()}
    told |= dict.fromkeys(opened.unread(), 1)
    return _Opened(source, opened.folder, Place(opened.catalogue, opened.ambiguous, Notes(told)))


def _open_file(asked: Asked, path: Path, scratch: Path) -> _Opened:
    """A file as a source of its own."""
    source = _source_of(asked, path.name)
    if is_annotations(path.name):
        place = open_place(asked.media, scratch) if asked.media else Place()
        return _Opened(source.replace(annotations=path.name), path.parent, place, bool(asked.media))
    empty = scratch / "beside"
    empty.mkdir()
    return _Opened(source, empty, open_place(path, scratch))


def _source_of(asked: Asked, name: str) -> Source:
    use = asked.use or "finetune"
    return Source(name=name, kind="archive", format=asked.form or "auto", use=use)


def _read(
    opened: _Opened, findings: Findings, task: partial[Task], pool: Pool, advance: Callable[[int], None]
) -> None:
    search = _Search(Finder(opened.place.catalogue, opened.place.ambiguous)) if opened.searched else None
    kept = _kept(opened, findings, search)
    groups = iter(lambda: list(islice(kept, BATCH)), [])
    waiting: list[list[Record]] = []

    def tasks() -> Iterator[Task]:
        for group in groups:
            waiting.append(group)
            yield task(group)

    for lengths in pool.stream(measure, tasks()):
        advance(len(lengths))
        for record, length in zip(waiting.pop(0), lengths, strict=True):
            findings.measure(opened.source.name, record, length)


def _kept(opened: _Opened, findings: Findings, search: _Search | None) -> Iterator[Record]:
    """The records whose media are there."""
    name = _file_of(opened)
    for entry in read_records(opened.source, opened.folder, opened.place.catalogue, findings.notes):
        if isinstance(entry, Rejected):
            findings.refuse(entry)
            continue
        record = entry[1]
        lost = search.lost(record) if search else None
        if lost is not None:
            path, found = lost
            detail = f"{name}: record {record.id!r}: field {_field(record, path)}: {path[:LONGEST]!r}: {found.detail}"
            findings.refuse(Rejected(opened.source.name, name, record.id, found.reason, detail))
            continue
        if two := [(medium, kind) for medium in record.media if (kind := findings.other_kind(medium))]:
            medium, kind = two[0]
            detail = (
                f"{name}: record {record.id!r}: field {medium.kind}: {medium.path[:LONGEST]!r}: an earlier record "
                f"has it as {kind}; one of them is wrong"
            )
            findings.refuse(Rejected(opened.source.name, name, record.id, "medium of two kinds", detail))
            continue
        findings.take(record, name, search.sizes if search else {})
        yield record


def _file_of(opened: _Opened) -> str:
    """The file that the records are in; of several, or of pairs, the source."""
    if opened.source.format in ("auto", *ITEM_FORMATS):
        try:
            found = find_annotations(opened.source, opened.folder, opened.place.catalogue)
        except InputError:
            return opened.source.name
        if len(found) == 1:
            return found[0].name
    return opened.source.name


def _field(record: Record, path: str) -> str:
    return next(medium.kind for medium in record.media if medium.path == path)


class _Search:
    """Looks media up once each; keeps 8 bytes of those that are there, and what is told of those that are not."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._found: set[int] = set()
        self._lost: dict[str, Unfound] = {}
        self.sizes: dict[str, int] = {}  # of the record's media that are new

    def lost(self, record: Record) -> tuple[str, Unfound] | None:
        """The first of a record's media that is not there, and why."""
        self.sizes.clear()
        for path in {medium.path: None for medium in record.media}:
            if hash(path) in self._found:
                continue
            if path not in self._lost:
                member = self._finder.find(path)
                if not isinstance(member, Unfound):
                    self._found.add(hash(path))
                    self.sizes[path] = member.size
                    continue
                self._lost[path] = member
            return path, self._lost[path]
        return None
