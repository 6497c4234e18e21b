"""How long records will be, and what training will cut of them: counted by a tokenizer, or estimated without one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from videollava.data.records.record import Record
from videollava.data.text.bounds import Bound, TooLongError
from videollava.errors import InputError

__all__ = ["Length", "Task", "measure"]

CHARACTERS = 4  # of a Latin script a token, roughly; of others, one
SYSTEM, A_TURN = 38, 6  # tokens that template v1 adds, in all and a turn


@dataclass(frozen=True, slots=True)
class Length:
    """tokens: of text and media, before any cut. cut: tokens of text that training takes off its end.

    refused: why no cut would help, else "".
    """

    tokens: int
    cut: int = 0
    refused: str = ""


@dataclass(frozen=True)
class Task:
    """Records to measure. tokenizer: its folder, None to estimate. bound: of the stage that trains on them."""

    tokenizer: Path | None
    image_tokens: int
    video_tokens: int
    template: str
    bound: Bound | None
    records: list[Record]


def measure(task: Task) -> list[Length]:
    """The length of each record; runs in worker processes."""
    return [_measure(record, task) for record in task.records]


def _measure(record: Record, task: Task) -> Length:
    kinds = [medium.kind for medium in record.media]
    videos = kinds.count("video")
    visual = (len(kinds) - videos) * task.image_tokens + videos * task.video_tokens
    try:
        limit, name = (1 << 62, "") if task.bound is None else task.bound.text_limit(kinds)
        if task.tokenizer is None:
            text = _estimate(record, task.template)
            return Length(text + visual, max(0, text - limit))
        text, kept = _count(record, kinds, task, limit, name)
    except TooLongError as error:
        return Length(visual, refused=str(error))
    except InputError as error:
        return Length(visual, refused=f"cannot be encoded: {error}")
    return Length(text + visual, text - kept)


def _count(record: Record, kinds: Sequence[str], task: Task, limit: int, name: str) -> tuple[int, int]:
    """Tokens of text, and those that are left."""
    from videollava.data.text.prompts import cut, encode

    assert task.tokenizer is not None
    tokenizer = _load(task.tokenizer)
    whole = encode(record.turns, kinds, tokenizer, task.template, where=f"record {record.id!r}")
    return whole.text_tokens, cut(whole, limit, bounded_by=name).text_tokens


def _estimate(record: Record, template: str) -> int:
    turns = record.turns[1:] if template == "plain" else record.turns
    tokens = 1 if template == "plain" else SYSTEM + A_TURN * len(turns)
    for turn in turns:
        size, plain = len(turn.text), len(turn.text)
        if not turn.text.isascii():
            plain = len(turn.text.encode("ascii", "ignore"))
        tokens += plain // CHARACTERS + size - plain
    return tokens


@lru_cache(maxsize=1)
def _load(folder: Path) -> Any:
    from videollava.data.text.vocabulary import TRAINED, TrainedTokenizer, load_tokenizer

    settings = folder / "tokenizer_config.json"
    trained = settings.is_file() and json.loads(settings.read_text()).get("tokenizer_class") == TRAINED
    if trained:
        tokenizer = TrainedTokenizer(folder)
        if tokenizer.bos_token_id is not None:  # one of ours: seconds of importing are saved
            return tokenizer
    return load_tokenizer(folder)
