"""Tokenises records into rows of a split; runs in worker processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from videollava.data.prepare.remembered import digest_of_code, remember
from videollava.data.prepare.row import Row
from videollava.data.prepare.tables import TEST
from videollava.data.records.marks import find_marks
from videollava.data.records.readers import Rejected
from videollava.data.text.bounds import Bound, TooLongError
from videollava.data.text.vocabulary import TrainedTokenizer, load_tokenizer
from videollava.errors import InputError

__all__ = ["Task", "encode_rows"]


Count = list[Any]  # text, target and cut tokens, words that look like marks; or a reason and its detail
CODE = ("text", "records/marks.py", "prepare/rows.py")
LIBRARIES = ("tokenizers", "transformers", "sentencepiece")


@dataclass(frozen=True)
class Task:
    """Rows to encode, with the tokens that each picture and clip takes in the language model.

    `tokenizer` is its folder; `trained` whether train_tokenizer made it. `bounds`: how long samples of a split may
    be in training. `memory`: the folder of what was counted before.
    """

    tokenizer: Path
    trained: bool
    image_tokens: int
    video_tokens: int
    bounds: Mapping[str, Bound]
    rows: list[Row]
    memory: Path | None = None


def encode_rows(task: Task) -> tuple[int, list[tuple[str, dict[str, Any]] | Rejected]]:
    """How many rows there were, and each as (split, columns) or why it can't be used; order is kept."""
    counts = remember(task.memory, _parts(task), lambda: [_count(row, task) for row in task.rows])
    return len(task.rows), [_columns(row, count, task) for row, count in zip(task.rows, counts, strict=True)]


def _parts(task: Task) -> Iterator[Any]:
    """All that the counts follow from."""
    bounds = {split: asdict(bound) for split, bound in task.bounds.items()}
    yield [digest_of_code(CODE, LIBRARIES), _digest(task.tokenizer, _written(task)), task.trained, bounds]
    for row in task.rows:
        turns = [[turn.role, turn.text] for turn in row.record.turns]
        yield [
            row.split,
            row.into.startswith(TEST),
            row.id,
            turns,
            [medium.kind for medium in row.record.media],
        ]


def _count(row: Row, task: Task) -> Count:
    from videollava.data.text.prompts import cut, encode

    kinds = [medium.kind for medium in row.record.media]
    asked = row.into.startswith(TEST)
    template = "plain" if row.split == "pretrain" and not asked else "v1"
    where = f"record {row.id!r}"
    # Of a test, questions are never cut.
    bound = None if asked else task.bounds.get(row.split)
    try:
        whole = encode(row.record.turns, kinds, _tokenizer(task), template, where=where)
        encoded = whole
        if bound is not None:
            limit, name = bound.text_limit(kinds, where)
            encoded = cut(whole, limit, bounded_by=name, where=where)
    except TooLongError as error:
        return ["too long", str(error)]
    except InputError as error:
        return ["cannot be encoded", str(error)]
    words = 0 if kinds else sum(len(find_marks(turn.text)) for turn in row.record.turns)
    return [encoded.text_tokens, encoded.target_tokens, whole.text_tokens - encoded.text_tokens, words]


def _columns(row: Row, count: Count, task: Task) -> tuple[str, dict[str, Any]] | Rejected:
    record = row.record
    if isinstance(count[0], str):
        return Rejected(record.source, row.split, record.id, *count)
    text, targets, lost, words = count
    kinds = [medium.kind for medium in record.media]
    # Other kinds of pictures (depth, thermal) take as many tokens as an image.
    videos = kinds.count("video")
    images = len(kinds) - videos
    return row.into, {
        "id": record.id,
        "source": record.source,
        "kind": record.kind,
        "conversations": json.dumps([[turn.role, turn.text] for turn in record.turns], ensure_ascii=False),
        "media": list(row.media),
        "text_tokens": text,
        "target_tokens": targets,
        "images": images,
        "videos": videos,
        "answers": record.answers,
        "choices": record.choices,
        "tokens": text + images * task.image_tokens + videos * task.video_tokens,
        # For the writing and the summary, not the table.
        "copies": row.copies,
        "cut_tokens": lost,
        "words": words,
    }


def _tokenizer(task: Task) -> Any:
    return _load(task.tokenizer, task.trained, _written(task))


def _written(task: Task) -> int:
    """Its time of writing tells it from a tokenizer that lay in the same place before."""
    return task.tokenizer.stat().st_mtime_ns


@lru_cache(maxsize=1)
def _digest(folder: Path, written: int) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _load(folder: Path, trained: bool, written: int) -> Any:
    return TrainedTokenizer(folder) if trained else load_tokenizer(folder)
