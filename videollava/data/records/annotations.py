"""Files of annotations: which of a source's files they are, and their items as records."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import IO, Any

from videollava.data.acquire.addresses import file_name, is_address
from videollava.data.archives.listing import open_member
from videollava.data.archives.names import clean_name, renaming
from videollava.data.records.conversion import from_llava
from videollava.data.records.formats.format import Catalogue, Context, Entry, ItemFormat
from videollava.data.records.formats.table import AUTO, ITEM_FORMATS, LOOKED_AT, guess_format
from videollava.data.records.gold import as_split
from videollava.data.records.items import is_annotations, read_items
from videollava.data.records.keys import KeyWatch
from videollava.data.records.record import Record
from videollava.data.records.rejected import Notes, RecordError, Rejected
from videollava.errors import InputError
from videollava.params import Source

__all__ = ["Annotations", "choose_format", "file_split", "find_annotations", "read_annotations", "read_file"]

LONGEST = 1500  # characters of a reason; a name in it may be as long as its file


@dataclass(frozen=True)
class Annotations:
    """A file of annotations, to be read as often as asked for; `split`: what its name says, "" for nothing."""

    name: str
    open: Callable[[], IO[bytes]]
    split: str = ""


def read_annotations(source: Source, folder: Path, catalogue: Catalogue, notes: Notes) -> Iterator[Entry]:
    """Every record of a source's annotation files, and every entry that is none."""
    if not source.use:
        raise InputError(
            f"params.yaml: sources.{source.name}: format {source.format} needs `use`: align, pretrain or finetune"
        )
    rename = renaming(source.strip, source.prefix)
    for file in find_annotations(source, folder, catalogue):
        named = _from_beside(file.name, rename, catalogue)
        context = Context(partial(_is_present, named, catalogue), notes)
        for found in read_file(file, source.format, source.name, context, named):
            if isinstance(found, Rejected):
                yield found
            else:
                yield source.use, found


def _is_present(named: Callable[[str], str], catalogue: Catalogue, path: str) -> bool:
    return named(path) in catalogue


def _from_beside(file: str, rename: Callable[[str], str], catalogue: Catalogue) -> Callable[[str], str]:
    """`rename`, and from the file's own folder where the name is there alone: a folder's metadata.jsonl names so."""
    folder = PurePosixPath(file).parent.as_posix()
    if folder == ".":
        return rename

    def named(path: str) -> str:
        name = rename(path)
        beside = clean_name(f"{folder}/{name}")
        return beside if name not in catalogue and beside in catalogue else name

    return named


def read_file(
    file: Annotations,
    form: str,
    source: str,
    context: Context | None = None,
    rename: Callable[[str], str] = clean_name,
) -> Iterator[Record | Rejected]:
    """The records of a file, and of each item that is none, why.

    form: a name in ITEM_FORMATS, or "auto", which is guessed from the first and noted.
    """
    context = context or Context()
    with file.open() as stream:
        items: Iterable[Any] = read_items(stream, file.name)
        chosen, items = choose_format(items, form, file.name, context.notes)
        watch = KeyWatch(chosen.keys)
        for index, item in enumerate(items):
            if isinstance(item, dict):
                watch.see(item)
            try:
                yield _record(item, index, chosen, file, source, context, rename)
            except RecordError as error:
                yield Rejected(source, file.name, _name_of(item, index), error.reason, str(error)[:LONGEST])
            except RecursionError:
                detail = f"{file.name}: entry {index}: lists in lists, too many to read; drop the record"
                yield Rejected(source, file.name, str(index), "malformed record", detail)
        for told, count in watch.slips():
            context.notes[f"{file.name}: {told}"] += count


def choose_format(
    items: Iterable[Any], form: str, file: str, notes: Notes
) -> tuple[ItemFormat, Iterable[Any]]:
    """The format of some items, by its name or by a guess, and the items from the first on."""
    if form != AUTO:
        return ITEM_FORMATS[form], items
    rest = iter(items)
    first: list[Any] = []
    broken: InputError | None = None
    try:
        first.extend(islice(rest, LOOKED_AT))
    except InputError as error:
        broken = error  # what comes before the break is read first
    if not first:
        return ITEM_FORMATS["llava"], _raising(broken)
    chosen, told = guess_format(first, file)
    notes[told] += 1
    return chosen, chain(first, _raising(broken) if broken else rest)


def _raising(error: InputError | None) -> Iterator[Any]:
    yield from ()
    if error is not None:
        raise error


def file_split(name: str) -> str:
    """The split that a file's name says, such as `val.jsonl` or `test/metadata.jsonl`; "" where it says none."""
    path = PurePosixPath(name)
    return as_split(path.name.partition(".")[0]) or as_split(path.parent.name)


def _record(
    item: Any,
    index: int,
    form: ItemFormat,
    file: Annotations,
    source: str,
    context: Context,
    rename: Callable[[str], str],
) -> Record:
    if isinstance(item, RecordError):
        raise item
    place = f"{file.name}: entry {index}"
    if isinstance(item, dict):
        item = form.as_llava(item, place, context)
        if item.get("id") in (None, ""):
            item = {**item, "id": str(index)}
        if file.split and not item.get("split"):
            item = {**item, "split": file.split}
    return from_llava(item, source, place, rename)


def _name_of(item: Any, index: int) -> str:
    return str(item.get("id", index))[:200] if isinstance(item, dict) else str(index)


def find_annotations(source: Source, folder: Path, catalogue: Catalogue) -> list[Annotations]:
    """The files that hold the records: as named (`*` stands for several), the only .json or .jsonl beside or inside
    the archives, or one a split (train.jsonl, test.jsonl).
    """
    where = f"params.yaml: sources.{source.name}"
    wanted = source.annotations
    beside = {file.name for file in folder.iterdir()}
    if wanted not in beside:
        wanted = file_name(wanted, where) if is_address(wanted) else clean_name(wanted)
    if wanted in beside or wanted in catalogue:
        return [_opening(wanted, folder, catalogue, beside, several=False)]
    every = sorted(name for name in {*beside, *catalogue} if is_annotations(name))
    names = fnmatch.filter(every, wanted) if "*" in wanted else [] if wanted else every
    if not names or (not wanted and len(names) > 1 and not _are_splits(names)):
        there = (
            f"name one of: {', '.join(every[:5])}"
            if every
            else "no .json or .jsonl lies beside the media or in their archives: add the file that holds the records"
        )
        raise InputError(f"{where}: annotations: {wanted or 'not named'}; {there}")
    return [_opening(name, folder, catalogue, beside, several=len(names) > 1) for name in names]


def _are_splits(names: list[str]) -> bool:
    splits = [file_split(name) for name in names]
    return all(splits) and len(set(splits)) == len(splits)


def _opening(name: str, folder: Path, catalogue: Catalogue, beside: set[str], several: bool) -> Annotations:
    def opened() -> IO[bytes]:
        return (folder / name).open("rb") if name in beside else open_member(catalogue[name])

    return Annotations(name, opened, file_split(name) if several else "")
