"""The shards of all sources as one: media numbered once over all of them, records with those numbers.

Columns, and batches of rows that are read one at a time: of two million records nothing is held but numbers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videollava.data.prepare.outlines import Lists, Mask, Outlines, Places, media_of, read_outlines
from videollava.data.prepare.tables import MEDIA, RECORDS, open_table, read_batches
from videollava.data.records.marks import KINDS
from videollava.data.records.quarantine import Quarantine
from videollava.errors import InputError
from videollava.params import Frames

__all__ = ["LEFT_OUT", "Joined", "Part", "join_sources"]

LEFT_OUT = -1
SHA256 = 32  # bytes

Hashes = NDArray[np.uint8]  # a row of 32 bytes a medium


@dataclass
class Part:
    """One source. `kinds`: of each of its media, the number in KINDS; `numbers`: its number among all, LEFT_OUT of a
    forgotten one. `splits`: of its records, of those that are left out too. `begin`: the number of its first record
    among all that are kept.
    """

    name: str
    folder: Path
    summary: Mapping[str, Any]
    kinds: NDArray[np.uint8]
    numbers: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    splits: set[str] = field(default_factory=set)
    begin: int = 0
    first_shard: int = 0

    @property
    def records(self) -> Path:
        """The table of its records."""
        return self.folder / RECORDS

    def batches(self, columns: Sequence[str] = ()) -> Iterator[tuple[int, Any, Mask]]:
        """Its records: of each batch the number of its first one among all that are kept, its rows (or some columns,
        `media` among them), and which rows are kept: those that show nothing forgotten.
        """
        begin = self.begin
        forgotten = self.numbers == LEFT_OUT
        for batch in self.stored("records", columns):
            kept = media_of(batch).count(forgotten) == 0
            yield begin, batch, kept
            begin += int(kept.sum())

    def ids(self) -> Iterator[str]:
        """Of its records that are kept."""
        for _, batch, kept in self.batches(["id", "media"]):
            yield from (
                text for text, is_kept in zip(batch.column("id").to_pylist(), kept, strict=True) if is_kept
            )

    def hashes(self) -> Hashes:
        """The sha256 of each of its media."""
        found = [_bytes_of(batch.column("sha256")) for batch in self.stored("media", ["sha256"])]
        return np.concatenate([np.zeros((0, SHA256), np.uint8), *found])

    def looks(self) -> Any:
        """How each of its media looks (media.look), "" where that is not told; an Arrow array."""
        import pyarrow as pa

        column = open_table(self.folder / MEDIA, f"shards {self.name}").column("look").fill_null("")
        return column.combine_chunks() if column.num_chunks else pa.array([], pa.string())

    def stored(self, table: str, columns: Sequence[str] = ()) -> Iterator[Any]:
        """Batches of its table "media" or "records"."""
        file = self.folder / {"media": MEDIA, "records": RECORDS}[table]
        return read_batches(file, columns, f"shards {self.name}")


@dataclass
class Joined:
    """`hashes`, `kinds`: of each medium; `shards`: source and file of each. `forgotten`: by source, how many media and
    records are left out since a person had media forgotten.
    """

    parts: list[Part]
    hashes: Hashes
    kinds: NDArray[np.uint8]
    outlines: Outlines
    shards: list[tuple[str, Path]]
    forgotten: dict[str, dict[str, int]]

    @property
    def frames(self) -> dict[str, tuple[int, int]]:
        """Of the sources whose clips are stored as frames, how many frames and of what side."""
        stored = {part.name: part.summary["frames"] for part in self.parts if "frames" in part.summary}
        return {name: (found["count"], found["size"]) for name, found in stored.items()}

    def check_frames(self, frames: Frames) -> None:
        """InputError where a source's shards were cut while `shards.frames` was another: no index mixes the two."""
        asked = frames.model_dump() if frames.count else None
        for part in self.parts:
            stored = part.summary.get("frames")
            if stored != asked and (stored or KINDS.index("video") in part.kinds):
                raise InputError(
                    f"{part.folder}: its clips are {_told(stored)}, and shards.frames asks for {_told(asked)}: run "
                    f"`videollava shards {part.name}` again"
                )

    @property
    def places(self) -> Places:
        """Of each medium, the first 64 bits of its hash."""
        return np.ascontiguousarray(self.hashes[:, :8]).view(">u8")[:, 0].astype(np.uint64)

    def media(self) -> Iterator[Any]:
        """The index's media.arrow in batches: a medium lies in the first source that has it."""
        import pyarrow as pa

        following = 0
        for part in self.parts:
            begin = 0
            for batch in part.stored("media"):
                numbers = part.numbers[begin : begin + batch.num_rows]
                begin += batch.num_rows
                # Media are numbered as they first come.
                rows = np.flatnonzero(numbers >= following)
                own = batch.take(pa.array(rows[np.unique(numbers[rows], return_index=True)[1]]))
                ids = pa.array(np.arange(following, following + own.num_rows), pa.int32())
                shards = pa.array(own.column("shard").to_numpy() + part.first_shard, pa.int32())
                own = own.set_column(0, "media_id", ids)
                yield own.set_column(own.schema.get_field_index("shard"), "shard", shards)
                following += own.num_rows

    def looks(self) -> Any:
        """How each medium looks, as `Part.looks`."""
        import pyarrow as pa

        numbers = np.concatenate([np.zeros(0, np.int32), *(part.numbers for part in self.parts)])
        kept = np.flatnonzero(numbers != LEFT_OUT)
        place = np.zeros(len(self.kinds), np.int64)
        place[numbers[kept]] = kept
        looks = pa.chunked_array([part.looks() for part in self.parts], pa.string())
        return looks.take(pa.array(place))

    def take_over(self, quarantine: Quarantine) -> None:
        """What was quarantined when the shards were cut counts here too."""
        for part in self.parts:
            quarantine.take_over(part.name, part.folder / "quarantine.jsonl", part.summary)

    def count_media(self) -> dict[str, Any]:
        """Totals for the summary, but for their bytes."""
        counts: Counter[str] = Counter()
        for part in self.parts:
            counts.update({name: part.summary["media"].get(name, 0) for name in ("duplicates", "renamed")})
        again = sum(len(part.numbers) for part in self.parts) - len(self.kinds)
        kinds = {KINDS[kind]: int(n) for kind, n in enumerate(np.bincount(self.kinds)) if n}
        found = {"duplicates": counts["duplicates"] + again, "kinds": kinds}
        return {**found, "renamed": counts["renamed"]} if counts["renamed"] else found


def _told(frames: Mapping[str, Any] | None) -> str:
    """What is stored of clips, in words."""
    if not frames:
        return "the files they are"
    return f"{frames['count']} frames of {frames['size']} x {frames['size']}, {frames['form']}"


def join_sources(folder: Path, names: Sequence[str], forgotten: Collection[str] = ()) -> Joined:
    """Open data/shards/NAME of each source; media whose sha256 is among `forgotten`, and their records, are left out.

    InputError where a source is missing, or is not what `shards` writes.
    """
    parts = [_open(folder / name, name) for name in names]
    hashes, kinds = _number_media(parts, forgotten)
    shards: list[tuple[str, Path]] = []
    for part in parts:
        part.first_shard = len(shards)
        shards += [(part.name, file) for file in sorted(part.folder.glob(f"{part.name}-*.tar"))]
    left: dict[str, dict[str, int]] = {}
    outlines = read_outlines(names, _outlined(parts, left))
    return Joined(parts, hashes, kinds, outlines, shards, left)


def _open(folder: Path, name: str) -> Part:
    stage = f"shards {name}"
    if not folder.is_dir():
        raise InputError(f"{folder}: not found; run `videollava {stage}`")
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}/summary.json: not what shards writes ({error!r}); run `videollava {stage}` again"
        ) from error
    part = Part(name, folder, summary, np.zeros(0, np.uint8))
    kinds = [_kinds_of(batch.column("kind"), part) for batch in part.stored("media", ["kind"])]
    part.kinds = np.concatenate([part.kinds, *kinds])
    return part


def _number_media(parts: Sequence[Part], forgotten: Collection[str]) -> tuple[Hashes, NDArray[np.uint8]]:
    """Number the media of all parts as they first come; the hash and the kind of each."""
    keys = [np.column_stack([part.kinds, part.hashes()]) for part in parts]
    width = 1 + SHA256
    rows = np.concatenate([np.zeros((0, width), np.uint8), *keys])
    kept = _kept(rows, forgotten)
    found = _binary(rows[kept]).dictionary_encode()
    numbers = np.full(len(rows), LEFT_OUT, np.int32)
    numbers[kept] = found.indices.to_numpy()
    begin = 0
    for part, key in zip(parts, keys, strict=True):
        part.numbers = numbers[begin : begin + len(key)]
        begin += len(key)
    distinct = np.frombuffer(
        found.dictionary.buffers()[1] or b"", np.uint8, count=width * len(found.dictionary)
    )
    distinct = distinct.reshape(-1, width)
    return distinct[:, 1:].copy(), distinct[:, 0].copy()


def _kept(rows: Hashes, forgotten: Collection[str]) -> Mask:
    """Which of these media, a kind and a hash each, are not forgotten."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not forgotten:
        return np.ones(len(rows), bool)
    known = pa.array([bytes.fromhex(text) for text in forgotten], pa.binary(SHA256))
    return ~pc.is_in(_binary(rows[:, 1:]), value_set=known).to_numpy(zero_copy_only=False)


def _binary(rows: Hashes) -> Any:
    import pyarrow as pa

    kind = pa.binary(rows.shape[1])
    return pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])


def _outlined(
    parts: Sequence[Part], forgotten: dict[str, dict[str, int]]
) -> Iterator[tuple[int, Any, Lists]]:
    """Batches of the records that are kept; how many are not goes into `forgotten`."""
    import pyarrow as pa

    following = 0
    for source, part in enumerate(parts):
        part.begin = following
        whole = 0
        for _, batch, kept in part.batches(["split", "part", "asked", "media"]):
            whole += batch.num_rows
            part.splits.update(batch.column("split").unique().to_pylist())
            if not kept.all():
                batch = batch.filter(pa.array(kept))
            media = media_of(batch)
            following += batch.num_rows
            yield source, batch, Lists(media.offsets, part.numbers[media.values])
        if lost := int((part.numbers == LEFT_OUT).sum()):
            forgotten[part.name] = {"media": lost, "records": whole - (following - part.begin)}


def _bytes_of(column: Any) -> Hashes:
    digits = "".join(column.to_pylist())
    return np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(-1, SHA256)


def _kinds_of(column: Any, part: Part) -> NDArray[np.uint8]:
    encoded = column.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    for name in names:
        if name not in KINDS:
            raise InputError(
                f"{part.folder / MEDIA}: a medium of kind {name!r}; run `videollava shards {part.name}` again"
            )
    return np.array([KINDS.index(name) for name in names], np.uint8)[encoded.indices.to_numpy()]
