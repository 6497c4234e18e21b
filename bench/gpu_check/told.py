"""Rows: what a part has found, one line of JSON each on its standard output, read by whoever started it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["Row", "read_rows", "tell"]

MARK = "@row "
Row = dict[str, Any]


def tell(what: str, **figures: Any) -> None:
    """Print a row at once: what was done, and figures (numbers, words, lists of numbers)."""
    print(MARK + json.dumps({"what": what, **figures}), flush=True)


def read_rows(lines: Iterable[str]) -> Iterator[Row]:
    """The rows among the lines of a part's output; one cut off by a kill is left out."""
    for line in lines:
        if line.startswith(MARK):
            try:
                yield json.loads(line.removeprefix(MARK))
            except ValueError:
                continue
