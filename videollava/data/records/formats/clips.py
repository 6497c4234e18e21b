"""The generated clips: captions and questions of each, and a still of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from videollava.data.records.conversations import caption, conversation, conversations, draw
from videollava.data.records.formats.format import Catalogue, Entry
from videollava.data.records.items import read_items
from videollava.data.records.marks import KINDS
from videollava.data.records.record import Medium, Record
from videollava.data.records.rejected import Notes, RecordError, Rejected
from videollava.errors import InputError
from videollava.params import Source

__all__ = ["PAIRS", "read_clips"]

PAIRS = "test-toy_pairs"  # for encoders by themselves: scenes as each kind of medium, with a caption


def read_clips(source: Source, folder: Path, catalogue: Catalogue, notes: Notes) -> Iterator[Entry]:
    for split in ("train", "test"):
        file = folder / f"{split}.jsonl"
        if not file.is_file():
            raise InputError(f"{file}: not found; run `videollava fetch` again")
        with file.open("rb") as stream:
            told: set[str] = set()
            for index, entry in enumerate(read_items(stream, str(file))):
                place = f"{file}: line {index + 1}"
                try:
                    yield from _clip(source, split, entry, place, told)
                except RecordError as error:
                    yield Rejected(source.name, file.name, f"line {index + 1}", error.reason, str(error))


def _clip(source: Source, split: str, entry: Any, place: str, told: set[str]) -> Iterator[tuple[str, Record]]:
    """told: captions of the scenes of the test that were there before: each asks for one scene."""
    if isinstance(entry, RecordError):
        raise entry
    match entry:
        case {
            "id": str(name),
            "video": str(path),
            "captions": [str(first), *more],
            "questions": list(questions),
        }:
            pairs = [(question, answer) for question, answer, _ in map(_clip_question, questions)]
            if not pairs or not all(isinstance(text, str) for text in more):
                raise RecordError(
                    "malformed record", f"{place}: captions must be texts, questions must not be empty"
                )
        case _:
            raise RecordError("malformed record", f"{place}: must have id, video, captions and questions")
    medium = Medium("video", path)
    if split == "test":
        for number, (question, answer, kind) in enumerate(questions):
            item = f"{name}-{number}"
            yield "test-toy_video_qa", conversation(item, source, medium, [(question, answer)], kind)
        if entry.get("senses") and first not in told:
            told.add(first)
            for one in (medium, *_senses(entry)):
                yield PAIRS, caption(f"{name}-{one.kind}", source, one, first)
        return
    yield "align", caption(name, source, medium, first)
    match entry.get("still"):
        case {"image": str(path), "caption": str(text)}:
            yield "align", caption(f"{name}-still", source, Medium("image", path), text)
    for one in _senses(entry):
        # Each kind in words of its own, so that all are said.
        words = draw(source, f"{name}-{one.kind}").choice([first, *more])
        yield "align", caption(f"{name}-{one.kind}", source, one, words)
    yield "pretrain", caption(name, source, medium, draw(source, name).choice([first, *more]))
    yield from conversations(name, source, medium, pairs)


def _senses(entry: Any) -> Iterator[Medium]:
    """As what else the scene is there."""
    match entry.get("senses"):
        case dict(senses):
            for kind in KINDS:
                if isinstance(senses.get(kind), str):
                    yield Medium(kind, senses[kind])


def _clip_question(raw: Any) -> tuple[str, str, str]:
    match raw:
        case [str(question), str(answer), str(kind)]:
            return question, answer, kind
    raise RecordError("malformed record", f"a question must be [question, answer, kind], not {raw!r}")
