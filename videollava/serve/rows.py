"""Rows as a table or a JSON body gives them: question, images, videos, with cells that are empty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from videollava.errors import InputError

__all__ = ["read_rows"]


def read_rows(rows: Mapping[str, Any] | Iterable[Any]) -> list[dict[str, Any]]:
    """`{"question", "images", "videos"}` of each row, media as lists. InputError names the row and the column."""
    return [_read_row(row, at) for at, row in enumerate([rows] if isinstance(rows, Mapping) else rows)]


def _read_row(row: Any, number: int) -> dict[str, Any]:
    """A row without the cells that a data frame fills up with NaN; other columns than ours are refused."""
    if not isinstance(row, Mapping):
        raise InputError(f"row {number}: {type(row).__name__}; give question, images, videos")
    sample = {str(name): value for name, value in row.items() if not _is_nothing(value)}
    unknown = sorted(sample.keys() - {"question", "images", "videos"})
    if unknown:
        raise InputError(f"row {number}: no column {', '.join(unknown)}; there are question, images, videos")
    if not isinstance(sample.get("question"), str):
        raise InputError(f"row {number}: column question: must be text; write the question")
    return {**sample, **{kind: _media(sample.get(kind)) for kind in ("images", "videos")}}


def _media(value: Any) -> Any:
    """The media of a cell: one, or a list that may have empty places; arrays of numbers stay as they are."""
    if value is None:
        return []
    if isinstance(value, str | bytes | bytearray | Mapping):
        return [value]
    several = isinstance(value, list | tuple) or str(getattr(value, "dtype", "")) == "object"
    return [item for item in value if not _is_nothing(item)] if several else value


def _is_nothing(value: Any) -> bool:
    """None, NaN, pandas' NA and NaT, an empty text: a table's ways of saying that there is nothing."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    # NaN alone is unequal to itself; pandas' NA says neither yes nor no.
    return type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, Real) and value != value)
