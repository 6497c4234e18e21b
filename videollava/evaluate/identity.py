"""What was asked, by content: the sum of each medium, and one hash of a benchmark's questions, media and gold.

Two scores are comparable where their hashes are the same: numbers and paths of media may change, bytes may not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from videollava.data.load.shards import Shards
from videollava.data.prepare.golds import looks_like_data
from videollava.evaluate.questions import Item, Medium, QuestionSet

__all__ = ["SHORT", "hash_questions", "short_sums", "sum_media"]

READERS = 8
SHORT = 16  # hex digits of a medium's sum in a row of predictions


def sum_media(sets: Sequence[QuestionSet], workspace: Path) -> dict[Medium, str]:
    """SHA-256 of every medium that is there; of data/index as `index` wrote it down, of files as they are."""
    media = dict.fromkeys(medium for one in sets for item in one.items for medium in item.seen)
    numbers = [medium for medium in media if isinstance(medium[1], int)]
    known = Shards(workspace / "data/index").media["sha256"].to_pylist() if numbers else []
    found = {medium: str(known[int(medium[1])]) for medium in numbers}
    files = [medium for medium in media if isinstance(medium[1], str) and (workspace / medium[1]).is_file()]
    with ThreadPoolExecutor(READERS) as pool:
        sums = pool.map(_sum, (workspace / str(medium[1]) for medium in files))
    return found | dict(zip(files, sums, strict=True))


def short_sums(item: Item, sums: Mapping[Medium, str]) -> list[str]:
    """The beginnings of its media's sums, "" for one that is missing."""
    return [sums.get(medium, "")[:SHORT] for medium in item.seen]


def hash_questions(one: QuestionSet, sums: Mapping[Medium, str]) -> str:
    """SHA-256 over id, text, media and gold of every question, and over the benchmark's own files; order is nothing."""
    asked = sorted(
        json.dumps([item.id, item.question, item.answer, [[m[0], sums.get(m, "")] for m in item.seen]])
        for item in one.items
    )
    told = hashlib.sha256("\n".join([*asked, *sorted(map(_sum, _files(one.gold)))]).encode())
    return told.hexdigest()


def _files(gold: Sequence[Path]) -> Iterator[Path]:
    for path in gold:
        inside = [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())
        yield from (file for file in inside if looks_like_data(file))


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
