"""One thing as several kinds of medium, with its caption.

In: the split test-NAME of data/index, pairs of any kinds (`toy_pairs`: generated scenes with `senses`). What has the
same caption is the same thing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from videollava.data.load.shards import Shards
from videollava.data.modalities import KINDS
from videollava.data.prepare.tables import load_split
from videollava.errors import InputError

__all__ = ["Pairs", "read_pairs"]


@dataclass(frozen=True)
class Pairs:
    """By kind, of each caption the number of its medium in data/index. sums: of each medium its SHA-256."""

    name: str
    media: Mapping[str, Mapping[str, int]]
    sums: Mapping[int, str]


def read_pairs(prepared: Path, name: str) -> Pairs:
    """InputError where the split holds other than pairs, or two media of one kind with the same caption."""
    split, shards = load_split(prepared, f"test-{name}"), Shards(prepared)
    found: dict[str, dict[str, int]] = {}
    for row in split.select(["id", "conversations", "media"]).to_pylist():
        turns = json.loads(row["conversations"])
        if len(row["media"]) != 1 or len(turns) != 2:
            raise InputError(f"test-{name}: {row['id']}: a pair is one medium and one caption")
        number = row["media"][0]
        kind = found.setdefault(shards.kind(number), {})
        if turns[1][1] in kind:
            raise InputError(f"test-{name}: {row['id']}: its caption {turns[1][1]!r} is another's too")
        kind[turns[1][1]] = number
    sums = shards.media["sha256"]
    used = {number for kind in found.values() for number in kind.values()}
    ordered: dict[str, dict[str, int]] = {kind: found[kind] for kind in KINDS if kind in found}
    return Pairs(name, ordered, {number: str(sums[number].as_py()) for number in used})
