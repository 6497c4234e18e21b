"""The lengths of all records, by batches that are remembered: what was counted before is not counted again.

A batch is known by what it says, so that what is added to a source costs what is new. Only rows that go anywhere are
counted; where others of a batch are wanted later, these alone are.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videollava.data.pool import Pool
from videollava.data.prepare.joined import Joined
from videollava.data.prepare.outlines import media_of
from videollava.data.prepare.rows import ASKED, COLUMNS, COUNT, LEARNED, Encoding, Refusals, Task, count_rows
from videollava.data.prepare.splits import Cut

__all__ = ["Counted", "count_records"]

Advance = Callable[[int], None]


@dataclass
class Counted:
    """A COUNT of each record that is kept; `refused`: by number, why one can't be used, and the detail."""

    counts: NDArray[Any]
    refused: Refusals


@dataclass
class _Batch:
    """One batch of a source: what of it is wanted, what is known, and where the kept rows' numbers begin."""

    task: Task
    file: Path
    kept: NDArray[np.bool_]
    begin: int
    counts: NDArray[Any]
    refused: Refusals

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which rows need no counting."""
        return (self.task.how == 0) | (self.counts["how"] == self.task.how)


def count_records(
    joined: Joined, cut: Cut, encoding: Encoding, memory: Path, pool: Pool, advance: Advance
) -> Counted:
    """Count the tokens of the records that go anywhere; `memory` is the folder of what was counted before."""
    began = time.time()
    found = Counted(np.zeros(len(joined.outlines), COUNT), {})
    waiting: list[_Batch] = []
    memory.mkdir(parents=True, exist_ok=True)
    tokenizer = memory / f"{encoding.digest()}.tokenizer"

    def unknown() -> Iterator[Task]:
        plain: Encoding | None = None
        for batch in _batches(joined, cut, encoding, memory):
            if batch.known.all():
                _take(batch, found, advance)
            else:
                plain = plain or encoding.write_plain(tokenizer)
                waiting.append(batch)
                yield _rest(batch, plain)

    for counts, refused in pool.stream(count_rows, unknown()):
        batch = waiting.pop(0)
        news = counts["how"] != 0
        batch.counts[news] = counts[news]
        batch.refused = {row: why for row, why in batch.refused.items() if not news[row]} | refused
        _write(batch)
        _take(batch, found, advance)
    _drop_unused(memory, began)
    return found


def _batches(joined: Joined, cut: Cut, encoding: Encoding, memory: Path) -> Iterator[_Batch]:
    wanted = np.where(cut.is_taken, np.where(cut.is_asked, ASKED, LEARNED), 0).astype(np.int8)
    begun = encoding.digest().encode()
    for part in joined.parts:
        for number, (begin, batch, kept) in enumerate(part.batches(COLUMNS)):
            how = np.zeros(len(kept), np.int8)
            how[kept] = wanted[begin : begin + int(kept.sum())]
            kinds = part.kinds[media_of(batch).values]
            file = memory / f"{_digest(begun, batch, kinds)}.counts"
            task = Task(encoding, part.records, number, how, kinds)
            yield _Batch(task, file, kept, begin, *_read(file, len(kept)))


def _rest(batch: _Batch, encoding: Encoding) -> Task:
    how = np.where(batch.known, 0, batch.task.how).astype(np.int8)
    return replace(batch.task, encoding=encoding, how=how)


def _digest(begun: bytes, batch: Any, kinds: NDArray[np.uint8]) -> str:
    """Of what the counts of a batch follow from."""
    digest = hashlib.sha256(begun)
    for name in ("id", "split", "conversations"):
        column = batch.column(name)
        _, offsets, text = column.buffers()
        ends = np.frombuffer(offsets, np.int32, count=len(column) + 1, offset=4 * column.offset)
        digest.update(np.diff(ends).tobytes())
        digest.update(memoryview(text or b"")[ends[0] : ends[-1]])
    digest.update(media_of(batch).lengths.tobytes())
    digest.update(kinds.tobytes())
    return digest.hexdigest()


def _take(batch: _Batch, found: Counted, advance: Advance) -> None:
    """Put the counts of a batch's kept rows into the whole."""
    kept = np.flatnonzero(batch.kept)
    found.counts[batch.begin : batch.begin + len(kept)] = batch.counts[kept]
    for row in sorted(batch.refused):
        if batch.task.how[row]:
            found.refused[batch.begin + int(np.searchsorted(kept, row))] = batch.refused[row]
    advance(int(np.count_nonzero(batch.task.how)))


def _read(file: Path, rows: int) -> tuple[NDArray[Any], Refusals]:
    try:
        data = io.BytesIO(file.read_bytes())
        counts = np.load(data)
        refused = {int(row): (reason, detail) for row, (reason, detail) in json.load(data).items()}
        if counts.dtype != COUNT or counts.shape != (rows,):
            raise ValueError(file)
        os.utime(file)
    except (OSError, ValueError, EOFError):  # not there, or cut off by a full disk
        return np.zeros(rows, COUNT), {}
    return counts, refused


def _write(batch: _Batch) -> None:
    half = batch.file.with_suffix(f".{os.getpid()}.tmp")
    with half.open("wb") as file:
        np.save(file, batch.counts)
        file.write(json.dumps(batch.refused).encode())
    half.replace(batch.file)


def _drop_unused(folder: Path, since: float) -> None:
    """Remove what was neither used nor written since a time (time.time()), and tokenizers."""
    for place in folder.iterdir():
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        elif place.stat().st_mtime < min(since, time.time()) - 1:
            place.unlink(missing_ok=True)
