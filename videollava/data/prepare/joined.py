"""The shards of all sources as one: media numbered once over all of them, records with those numbers."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videollava.data.prepare.row import Outline, Row
from videollava.data.prepare.tables import MEDIA, RECORDS, open_table
from videollava.data.records.quarantine import Quarantine
from videollava.data.records.record import Medium, Record, Turn
from videollava.errors import InputError

__all__ = ["LEFT_OUT", "Joined", "Part", "join_sources"]

LEFT_OUT = -1


@dataclass
class Part:
    """One source. `numbers`: of each of its media, the number among all, LEFT_OUT of a forgotten one."""

    name: str
    folder: Path
    media: Any
    records: Any
    summary: Mapping[str, Any]
    numbers: array[int] = field(default_factory=lambda: array("i"))
    first_shard: int = 0

    def rows(self, columns: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Its records (or some columns, `media` among them), without those whose media are left out."""
        for row in _rows(self.records.select(columns) if columns else self.records):
            if all(self.numbers[number] != LEFT_OUT for number in row["media"]):
                yield row


@dataclass
class Joined:
    """`hashes`, `kinds`: of each medium; `shards`: source and file of each. `forgotten`: by source, how many media and
    records are left out since a person had media forgotten.
    """

    parts: list[Part]
    hashes: list[str]
    kinds: list[str]
    shards: list[tuple[str, Path]]
    forgotten: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """How many `rows` gives."""
        whole = sum(part.records.num_rows for part in self.parts)
        return whole - sum(counts["records"] for counts in self.forgotten.values())

    def media(self) -> Iterator[dict[str, Any]]:
        """Rows of the index's media.arrow: a medium lies in the first source that has it."""
        following = 0
        for part in self.parts:
            for row in _rows(part.media):
                if part.numbers[row["media_id"]] == following:
                    yield {**row, "media_id": following, "shard": row["shard"] + part.first_shard}
                    following += 1

    def outlines(self) -> Iterator[Outline]:
        """Each record without its text."""
        for part in self.parts:
            for row in part.rows(["id", "split", "part", "asked", "media"]):
                media = tuple(part.numbers[number] for number in row["media"])
                yield Outline(row["split"], part.name, row["id"], media, row["part"], row["asked"])

    def rows(self) -> Iterator[Row]:
        """All records, in the order of `outlines`."""
        for part in self.parts:
            for row in part.rows():
                yield self._row(part, row)

    def _row(self, part: Part, row: Mapping[str, Any]) -> Row:
        media = tuple(part.numbers[number] for number in row["media"])
        turns = tuple(Turn(role, text) for role, text in json.loads(row["conversations"]))
        shown = tuple(Medium(self.kinds[number], "") for number in media)
        gold = {"split": row["part"], "answers": tuple(row["answers"]), "choices": tuple(row["choices"])}
        return Row(row["split"], Record(row["id"], part.name, turns, shown, row["kind"], **gold), media)

    def looks(self) -> list[str]:
        """How each medium looks (media.look), "" where that is not told."""
        looks = [""] * len(self.hashes)
        for part in self.parts:
            for number, look in zip(part.numbers, part.media.column("look").to_pylist(), strict=True):
                if number != LEFT_OUT:
                    looks[number] = look
        return looks

    def take_over(self, quarantine: Quarantine) -> None:
        """What was quarantined when the shards were cut counts here too."""
        for part in self.parts:
            quarantine.take_over(part.name, part.folder / "quarantine.jsonl", part.summary)

    def count_media(self) -> dict[str, Any]:
        """Totals for the summary."""
        counts: Counter[str] = Counter()
        for part in self.parts:
            counts.update({name: part.summary["media"].get(name, 0) for name in ("duplicates", "renamed")})
        again = sum(part.media.num_rows for part in self.parts) - len(self.hashes)
        size = sum(row["size"] for row in self.media())
        found = {"bytes": size, "duplicates": counts["duplicates"] + again, "kinds": Counter(self.kinds)}
        return {**found, "renamed": counts["renamed"]} if counts["renamed"] else found


def join_sources(folder: Path, names: Sequence[str], forgotten: Collection[str] = ()) -> Joined:
    """Open data/shards/NAME of each source; media whose sha256 is among `forgotten`, and their records, are left out.

    InputError where a source is missing, or is not what `shards` writes.
    """
    joined = Joined([], [], [], [])
    known: dict[tuple[str, bytes], int] = {}
    for name in names:
        part = _open(folder / name, name)
        part.first_shard = len(joined.shards)
        joined.shards += [(name, file) for file in sorted(part.folder.glob(f"{name}-*.tar"))]
        for kind, sha256 in zip(
            *(part.media.column(key).to_pylist() for key in ("kind", "sha256")), strict=True
        ):
            if sha256 in forgotten:
                part.numbers.append(LEFT_OUT)
                continue
            number = known.setdefault((kind, bytes.fromhex(sha256)), len(joined.hashes))
            if number == len(joined.hashes):
                joined.hashes.append(sha256)
                joined.kinds.append(kind)
            part.numbers.append(number)
        joined.parts.append(part)
        if LEFT_OUT in part.numbers:
            joined.forgotten[name] = _count_left_out(part)
    return joined


def _count_left_out(part: Part) -> dict[str, int]:
    kept = sum(1 for _ in part.rows(["media"]))
    return {"media": part.numbers.count(LEFT_OUT), "records": part.records.num_rows - kept}


def _open(folder: Path, name: str) -> Part:
    stage = f"shards {name}"
    if not folder.is_dir():
        raise InputError(f"{folder}: not found; run `videollava {stage}`")
    media, records = (open_table(folder / file, stage) for file in (MEDIA, RECORDS))
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}/summary.json: not what shards writes ({error!r}); run `videollava {stage}` again"
        ) from error
    return Part(name, folder, media, records, summary)


def _rows(table: Any) -> Iterator[dict[str, Any]]:
    """Rows of a memory-mapped table, one batch of it at a time."""
    for batch in table.to_batches():
        yield from batch.to_pylist()
