"""What changed from one index to another: records and media, by source, with a few of each to look at.

A record is the same one where source and id are; it changed where its text or its media's bytes did, and moved where
only its split did. Media are told by their bytes: one that another replaced is removed, and the other added.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from videollava.data.versions.indexes import Indexed

__all__ = ["KINDS", "Diff", "Example", "compare"]

KINDS = ("added", "removed", "changed", "moved")
SHOWN = 3  # of a kind and source
TEXT = 300


@dataclass(frozen=True)
class Example:
    """A record that differs: `turns` its first question and answer, `media` their numbers in the index `of`."""

    what: str
    source: str
    id: str
    split: str
    turns: list[list[str]]
    media: list[int]
    of: Indexed
    before: str = ""  # moved: the split it was in


@dataclass
class Diff:
    """By source, how many records were added, removed, changed, moved, and how many media added and removed."""

    old: Indexed
    new: Indexed
    records: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    media: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    examples: list[Example] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.records and not self.media

    def as_json(self) -> dict[str, Any]:
        """The counts."""
        return {
            "from": self.old.name,
            "to": self.new.name,
            "records": {name: dict(counts) for name, counts in sorted(self.records.items())},
            "media": {name: dict(counts) for name, counts in sorted(self.media.items())},
        }


@dataclass(frozen=True, slots=True)
class _Found:
    """A record that one index has and the other has not like this. key: of its source and id; place: in its split."""

    key: bytes
    content: bytes
    split: str
    place: int
    source: str


def compare(old: Indexed, new: Indexed) -> Diff:
    """What `new` has otherwise than `old`. Memory: some hundred bytes a record of `old`, and some more that differ."""
    diff = Diff(old, new)
    _compare_media(diff)
    left: Counter[bytes] = Counter(key + content for key, content, *_ in _digests(old))
    came = list(_unmatched(new, left))
    gone = list(_unmatched(old, +left, missing=True))
    _match(diff, gone, came)
    return diff


def _compare_media(diff: Diff) -> None:
    held, now = set(diff.old.hashes), set(diff.new.hashes)
    for what, index, other in (("added", diff.new, held), ("removed", diff.old, now)):
        for sha256, source in zip(index.hashes, index.sources, strict=True):
            if sha256 not in other:
                diff.media[source][what] += 1


def _digests(index: Indexed) -> Iterator[tuple[bytes, bytes, str, int, dict[str, Any]]]:
    """Of each record: of its source and id; of its split and content; the split, the place in it, the row."""
    hashes = index.hashes
    for split in index.splits():
        for place, row in enumerate(index.rows(split)):
            key = hashlib.blake2b(f"{row['source']}\0{row['id']}".encode(), digest_size=8)
            content = hashlib.blake2b(f"{split}\0".encode(), digest_size=16)
            content.update(_content(row, hashes))
            yield key.digest(), content.digest(), split, place, row


def _content(row: dict[str, Any], hashes: list[bytes]) -> bytes:
    said = f"{row['kind']}\0{row['conversations']}\0".encode()
    return hashlib.blake2b(said + b"".join(hashes[one] for one in row["media"]), digest_size=16).digest()


def _unmatched(index: Indexed, left: Counter[bytes], missing: bool = False) -> Iterator[_Found]:
    """Records that `left` does not hold, each of its entries taken once (missing: those that it does)."""
    for key, content, split, place, row in _digests(index):
        there = left.get(key + content, 0) > 0
        if there:
            left[key + content] -= 1
        if there == missing:
            yield _Found(key, _content(row, index.hashes), split, place, sys.intern(row["source"]))


def _match(diff: Diff, gone: list[_Found], came: list[_Found]) -> None:
    before: dict[bytes, list[_Found]] = defaultdict(list)
    for one in gone:
        before[one.key].append(one)
    for one in came:
        others = before[one.key]
        alike = next((other for other in others if other.content == one.content), None)
        other = alike or (others[0] if others else None)
        if other:
            others.remove(other)
        what = "moved" if alike else "changed" if other else "added"
        _count(diff, what, one, diff.new, other.split if alike and other else "")
    for rest in before.values():
        for one in rest:
            _count(diff, "removed", one, diff.old)


def _count(diff: Diff, what: str, found: _Found, of: Indexed, before: str = "") -> None:
    diff.records[found.source][what] += 1
    if diff.records[found.source][what] <= SHOWN:
        row = of.row(found.split, found.place)
        turns = [[role, text[:TEXT]] for role, text in json.loads(row["conversations"])[:2]]
        shown = Example(what, row["source"], row["id"], found.split, turns, row["media"], of, before)
        diff.examples.append(shown)
