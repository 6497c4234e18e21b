"""easy-VQA, as its package ships it: pictures of one coloured shape, and questions about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from videollava.data.archives.listing import open_member
from videollava.data.records.conversations import caption, conversation, conversations
from videollava.data.records.formats.format import Catalogue, Entry
from videollava.data.records.items import read_items
from videollava.data.records.record import Medium, Record
from videollava.data.records.rejected import Notes, RecordError, Rejected
from videollava.data.toy.scenes import COLORS, SHAPES
from videollava.errors import InputError
from videollava.params import Source

__all__ = ["known_facts", "read_easy_vqa"]


def read_easy_vqa(source: Source, folder: Path, catalogue: Catalogue, notes: Notes) -> Iterator[Entry]:
    for split in ("train", "test"):
        file = f"{split}/questions.json"
        if file not in catalogue:
            raise InputError(f"{folder}: no member {file} in its archives; run `videollava fetch` again")
        asked: dict[int, list[tuple[str, str]]] = {}
        with open_member(catalogue[file]) as stream:
            for index, entry in enumerate(read_items(stream, file)):
                try:
                    question, answer, image = _easy_question(entry, f"{file}: question {index}")
                except RecordError as error:
                    yield Rejected(source.name, file, str(index), error.reason, str(error))
                    continue
                asked.setdefault(image, []).append((question, answer))
                if split == "test":
                    medium = Medium("image", f"test/images/{image}.png")
                    kind = _easy_kind(answer)
                    yield (
                        "test-easy_vqa",
                        conversation(f"test-{index}", source, medium, [(question, answer)], kind),
                    )
        if split == "train":
            for image, pairs in sorted(asked.items()):
                yield from _easy_training(source, image, pairs)


def _easy_question(entry: Any, place: str) -> tuple[str, str, int]:
    match entry:
        case [str(question), str(answer), int(image)] if question.strip() and _easy_kind(answer):
            return question, answer, image
    raise RecordError(
        "malformed record", f"{place}: must be [question, one of easy-VQA's 13 answers, image number]"
    )


def _easy_kind(answer: str) -> str:
    kinds = {
        "yes": "yes_no",
        "no": "yes_no",
        **dict.fromkeys(COLORS, "color"),
        **dict.fromkeys(SHAPES, "shape"),
    }
    return kinds.get(answer, "")


def _easy_training(source: Source, image: int, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, Record]]:
    name, medium = f"train-{image}", Medium("image", f"train/images/{image}.png")
    color, shape = known_facts(pairs)
    if color and shape:
        yield "align", caption(name, source, medium, f"a {color} {shape}")
    if color or shape:
        yield (
            "pretrain",
            caption(name, source, medium, f"a {color or ''} {shape or 'shape'}".replace("  ", " ")),
        )
    yield from conversations(name, source, medium, pairs)


def known_facts(pairs: Sequence[tuple[str, str]]) -> tuple[str | None, str | None]:
    """Colour and shape that an image's questions and answers tell or leave as the only possibility."""
    colors, shapes = set(COLORS), set(SHAPES)
    for question, answer in pairs:
        words = set(question.rstrip("?").split())
        said = words | {answer} if answer not in ("yes", "no") else words
        present = answer not in ("yes", "no") or (answer == "yes") != bool(words & {"no", "not"})
        for left, every in ((colors, COLORS), (shapes, SHAPES)):
            named = said & set(every)
            if named and present:
                left &= named
            else:
                left -= named
    return (
        next(iter(colors)) if len(colors) == 1 else None,
        next(iter(shapes)) if len(shapes) == 1 else None,
    )
