"""Tokenises records into rows of a split; runs in worker processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from videollava.data.prepare.row import Row
from videollava.data.prepare.tables import valid_part
from videollava.data.records.marks import find_marks
from videollava.data.records.readers import Rejected
from videollava.data.text.bounds import Bound, TooLongError
from videollava.data.text.vocabulary import TrainedTokenizer, load_tokenizer
from videollava.errors import InputError

__all__ = ["Task", "encode_rows"]


@dataclass(frozen=True)
class Task:
    """Rows to encode, with the tokens that each picture and clip takes in the language model.

    `tokenizer` is its folder; `trained` whether train_tokenizer made it. `bounds`: how long samples of a split may
    be in training.
    """

    tokenizer: Path
    trained: bool
    image_tokens: int
    video_tokens: int
    bounds: Mapping[str, Bound]
    rows: list[Row]


def encode_rows(task: Task) -> tuple[int, list[tuple[str, dict[str, Any]] | Rejected]]:
    """How many rows there were, and each as (split, columns) or why it can't be used; order is kept."""
    return len(task.rows), [_encode(row, task) for row in task.rows]


def _encode(row: Row, task: Task) -> tuple[str, dict[str, Any]] | Rejected:
    from videollava.data.text.prompts import cut, encode

    record = row.record
    kinds = [medium.kind for medium in record.media]
    template = "plain" if row.split == "pretrain" else "v1"
    where = f"record {record.id!r}"
    bound = task.bounds.get(row.split)
    try:
        whole = encode(record.turns, kinds, _tokenizer(task), template, where=where)
        encoded = whole
        if bound is not None:
            limit, name = bound.text_limit(kinds, where)
            encoded = cut(whole, limit, bounded_by=name, where=where)
    except TooLongError as error:
        return Rejected(record.source, row.split, record.id, "too long", str(error))
    except InputError as error:
        return Rejected(record.source, row.split, record.id, "cannot be encoded", str(error))
    # Other kinds of pictures (depth, thermal) take as many tokens as an image.
    videos = kinds.count("video")
    images = len(kinds) - videos
    return valid_part(row.split) if row.held_out else row.split, {
        "id": record.id,
        "source": record.source,
        "kind": record.kind,
        "conversations": json.dumps([[turn.role, turn.text] for turn in record.turns], ensure_ascii=False),
        "media": list(row.media),
        "text_tokens": encoded.text_tokens,
        "target_tokens": encoded.target_tokens,
        "images": images,
        "videos": videos,
        "tokens": encoded.text_tokens + images * task.image_tokens + videos * task.video_tokens,
        # For the summary, not the table.
        "cut_tokens": whole.text_tokens - encoded.text_tokens,
        "words": 0 if kinds else sum(len(find_marks(turn.text)) for turn in record.turns),
    }


def _tokenizer(task: Task) -> Any:
    # Its time of writing tells it from a tokenizer that lay in the same place before.
    return _load(task.tokenizer, task.trained, task.tokenizer.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _load(folder: Path, trained: bool, written: int) -> Any:
    return TrainedTokenizer(folder) if trained else load_tokenizer(folder)
