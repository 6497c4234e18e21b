"""Marks as people write them: another spelling, `<image>` for a clip, or none at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from videollava.data.records.conversion import FIELDS, ROLES, TURNS, all_paths, content_of, conversation_of
from videollava.data.records.formats.format import Item
from videollava.data.records.marks import MediumKind, find_marks, likenesses, mark
from videollava.data.records.rejected import Notes

__all__ = ["mend_marks", "put_marks"]


def mend_marks(item: Item, place: str, notes: Notes) -> Item:
    """The item with marks of its media where only one thing can be meant; else as it is.

    Its media are all of one kind, and where that kind's marks should stand there are as many likenesses (`<Image>`,
    `[video]`, `<image_1>`), or as many `<image>` of a record about clips, as in data made for LLaVA-NeXT-Video.
    """
    turns = conversation_of(item)
    asked = _questions(turns)
    if not asked or not any("<" in text or "[" in text for text in asked):
        return item
    marks = [found for text in asked for found in find_marks(text)]
    if marks and (marks[0] != "image" or not any(field in item for field in FIELDS["video"])):
        return item
    paths = {kind: found for kind, found in all_paths(item, place).items() if found}
    if len(paths) != 1:
        return item
    ((kind, named),) = paths.items()
    count = len(named)
    like = [] if marks else [found for text in asked for found in likenesses(text)]
    if kind == "video" and marks == ["image"] * count:
        notes["<image> stood for a clip and was read as <video>"] += 1
        return _replaced(item, turns, {mark("image"): mark("video")})
    if len(like) == count and all(_is_like(found, kind) for found in like):
        notes[f"marks of other spelling ([{kind}], <{kind.title()}>) were read as {mark(kind)}"] += 1
        return _replaced(item, turns, dict.fromkeys(like, mark(kind)))
    return item


def put_marks(item: Item, place: str, notes: Notes) -> Item:
    """The item with a mark before its first question for each medium, of a kind that no mark stands for."""
    turns = conversation_of(item)
    asked = _questions(turns)
    if not asked:
        return item
    found = {kind for text in asked for kind in find_marks(text)}
    paths = all_paths(item, place)
    missing = [mark(kind) for kind in paths if kind not in found for _ in paths[kind]]
    if not missing:
        return item
    notes["media without marks stand before the first question"] += 1
    first = next(index for index, turn in enumerate(turns) if _is_question(turn))
    text = "\n".join([*missing, content_of(turns[first])])
    return _with_turns(item, [*turns[:first], _saying(turns[first], text), *turns[first + 1 :]])


def _questions(turns: Any) -> list[str]:
    """Texts of the human turns; none where one is no text (its parts name the media)."""
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        return []
    texts = [content_of(turn) for turn in turns if _is_question(turn)]
    return texts if all(isinstance(text, str) for text in texts) else []


def _is_question(turn: Any) -> bool:
    role = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
    return isinstance(role, str) and ROLES.get(role.strip().lower()) == "human"


def _is_like(found: str, kind: MediumKind) -> bool:
    low = found.lower()
    return kind in low or (kind == "video" and "image" in low)


def _replaced(item: Item, turns: Sequence[Any], by: Mapping[str, str]) -> Item:
    changed = []
    for turn in turns:
        if _is_question(turn):
            text = content_of(turn)
            for old, new in by.items():
                text = text.replace(old, new)
            turn = _saying(turn, text)
        changed.append(turn)
    return _with_turns(item, changed)


def _saying(turn: Mapping[str, Any], text: str) -> Item:
    return {**turn, "value" if "value" in turn else "content": text}


def _with_turns(item: Item, turns: list[Any]) -> Item:
    return {**{name: item[name] for name in item if name not in TURNS}, TURNS[0]: turns}
