"""From a fetched source to records: a reader for each format yields (split, Record) or Rejected, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from videollava.data.modalities import MODALITIES
from videollava.data.records.annotations import read_annotations
from videollava.data.records.formats.clips import PAIRS, read_clips
from videollava.data.records.formats.easy_vqa import read_easy_vqa
from videollava.data.records.formats.format import Catalogue, Entry, SourceReader
from videollava.data.records.formats.table import AUTO, ITEM_FORMATS
from videollava.data.records.formats.webdataset import has_pairs, read_webdataset
from videollava.data.records.record import Record
from videollava.data.records.rejected import Notes, Rejected
from videollava.params import Source

__all__ = ["READERS", "Rejected", "read_records"]


ALIGN = "align"


def _read_any(source: Source, folder: Path, catalogue: Catalogue, notes: Notes) -> Iterator[Entry]:
    """Pairs in tars where the archives hold pairs and nothing that is a list, else annotations."""
    reader = read_webdataset if has_pairs(folder, catalogue) else read_annotations
    return reader(source, folder, catalogue, notes)


READERS: Mapping[str, SourceReader] = {
    AUTO: _read_any,
    "easy-vqa": read_easy_vqa,
    "clips": read_clips,
    **dict.fromkeys(ITEM_FORMATS, read_annotations),
    "webdataset": read_webdataset,
}


def read_records(
    source: Source, folder: Path, catalogue: Catalogue, notes: Notes | None = None
) -> Iterator[tuple[str, Record] | Rejected]:
    """Every record of a source with its split, and every entry that isn't one.

    Args:
        source: its section of params.yaml.
        folder: data/raw/<source>.
        catalogue: the members of its archives by name.
        notes: takes how often what was done to records that are kept.
    """
    for found in READERS[source.format](source, folder, catalogue, Notes() if notes is None else notes):
        yield found if isinstance(found, Rejected) else _checked(source, *found)


def _checked(source: Source, split: str, record: Record) -> tuple[str, Record] | Rejected:
    """The record where its stage can take it."""
    place = f"record {record.id!r}"
    paired = split in (ALIGN, PAIRS)
    if paired and (len(record.media), len(record.turns)) != (1, 2):
        detail = f"{place}: alignment takes one medium and one caption"
        return Rejected(source.name, split, record.id, "not a caption", detail)
    silent = [medium.kind for medium in record.media if not MODALITIES[medium.kind].spoken]
    if silent and not paired:
        detail = (
            f"{place}: the language model sees images and videos; {silent[0]} is aligned with captions alone: "
            f"give it to a source of its own with `use: {ALIGN}`"
        )
        return Rejected(source.name, split, record.id, "aligned only", detail)
    return split, record
