"""The nearest rows of a table of vectors: exact, a piece at a time, so that memory does not grow with the table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from videollava.embedding.encoders import Vectors
from videollava.embedding.table import open_table
from videollava.errors import InputError

__all__ = ["Hit", "search"]

CHUNK = 8192  # rows held at once: 24 MiB of 768 numbers


@dataclass(frozen=True)
class Hit:
    """A row near a query: cosine, its path and modality, and its place in the table."""

    score: float
    path: str
    kind: str
    row: int


def search(
    index: Path, queries: Vectors, top: int = 10, kind: str | None = None, chunk: int = CHUNK
) -> list[list[Hit]]:
    """For each query (Q, D; normalised) the `top` rows of greatest cosine, best first; of equals the earlier one.

    kind: only rows of that modality. Every row is compared.
    """
    if top < 1:
        raise InputError(f"top {top}: ask for one row or more")
    file, made = open_table(index)
    with file:
        if queries.ndim != 2 or queries.shape[1] != made.dim:
            raise InputError(f"{index}: vectors of {made.dim} numbers, the queries are {queries.shape}")
        scores, rows = _nearest(file, queries, top, kind, chunk)
        found = _rows(file, np.unique(rows[rows >= 0]))
    return [
        [Hit(float(score), *found[int(row)], int(row)) for score, row in zip(*pair, strict=True) if row >= 0]
        for pair in zip(scores, rows, strict=True)
    ]


def _nearest(
    file: pq.ParquetFile, queries: Vectors, top: int, kind: str | None, chunk: int
) -> tuple[Vectors, NDArray[np.int64]]:
    """Scores and row numbers (Q, top), best first; -1 where there are fewer rows."""
    best = np.full((len(queries), top), -np.inf, np.float32)
    rows = np.full((len(queries), top), -1, np.int64)
    start = 0
    columns = ["vector"] if kind is None else ["vector", "kind"]
    for batch in file.iter_batches(batch_size=chunk, columns=columns):
        vectors = batch.column("vector").flatten().to_numpy().reshape(batch.num_rows, -1)
        scores = queries @ vectors.T
        if kind is not None:
            scores[:, ~pc.equal(batch.column("kind"), kind).to_numpy(zero_copy_only=False)] = -np.inf
        best, rows = _kept(best, rows, scores, start, top)
        start += batch.num_rows
    return best, rows


def _kept(
    best: Vectors, rows: NDArray[np.int64], scores: Vectors, start: int, top: int
) -> tuple[Vectors, NDArray[np.int64]]:
    """The best of those kept so far and of new ones. A stable order: of equal scores the earlier row stays ahead."""
    worst = best[:, -1:]
    if not (scores > worst).any():
        return best, rows
    numbers = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
    both = np.concatenate([best, scores], axis=1)
    numbered = np.concatenate([rows, np.where(np.isneginf(scores), -1, numbers)], axis=1)
    order = np.argsort(-both, axis=1, kind="stable")[:, :top]
    return np.take_along_axis(both, order, 1), np.take_along_axis(numbered, order, 1)


def _rows(file: pq.ParquetFile, wanted: NDArray[np.int64]) -> dict[int, tuple[str, str]]:
    """Path and kind of single rows, by their numbers (ascending)."""
    found: dict[int, tuple[str, str]] = {}
    start = 0
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        here = wanted[(wanted >= start) & (wanted < start + size)]
        if len(here):
            some = file.read_row_group(group, columns=["path", "kind"]).take(here - start)
            pairs = zip(some.column("path").to_pylist(), some.column("kind").to_pylist(), strict=True)
            found.update(zip(here.tolist(), pairs, strict=True))
        start += size
    return found
