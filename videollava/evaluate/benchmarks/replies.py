"""A judge's replies on disk: by id the attempts in order, with or without the judge that gave them.

    {"judge": {"name", "version", "prompt", "reader"?}, "replies": {id: [reply, ..]}}    ours
    {id: [reply, ..]}                                                                    plain

For several runs of each ask, an id has a list of such lists. Replies are kept as they came; the reader says how they
are read: as the official scripts do, unless another is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from videollava.errors import InputError
from videollava.evaluate.benchmarks.reading import Document, parse
from videollava.evaluate.judge_prompts import Prompt, Reader, first_usable

__all__ = ["UNKNOWN_JUDGE", "Replies", "is_lost", "of_document", "read_replies", "runs_of"]

UNKNOWN_JUDGE = {"name": "unknown", "version": "", "prompt": ""}


@dataclass(frozen=True)
class Replies:
    """`by_id` as in the file; `judge` names who gave them."""

    path: Path
    judge: Mapping[str, str]
    by_id: Mapping[str, Any]

    @property
    def reader(self) -> Reader:
        """How its replies are read."""
        return "tolerant" if self.judge.get("reader") == "tolerant" else "official"

    def usable(self, prompt: Prompt, key: str) -> str | None:
        """The reply that counts for `key`, in the official form: the first of its attempts that can be read."""
        return first_usable(prompt, self._attempts(key), self.reader)

    def lost(self, prompt: Prompt, keys: Iterable[str]) -> int:
        """How many of `keys` the official reader gets no whole verdict from, where the tolerant one does."""
        if self.reader == "tolerant":
            return 0
        return sum(is_lost(prompt, self._attempts(key)) for key in keys)

    def _attempts(self, key: str) -> list[str]:
        attempts = self.by_id.get(key, [])
        if not isinstance(attempts, list) or not all(isinstance(reply, str) for reply in attempts):
            raise InputError(f"{self.path}: {key!r}: want a list of replies, not {str(attempts)[:60]!r}")
        return attempts


def is_lost(prompt: Prompt, attempts: Sequence[str]) -> bool:
    """Whether the official reader gets no whole verdict from the attempts of an ask, and the tolerant one does."""
    read = first_usable(prompt, attempts)
    return (read is None or not prompt.whole(read)) and first_usable(prompt, attempts, "tolerant") is not None


def read_replies(path: Path | None) -> Replies:
    """Replies of a file in one of our two forms."""
    if path is None:
        raise InputError("this benchmark is judged: give --judge-replies PATH")
    return of_document(parse(path))


def of_document(document: Document) -> Replies:
    """Replies of a parsed file in one of our two forms."""
    value = document.value
    if not isinstance(value, dict):
        raise InputError(f"{document.path}: judge replies: want one JSON object of replies by id")
    if set(value) == {"judge", "replies"}:
        reader = value["judge"].get("reader", "official")
        if reader not in get_args(Reader):
            raise InputError(
                f"{document.path}: judge.reader is {reader!r}; it may be: {', '.join(get_args(Reader))}"
            )
        return Replies(document.path, value["judge"], value["replies"])
    return Replies(document.path, UNKNOWN_JUDGE, value)


def runs_of(value: Any) -> list[Sequence[str]]:
    """The attempts of each run: a list of lists, or a list for the only run."""
    return [value] if all(isinstance(reply, str) for reply in value) else list(value)
