"""A record: a conversation about media, in and out of LLaVA's JSON format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from videollava.data.archives import is_safe
from videollava.errors import InputError

__all__ = ["Medium", "MediumKind", "Record", "RecordError", "Role", "Turn", "from_llava", "mark", "to_llava"]

Role = Literal["human", "gpt"]
MediumKind = Literal["image", "video", "depth", "thermal", "audio"]
KINDS: tuple[MediumKind, ...] = get_args(MediumKind)
MARK = re.compile("<(" + "|".join(KINDS) + ")>")


class RecordError(InputError):
    """A record that can't be used; `reason` is the short name under which it is counted."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Medium:
    """`path` is the member's name in its source's archives."""

    kind: MediumKind
    path: str


@dataclass(frozen=True, slots=True)
class Record:
    """Media stand in the order of their marks in the human turns; `kind` is a question's type, or ""."""

    id: str
    source: str
    turns: tuple[Turn, ...]
    media: tuple[Medium, ...] = ()
    kind: str = ""


def mark(kind: MediumKind) -> str:
    """The mark of a medium in a human turn: `<image>`."""
    return f"<{kind}>"


def from_llava(item: Any, source: str, where: str = "") -> Record:
    """Check one item of LLaVA's format and turn it into a Record.

    Args:
        item: `{"id", "image": path or [paths], "video": ..., "conversations": [{"from", "value"}], "kind"?}`.
        source: name of the source in params.yaml.
        where: file and place, for the error's text.

    Raises:
        RecordError: (an InputError) names place, record, field and remedy.
    """
    if not isinstance(item, Mapping):
        raise RecordError("malformed record", f"{where or source}: not an object but {type(item).__name__}")
    name = item.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise RecordError(
            "malformed record", f"{where or source}: field id: must be text or a number; give it one"
        )
    place = f"{where or source}: record {name!r}"
    turns = _turns(item.get("conversations"), place)
    media = _in_order(turns, {kind: _paths(item, kind, place) for kind in KINDS}, place)
    kind = item.get("kind", "")
    if not isinstance(kind, str):
        raise RecordError("malformed record", f"{place}: field kind: must be text, not {type(kind).__name__}")
    return Record(str(name), source, turns, media, kind)


def to_llava(record: Record) -> dict[str, Any]:
    """The same record in LLaVA's format; one medium of a kind is a path, several are a list."""
    item: dict[str, Any] = {"id": record.id}
    for kind in KINDS:
        paths = [medium.path for medium in record.media if medium.kind == kind]
        if paths:
            item[kind] = paths[0] if len(paths) == 1 else paths
    item["conversations"] = [{"from": turn.role, "value": turn.text} for turn in record.turns]
    if record.kind:
        item["kind"] = record.kind
    return item


def _turns(raw: Any, place: str) -> tuple[Turn, ...]:
    if not isinstance(raw, Sequence) or isinstance(raw, str) or not raw:
        raise RecordError(
            "no conversation", f"{place}: field conversations: must be a list of at least two turns"
        )
    turns = tuple(_turn(entry, f"{place}: field conversations[{index}]") for index, entry in enumerate(raw))
    # A greeting before the first question is legal (the templates leave it out).
    asked = turns[1:] if turns[0].role == "gpt" else turns
    if (
        not asked
        or len(asked) % 2
        or any(turn.role != ("human", "gpt")[i % 2] for i, turn in enumerate(asked))
    ):
        roles = ", ".join(turn.role for turn in turns[:6])
        raise RecordError(
            "turns out of order",
            f"{place}: field conversations: turns must alternate human, gpt and end with gpt, not: {roles}",
        )
    return turns


def _turn(entry: Any, place: str) -> Turn:
    role = entry.get("from") if isinstance(entry, Mapping) else None
    text = entry.get("value") if isinstance(entry, Mapping) else None
    if role not in ("human", "gpt") or not isinstance(text, str):
        raise RecordError(
            "malformed turn",
            f'{place}: must be {{"from": "human" or "gpt", "value": text}}; correct or drop the record',
        )
    if role == "gpt" and not text.strip():
        raise RecordError("empty answer", f"{place}: the answer is empty; fill it in or drop the record")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RecordError(
                "invalid text", f"{place}: half a surrogate pair; save the text as UTF-8 again"
            ) from error
    if role == "gpt" and MARK.search(text):
        raise RecordError(
            "mark in an answer", f"{place}: media marks belong in human turns; move or remove it"
        )
    return Turn(role, text)


def _paths(item: Mapping[str, Any], kind: MediumKind, place: str) -> list[str]:
    raw = item.get(kind)
    paths = [] if raw is None else [raw] if isinstance(raw, str) else raw
    if not isinstance(paths, Sequence) or not all(isinstance(path, str) for path in paths):
        raise RecordError("malformed record", f"{place}: field {kind}: must be a path or a list of paths")
    for path in paths:
        if not is_safe(path):
            raise RecordError(
                "unsafe path",
                f"{place}: field {kind}: {path!r} leads outside its archive; write the name of its member",
            )
    return [path.removeprefix("./") for path in paths]


def _in_order(
    turns: tuple[Turn, ...], paths: Mapping[MediumKind, list[str]], place: str
) -> tuple[Medium, ...]:
    marks = [found for turn in turns if turn.role == "human" for found in MARK.findall(turn.text)]
    for kind, named in paths.items():
        count = marks.count(kind)
        if count != len(named):
            raise RecordError(
                "marks and media differ",
                f"{place}: field {kind}: {len(named)} paths but {count} <{kind}> marks in its human turns; "
                "write one mark for each",
            )
    rest = {kind: iter(named) for kind, named in paths.items()}
    return tuple(Medium(kind, next(rest[kind])) for kind in marks)
