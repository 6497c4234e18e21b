"""Many files into a table of vectors: in batches, what cannot be read counted and listed, resumed where it was ended.

While it runs, finished parts lie in `TARGET.parts` beside the target; the target appears once all is there, whole.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from videollava.data.media.pixels import stack
from videollava.embedding.encoders import BATCH, Encoders, Vectors
from videollava.embedding.kinds import kind_of, kind_said
from videollava.embedding.table import (
    Made,
    Row,
    check_made,
    made_by,
    merge,
    open_table,
    rows_of,
    table_of,
    write_whole,
)
from videollava.errors import InputError

__all__ = ["Done", "check_target", "embed_files", "encode_files", "list_files"]

PART = 1024  # rows that a kill costs at most
READERS = min(8, os.cpu_count() or 1)
Tell = Callable[[int, int], None]


@dataclass
class Done:
    """What came of the files. kinds: of those written, how many of each modality. kept: rows that were there already,
    of this run's begin or of the table added to.
    """

    written: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def list_files(given: Iterable[str], kind: str | None = None) -> list[Row]:
    """Path and modality of each file, once; a folder is all files in it whose ending tells a modality."""
    rows: list[Row] = []
    for name in given:
        path = Path(name)
        inside = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
        if path.is_dir():
            rows += [(str(file), kind or of) for file in inside if (of := _kind_or_none(file))]
        else:
            rows.append((str(path), kind_said(kind) if kind else kind_of(path)))
    if not rows:
        raise InputError("no file: name files, or folders that hold media")
    return list(dict.fromkeys(rows))


def _kind_or_none(file: Path) -> str | None:
    try:
        return kind_of(file)
    except InputError:
        return None


def check_target(target: Path, add: bool) -> None:
    """InputError where a table is there that nobody asked to add to."""
    if target.exists() and not add:
        raise InputError(f"{target}: exists; --add adds to it, or remove it to write it anew")


def embed_files(
    encoders: Encoders,
    rows: Sequence[Row],
    target: Path,
    add: bool = False,
    batch: int = BATCH,
    tell: Tell | None = None,
) -> Done:
    """Write the vectors of `rows` to a table. add: to those that are in it; else it must not exist.

    Ended in the middle, the same call goes on. InputError where the table, or what was begun, is another model's.
    """
    made, done = made_by(encoders, {kind for _, kind in rows}), Done()
    check_target(target, add)
    with _begun(target) as parts:
        there: set[Row] = set()
        sources = [*([target] if target.exists() else []), *_parts(parts)]
        for source in sources:
            file, old = open_table(source)
            with file:
                check_made(source, old, encoders)
                there.update(rows_of(file))
            made = Made(made.dim, made.space, {**old.encoders, **made.encoders})
        asked = [row for row in rows if row not in there]
        done.kept = len(rows) - len(asked)
        for number, (found, vectors) in enumerate(
            _pieces(encoders, asked, done, batch, tell), len(_parts(parts))
        ):
            write_whole(parts / f"{number:06d}.parquet", made, [table_of(found, vectors, made)])
            done.written += len(found)
            done.kinds.update(kind for _, kind in found)
        if not there and not done.written:
            raise InputError(_nothing(done, len(rows)))
        merge([*sources, *_parts(parts)[len(sources) - target.exists() :]], target, made, parts / "whole.tmp")
        shutil.rmtree(parts)
    return done


def encode_files(
    encoders: Encoders,
    rows: Iterable[Row],
    batch: int = BATCH,
    unreadable: list[tuple[str, str]] | None = None,
) -> Iterator[tuple[list[Row], Vectors]]:
    """Batches of one modality each with their vectors, read ahead by threads.

    unreadable: where files that cannot be read are noted with the reason; without it the first one is an error.
    """
    waiting: dict[str, tuple[list[Row], list[Tensor]]] = {}
    for row, pixels in _read(encoders, rows, batch, unreadable):
        found, held = waiting.setdefault(row[1], ([], []))
        found.append(row)
        held.append(pixels)
        if len(held) >= batch:
            del waiting[row[1]]
            yield found, encoders.encode(row[1], stack(held))
    for kind, (found, held) in waiting.items():
        yield found, encoders.encode(kind, stack(held))


def _read(
    encoders: Encoders, rows: Iterable[Row], ahead: int, unreadable: list[tuple[str, str]] | None
) -> Iterator[tuple[Row, Tensor]]:
    pending: deque[tuple[Row, Future[Tensor]]] = deque()
    left = iter(rows)
    with ThreadPoolExecutor(READERS) as pool:
        try:
            while True:
                while len(pending) < ahead and (row := next(left, None)) is not None:
                    pending.append((row, pool.submit(encoders.read, Path(row[0]), row[1])))
                if not pending:
                    return
                row, future = pending.popleft()
                try:
                    pixels = future.result()
                except InputError as error:
                    if unreadable is None:
                        raise
                    unreadable.append((row[0], str(error)))
                    continue
                yield row, pixels
        finally:
            for _, future in pending:
                future.cancel()


def _pieces(
    encoders: Encoders, rows: Sequence[Row], done: Done, batch: int, tell: Tell | None
) -> Iterator[tuple[list[Row], Vectors]]:
    """As encode_files, in pieces large enough for a part."""
    held: list[tuple[list[Row], Vectors]] = []
    seen = 0
    for found, vectors in encode_files(encoders, rows, batch, done.unreadable):
        held.append((found, vectors))
        seen += len(found)
        if tell is not None:
            tell(seen + len(done.unreadable), len(rows))
        if sum(len(part) for part, _ in held) >= PART:
            yield [row for part, _ in held for row in part], np.concatenate([part for _, part in held])
            held = []
    if held:
        yield [row for part, _ in held for row in part], np.concatenate([part for _, part in held])


@contextmanager
def _begun(target: Path) -> Iterator[Path]:
    """The folder of finished parts, of this model's and one process's alone."""
    parts = target.with_name(target.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(parts / "lock", timeout=0):
            yield parts
    except Timeout as error:
        raise InputError(f"{target}: another process is writing it") from error
    finally:
        if parts.is_dir() and not _parts(parts):  # nothing was begun
            shutil.rmtree(parts, ignore_errors=True)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.parquet"))


def _nothing(done: Done, asked: int) -> str:
    first = done.unreadable[0][1] if done.unreadable else "nothing was asked for"
    return f"none of {asked} files could be read; the first: {first}"
